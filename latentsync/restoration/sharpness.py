"""Sharpness and grain of a restored face, made those of the source's own face.

A restorer knows nothing of the camera: its face may be crisper or cleaner than the picture around it, and then looks
pasted in. The source's face at the same place shows what camera and coding leave of fine detail. Both are compared in
two bands of frequencies, inside the generated region; the ratio is averaged over time, since a closed mouth has less
detail than an open one.
"""

from functools import lru_cache

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from ..faces.alignment import canvas_size

SIGMAS = (1.0, 2.0)  # px of the working size, of the blurs between the bands
GAIN_RANGE = (0.25, 1.1)  # of a band; more would show as halos, and makes more of what is wrong
MEMORY = 0.9  # of the averages, a frame
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
        self._log_gains = torch.lerp(log_gains, self._log_gains, MEMORY)
        self._grain = missing + (self._grain - missing) * MEMORY
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
    first, second = (_blur(picture, sigma) for sigma in SIGMAS)
    return picture - first, first - second, second


def _blur(picture: Tensor, sigma: float) -> Tensor:
    kernel = 2 * int(3 * sigma) + 1
    return gaussian_blur2d(picture[None], (kernel, kernel), (sigma, sigma))[0]
