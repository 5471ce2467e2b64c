"""Generated faces, restored where that helps: only what was generated, steady over time, as sharp as the source.

The restorer's change of the face is taken, without its broad colours; steadied; added to the enlarged face; and the sum
is brought to the source's sharpness and grain.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from ..faces.align import canvas_size, frame_pixels_per_crop_pixel, resized_matrix, warp_faces
from ..model.masks import generation_mask
from ..model.vae import to_pixels
from ..options import LipSyncOptions
from .restorers import Restorer

# Sharpness and grain of a restored face, made those of the source's own face.
#
# A restorer knows nothing of the camera: its face may be crisper or cleaner than the picture around it, and then looks
# pasted in. The source's face at the same place shows what camera and coding leave of fine detail. Both are compared in
# two bands of frequencies, inside the generated region; the ratio is averaged over time, since a closed mouth has less
# detail than an open one.

SIGMAS = (1.0, 2.0)  # px of the working size, of the blurs between the bands
GAIN_RANGE = (0.25, 1.1)  # of a band; more would show as halos, and makes more of what is wrong
GAIN_MEMORY = 0.9  # of the averages, a frame
BLOCK = 8  # px, side of the squares in which grain is measured
QUIET = 0.25  # of them, the quietest, are taken for flat: what varies there is grain
LEAST_GRAIN = 0.004  # deviation in the range [-1, 1], half a grey level: less is rounding
LEAST_ENERGY = 1e-7
PROBE_SIDE = 128  # px, of noise on which the loss by resampling is tried


class SharpnessMatch:
    """Of the consecutive frames of one clip.

    region  (R, R), 1 where the face is generated, 0 where not
    seed    of the grain
    """

    def __init__(self, region: Tensor, seed: int):
        self._region = region / region.sum()
        self._blocks = F.avg_pool2d(region[None, None], BLOCK).flatten() > 0.9
        self._generator = torch.Generator().manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Forget the averages."""
        self._log_gains: Tensor | None = None
        self._grain = 0.0

    def __call__(self, face: Tensor, source: Tensor, scale: float) -> Tensor:
        """face, source: (3, R, R), about [-1, 1], of one frame -> the face, matched.

        scale: px of the frame per px of the picture: how coarse the source's grain is here.
        """
        noise = self._draw_noise(face.shape[-1], scale)
        noise_level, noise_energy = self._measure(noise)
        source_level, source_energy = self._measure(source.mean(0))
        *face_bands, rest = _bands(face)
        face_level, face_energy = self._measure(face.mean(0))
        grain = source_level / noise_level if source_level > LEAST_GRAIN else 0.0
        energy = (source_energy - grain**2 * noise_energy).clamp_min(LEAST_ENERGY)
        log_gains = 0.5 * (energy / face_energy.clamp_min(LEAST_ENERGY)).log()
        missing = (max(0.0, source_level**2 - face_level**2) ** 0.5) / noise_level if grain else 0.0
        if self._log_gains is None:
            self._log_gains, self._grain = log_gains, missing
        self._log_gains = torch.lerp(log_gains, self._log_gains, GAIN_MEMORY)
        self._grain = missing + (self._grain - missing) * GAIN_MEMORY
        gains = self._log_gains.exp().clamp(*GAIN_RANGE)
        lasting = self._grain / kept_grain(round(scale, 1))
        return rest + sum(gain * band for gain, band in zip(gains, face_bands, strict=True)) + lasting * noise

    def _measure(self, luma: Tensor) -> tuple[float, Tensor]:
        """(R, R) -> deviation of the finest band in quiet places, energies (2,) of the bands in the region."""
        fine, coarse, _ = _bands(luma[None])
        energies = torch.stack([(band[0] ** 2 * self._region).sum() for band in (fine, coarse)])
        blocks = F.avg_pool2d(fine[None] ** 2, BLOCK).flatten()[self._blocks]
        return float(blocks.quantile(QUIET).sqrt()), energies

    def _draw_noise(self, side: int, scale: float) -> Tensor:
        """(R, R) of deviation 1 at the frame's px, as coarse here as those are."""
        frame_side = max(1, min(side, round(side * scale)))
        noise = torch.randn((1, 1, frame_side, frame_side), generator=self._generator)
        return F.interpolate(noise, (side, side), mode="bicubic")[0, 0]


