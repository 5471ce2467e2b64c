"""Measures of a result's pictures: against the reference's, one PairFrame after another, and how sure a figure is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.ndimage import correlate1d
from torch import nn

from ..errors import OptionError
from .clip_pair import PairFrame
from .picture_networks import I3D_WIDTH, INCEPTION_WIDTH, NUM_FRAMES, REFERENCE_START

# How alike two pictures are: PSNR and SSIM.

WINDOW, SIGMA = 11, 1.5  # px, of SSIM's Gaussian window (Wang et al., 2004)
STABILISERS = (0.01, 0.03)  # of luminance and contrast, in units of the range of values


def region_psnr(picture: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB inside a boolean region (H, W) of two (H, W, 3) uint8 pictures."""
    return psnr_of(float(((picture[region].astype(np.float64) - truth[region]) ** 2).mean()))


def psnr_of(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error in grey levels of 255."""
    return float("inf") if mean_squared_error == 0 else float(10 * np.log10(255**2 / mean_squared_error))


def squared_error(picture: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared error of two uint8 pictures of one shape, in squared grey levels."""
    _check(picture, truth)
    return float(((picture.astype(np.float64) - truth) ** 2).mean())


def ssim(picture: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of two (H, W, 3) uint8 pictures, 1 for equal ones.

    The standard one: Gaussian window of 11 x 11 px and sigma 1.5, K 0.01 and 0.03, variances divided by N, each channel
    by itself, averaged over channels and over the windows that lie inside the picture. That is scikit-image's with
    `gaussian_weights` and `use_sample_covariance=False`; torchmetrics' differs by also averaging over the border, where
    it mirrors the picture. Raises OptionError for pictures of other shapes or smaller than the window.
    """
    _check(picture, truth)
    if min(picture.shape[:2]) < WINDOW:
        raise OptionError(f"a picture of {picture.shape[1]} x {picture.shape[0]}; SSIM needs {WINDOW} x {WINDOW} px")
    first, second = picture.astype(np.float64), truth.astype(np.float64)
    mean, other = _blurred(first), _blurred(second)
    variance = _blurred(first**2) - mean**2
    other_variance = _blurred(second**2) - other**2
    covariance = _blurred(first * second) - mean * other
    luminance, contrast = ((k * 255) ** 2 for k in STABILISERS)
    likeness = (2 * mean * other + luminance) * (2 * covariance + contrast)
    likeness /= (mean**2 + other**2 + luminance) * (variance + other_variance + contrast)
    return float(likeness.mean())


def _blurred(picture: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H - 10, W - 10, C): where the whole window lies inside."""
    reach = WINDOW // 2
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIGMA) ** 2)
    kernel /= kernel.sum()
    rows = correlate1d(picture, kernel, axis=0)[reach:-reach]
    return correlate1d(rows, kernel, axis=1)[:, reach:-reach]


def _check(picture: np.ndarray, truth: np.ndarray) -> None:
    if picture.shape != truth.shape or picture.dtype != np.uint8 or truth.dtype != np.uint8:
        raise OptionError(
            f"pictures of {picture.shape} {picture.dtype} and {truth.shape} {truth.dtype}; expected two uint8 pictures "
            "of one shape"
        )


# The Frechet distance of two clouds of features, which FID and FVD are.


class FeatureCloud:
    """Mean and covariance of feature vectors that come in batches, in float64 and in constant memory."""

    def __init__(self, width: int):
        self.count = 0
        self._sum, self._products = np.zeros(width), np.zeros((width, width))

    def add(self, features: np.ndarray) -> None:
        """(N, D), any float."""
        features = np.asarray(features, np.float64)
        self.count += len(features)
        self._sum += features.sum(0)
        self._products += features.T @ features

    def __add__(self, other: "FeatureCloud") -> "FeatureCloud":
        """All vectors of both."""
        whole = FeatureCloud(len(self._sum))
        whole.count = self.count + other.count
        whole._sum, whole._products = self._sum + other._sum, self._products + other._products
        return whole

    @property
    def mean(self) -> np.ndarray:
        """(D,)"""
        return self._sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), divided by N - 1."""
        return (self._products - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)


def frechet_distance(first: FeatureCloud, second: FeatureCloud) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), 0 for equal clouds.

    The trace of the root is the sum of the roots of the eigenvalues of C1 C2, taken of the symmetric S C2 S with
    S = C1^(1/2): no complex parts, and no noise added where there are fewer vectors than dimensions (then the distance
    is defined, but biased: compare only distances of as many vectors). Raises OptionError below two vectors.
    """
    if min(first.count, second.count) < 2:
        raise OptionError(f"{first.count} and {second.count} feature vectors; expected two of each at least")
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ second.covariance @ root)
    difference = first.mean - second.mean
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * np.sqrt(np.clip(shared, 0, None)).sum()
    return float(max(difference @ difference + spread, 0.0))


# What a metric found in a clip, and how sure that is.

RESAMPLES = 1000
COVERED = 0.95
BLOCK = 25  # frames: neighbours resemble each other, so they are drawn together


def mean_of(values: np.ndarray) -> float:
    """The usual statistic."""
    return float(np.mean(values))


@dataclass(frozen=True)
class Measured:
    """values: (N, ...), a row for each frame or window; statistic: rows -> the score."""

    values: np.ndarray
    statistic: Callable[[np.ndarray], float] = mean_of

    @property
    def score(self) -> float:
        """NaN without any row."""
        return self.statistic(self.values) if len(self.values) else float("nan")

    def interval(self, seed: int = 0) -> tuple[float, float] | None:
        """Of the score in this one clip; None with fewer than four blocks of frames. See `block_interval`."""
        return block_interval(self.values, self.statistic, seed=seed)


@dataclass(frozen=True)
class MeasuredClouds:
    """Features of the result and of the reference, for a Frechet distance. There is no interval: a resampled cloud has
    fewer different vectors, so its distance is larger, and the interval would not hold the score."""

    output: FeatureCloud
    reference: FeatureCloud

    @property
    def score(self) -> float:
        """NaN with fewer than two vectors."""
        enough = min(self.output.count, self.reference.count) >= 2
        return frechet_distance(self.output, self.reference) if enough else float("nan")

    def interval(self, seed: int = 0) -> None:
        return None


def block_interval(
    values: np.ndarray, statistic: Callable[[np.ndarray], float] = mean_of, *, block: int = BLOCK, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic of consecutive rows, by a moving-block bootstrap (Kuensch, 1989)."""
    number = len(values) // block
    if number < 4:
        return None
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(values) - block + 1, (RESAMPLES, -(-len(values) // block)))
    rows = (starts[..., None] + np.arange(block)).reshape(RESAMPLES, -1)[:, : len(values)]
    return _percentiles([statistic(values[chosen]) for chosen in rows])


def clip_interval(scores: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over clips, by a bootstrap over the clips; None for fewer than four."""
    scores = np.asarray(scores, np.float64)
    if len(scores) < 4:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(scores), (RESAMPLES, len(scores)))
    return _percentiles(scores[drawn].mean(1))


def _percentiles(found) -> tuple[float, float] | None:
    found = np.asarray(found)
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)


# Measures of a result's pictures against the reference's, fed with one PairFrame after another.

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
    """network: latentsync.metrics.picture_networks.load_lpips"""

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
