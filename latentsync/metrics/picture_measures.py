"""Measures of a result's pictures against the reference's, fed with one PairFrame after another."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import nn

from .clip_pair import PairFrame
from .frechet import FeatureCloud
from .i3d import NUM_FRAMES, REFERENCE_START
from .i3d import WIDTH as I3D_WIDTH
from .inception import WIDTH as INCEPTION_WIDTH
from .measured import Measured, MeasuredClouds
from .pictures import psnr_of, squared_error, ssim

Region = Literal["face", "frame"]
BATCH = 8  # pictures a network is given at once


def compared(frame: PairFrame, region: Region) -> tuple[np.ndarray, np.ndarray] | None:
    """The two pictures, uint8: aligned faces, or whole frames; None where there is no face."""
    if region == "frame":
        return frame.output, frame.reference
    return None if frame.face is None else (frame.face, frame.reference_face)


class PSNR:
    """dB of the mean squared error over all frames."""

    def __init__(self, region: Region):
        self._region, self._errors = region, []

    def add(self, frame: PairFrame) -> None:
        if pictures := compared(frame, self._region):
            self._errors.append(squared_error(*pictures))

    def result(self) -> Measured:
        return Measured(np.array(self._errors), lambda errors: psnr_of(float(errors.mean())))


class SSIM:
    def __init__(self, region: Region):
        self._region, self._values = region, []

    def add(self, frame: PairFrame) -> None:
        if pictures := compared(frame, self._region):
            self._values.append(ssim(*pictures))

    def result(self) -> Measured:
        return Measured(np.array(self._values))


class _Batched:
    """Pictures that are given to a network a few at a time."""

    def __init__(self, region: Region, device: torch.device | str):
        self._region, self._device, self._waiting = region, device, []

    def add(self, frame: PairFrame) -> None:
        if pictures := compared(frame, self._region):
            self._waiting.append(np.stack(pictures))
            if len(self._waiting) == BATCH:
                self._flush()

    def _flush(self) -> None:
        if self._waiting:
            pixels = torch.from_numpy(np.stack(self._waiting, 1)).to(self._device).permute(0, 1, 4, 2, 3)
            self._waiting = []
            with torch.inference_mode():
                self._look(*pixels.float().div(255))

    def _look(self, outputs: torch.Tensor, references: torch.Tensor) -> None:
        """(N, 3, h, w) each, in [0, 1]."""
        raise NotImplementedError


class LPIPS(_Batched):
    """network: latentsync.lpips_network.load_lpips"""

    def __init__(self, network: nn.Module, region: Region, device: torch.device | str = "cpu"):
        super().__init__(region, device)
        self._network, self._values = network, []

    def _look(self, outputs, references):
        self._values += self._network(outputs * 2 - 1, references * 2 - 1).flatten().tolist()

    def result(self) -> Measured:
        self._flush()
        return Measured(np.array(self._values))


class FID(_Batched):
    """network: (N, 3, h, w) in [0, 1] -> (N, width), inception.load_inception"""

    def __init__(
        self, network: nn.Module, region: Region, device: torch.device | str = "cpu", width: int = INCEPTION_WIDTH
    ):
        super().__init__(region, device)
        self._network = network
        self._clouds = [FeatureCloud(width) for _ in range(2)]

    def _look(self, outputs, references):
        for cloud, pictures in zip(self._clouds, (outputs, references), strict=True):
            cloud.add(self._network(pictures).cpu().numpy())

    def result(self) -> MeasuredClouds:
        self._flush()
        return MeasuredClouds(*self._clouds)


class FVD:
    """Of every 16 consecutive frames without a cut or a loss; reference: of frames 20 to 35 alone.

    features: (B, 16, H, W, 3) uint8 -> (B, D), as i3d.I3D; width: D
    """

    def __init__(
        self,
        features: Callable[[np.ndarray], np.ndarray],
        region: Region,
        reference: bool = False,
        width: int = I3D_WIDTH,
    ):
        self._features, self._region, self._only_first = features, region, reference
        self._clouds = [FeatureCloud(width) for _ in range(2)]
        self._held: list[tuple[np.ndarray, np.ndarray]] = []
        self._left_out = REFERENCE_START if reference else 0

    def add(self, frame: PairFrame) -> None:
        pictures = compared(frame, self._region)
        if self._left_out or (self._only_first and self._clouds[0].count):
            self._left_out = max(0, self._left_out - 1)
            return
        if pictures is None or (self._region == "face" and frame.restart):
            self._held = []
        if pictures is not None:
            self._held.append(pictures)
        if len(self._held) == NUM_FRAMES:
            for cloud, clip in zip(self._clouds, zip(*self._held, strict=True), strict=True):
                cloud.add(self._features(np.stack(clip)[None]))
            self._held = []

    def result(self) -> MeasuredClouds:
        return MeasuredClouds(*self._clouds)