@lru_cache
def kept_grain(scale: float) -> float:
    """Share of the frame's grain that is left when the face is taken out of the frame and pasted back, by resampling.

    scale: px of the frame per px of the picture.
    """
    side = round(PROBE_SIDE * scale * 1.03)  # not a whole ratio, so that all positions between pixels occur
    noise = torch.randn((1, 1, side, side), generator=torch.Generator().manual_seed(0))
    width, height = canvas_size(PROBE_SIDE)  # through which faces are aligned
    canvas = F.interpolate(noise, (height, width), mode="bilinear")
    taken = F.interpolate(canvas, (PROBE_SIDE, PROBE_SIDE), mode="bicubic")
    return float(F.interpolate(taken, (side, side), mode="bicubic").std() / noise.std())


def _bands(picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(C, R, R) -> finest band, next band, the rest; their sum is the picture."""
    first, second = (_blur_band(picture, sigma) for sigma in SIGMAS)
    return picture - first, first - second, second


def _blur_band(picture: Tensor, sigma: float) -> Tensor:
    kernel = 2 * int(3 * sigma) + 1
    return gaussian_blur2d(picture[None], (kernel, kernel), (sigma, sigma))[0]


# What a restorer adds, held steady over time.
#
# A restorer sees one frame at a time, and small differences of its input change the detail it invents: the detail
# flickers. Here the detail of the frame before is carried along with the motion of the face and averaged in, wherever
# the face still looks the same there; the face itself, as it was generated, is not averaged and keeps its motion.

DETAIL_MEMORY = 0.7  # share of the frame before where the face stands still
TOLERANCE = 0.04  # of the range [-1, 1]: differences of the face at which the share has fallen to 1/e of that
FLOW_SIDE = 256  # px at which motion is estimated


class SteadyDetail:
    """Averages the detail of consecutive frames along the motion of the face."""

    def __init__(self, memory: float = DETAIL_MEMORY):
        self._memory = memory
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.reset()

    def reset(self) -> None:
        """Forget the frame before."""
        self._before: tuple[np.ndarray, Tensor, Tensor] | None = None

    def __call__(self, detail: Tensor, face: Tensor) -> Tensor:
        """One frame's detail (3, R, R) -> steadied; face: (3, R, R), about [-1, 1], to which it is added."""
        grey = _grey(face)
        if self._before is not None and self._memory > 0:
            grey_before, face_before, detail_before = self._before
            flow = self._flow.calc(grey, grey_before, None)  # from each pixel to where it was
            grid = _grid(flow, detail.shape[-1])
            moved = F.grid_sample(
                torch.cat([face_before, detail_before])[None],
                grid,
                mode="bilinear",
                padding_mode="border",
                align_corners=False,
            )[0]
            change = (moved[:3] - face).abs().mean(0, keepdim=True)
            change = F.avg_pool2d(change[None], 5, 1, 2)[0]
            share = self._memory * torch.exp(-change / TOLERANCE)
            detail = torch.lerp(detail, moved[3:], share)
        self._before = grey, face, detail
        return detail


def _grey(face: Tensor) -> np.ndarray:
    """(3, R, R) about [-1, 1] -> (h, h) uint8 at which motion is estimated."""
    side = min(FLOW_SIDE, face.shape[-1])
    small = F.interpolate(face.mean(0, keepdim=True)[None], (side, side), mode="area")[0, 0]
    return ((small.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def _grid(flow: np.ndarray, side: int) -> Tensor:
    """Flow (h, h, 2) in its own px -> sampling grid (1, side, side, 2) for grid_sample."""
    motion = torch.from_numpy(flow).permute(2, 0, 1)[None] * (2 / flow.shape[0])
    motion = F.interpolate(motion, (side, side), mode="bilinear", align_corners=False)[0]
    place = (torch.arange(side) + 0.5) * (2 / side) - 1
    return torch.stack([place[None, :] + motion[0], place[:, None] + motion[1]], -1)[None]


# The restoration

GRID_SIDE, BROAD = 64, 2.0  # px; on such a grid, colours broader than a blur of this sigma stay the generated face's
SOFT_EDGE = 1 / 64  # of the face's side, of the region in which faces are restored


class FaceRestoration:
    """Restores the faces of a clip, in order.

    restorer    see restorers.py
    resolution  side S of the generated faces, px
    options     sr_ratio, sr_strength, mask, blend_mask and seed are what counts
    blend_mask  what suits the model, used where the options name none: sharpness is measured where faces are pasted
    memory      share of the frame before in the detail of a face that stands still; 0: every frame by itself
    matched     whether sharpness and grain are made the source's
    """

    def __init__(
        self,
        restorer: Restorer,
        resolution: int,
        options: LipSyncOptions,
        blend_mask: str | None = None,
        *,
        memory: float = DETAIL_MEMORY,
        matched: bool = True,
    ):
        self.restorer, self.side, self._resolution = restorer, resolution * options.sr_ratio, resolution
        self._ratio, self._strength = options.sr_ratio, options.sr_strength
        hole = (generation_mask(self.side, options.mask) < 0.5).float()
        self._region = _blur(hole[None, None], SOFT_EDGE * self.side)[0, 0]
        self._steady = SteadyDetail(memory)
        pasted = generation_mask(self.side, options.blend_mask or blend_mask or options.mask) < 0.5
        self._match = SharpnessMatch(pasted.float(), options.seed) if matched else None

    def reset(self) -> None:
        """Forget the frames before: where a face comes after a cut, or after one without a face."""
        self._steady.reset()
        if self._match is not None:
            self._match.reset()

    def in_frames(
        self, faces: Tensor, frames: Sequence[np.ndarray], matrices: Sequence[np.ndarray], sampling: str
    ) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Restore consecutive faces for the frames that they belong to.

        Args:
            faces: (F, 3, S, S) float32, about [-1, 1].
            frames: F of (H, W, 3) uint8.
            matrices: F of (2, 3), frame px to canvas px of the faces.
            sampling: see LipSyncOptions.

        Returns:
            The faces (F, 3, S', S'), what the frames show at that size (F, S', S', 3) uint8, and which of the faces
            were restored, (F,) bool.
        """
        resized = [resized_matrix(matrix, self._resolution, self.side) for matrix in matrices]
        sources = warp_faces(frames, np.stack(resized), self.side, sampling)
        scales = np.array([frame_pixels_per_crop_pixel(matrix, self._resolution) for matrix in matrices])
        faces, restored = self(faces, sources, scales)
        return faces, sources, restored

    @torch.inference_mode()
    def __call__(self, faces: Tensor, sources: np.ndarray, scales: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Consecutive faces -> (F, 3, S', S') float32 about [-1, 1], and which of them were restored, (F,) bool.

        faces    (F, 3, S, S) float32, about [-1, 1]
        sources  (F, S', S', 3) uint8: the source's own face at the working size S' = `side`
        scales   (F,): px of the frame per px of the generated square; where it is 1 or less, the frame could not show
                 what restoration adds: such faces are only enlarged
        """
        enlarged = _resize(faces, self.side)
        helps = (np.asarray(scales) > 1) & (self._strength > 0)
        if not helps.any():
            self._steady.reset()
            return enlarged, helps
        chosen = torch.from_numpy(helps)
        change = _resize(self.restorer(faces[chosen]), self.side) - enlarged[chosen]
        details = iter(change - _broad(change))
        finished = []
        for face, source, scale, is_restored in zip(
            enlarged, to_pixels(torch.from_numpy(sources)), scales, helps, strict=True
        ):
            if is_restored:
                restored = face + self._steady(next(details), face)
                if self._match is not None:
                    restored = self._match(restored, source, float(scale) / self._ratio)
                face = torch.lerp(face, restored, self._strength * self._region)
            else:
                self._steady.reset()
            finished.append(face)
        return torch.stack(finished), helps


def _resize(faces: Tensor, side: int) -> Tensor:
    return F.interpolate(faces, (side, side), mode="bicubic", antialias=True)


def _broad(pictures: Tensor) -> Tensor:
    small = F.interpolate(pictures, (GRID_SIDE, GRID_SIDE), mode="area")
    return F.interpolate(_blur(small, BROAD), pictures.shape[-2:], mode="bicubic", align_corners=False)


def _blur(pictures: Tensor, sigma: float) -> Tensor:
    kernel = 2 * int(2.5 * sigma) + 1
    return gaussian_blur2d(pictures, (kernel, kernel), (sigma, sigma), border_type="replicate")
