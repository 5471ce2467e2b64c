"""Colours of the generated face, held to those of the source frame.

Frame and pose are the same; only lips and jaw differ. So the broad colours of cheeks, neck and background inside the
generated region are known, and what the model or its VAE got wrong there can be taken back, without a look at the lips.
What it got wrong differs between skin and background: each is held to its like, or one would tint the other.
"""

import math

import torch
from einops import rearrange
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

GRID_SIDE = 64  # px; broad colours need no more
SIGMA = 4.0  # px of the grid, a sixteenth of the face: a cheek is wider, lips are thinner
STEP = 2  # px of the grid from one compared place to the next
SOFT = 1.0  # px of the grid: of the ellipse's edge
# Ellipse around every place the lips can be, in units of the face's side: the template puts them there.
MOUTH_CENTRE, MOUTH_HALF_AXES = (0.5, 0.67), (0.25, 0.17)
LEAST_WEIGHT = 1e-6  # inside the ellipse: colours come from around it
# Of [-1, 1]: what differs by so much is no longer alike. Alike is what was generated alike from a like source; then
# what was generated alike, as skin where the jaw was lowered; then all there is.
LIKE, OTHER_SOURCE, UNLIKE = 0.25, 0.1, 1e-4
# Where face and source differ by more they show different things, such as that jaw; what remains of the weight there,
# below the least, is none. Around the lips less is allowed: their colours come from the skin that is right, if any is.
AGREEING, LEAST_AGREEMENT, AGREEING_AROUND_LIPS = 0.2, 0.005, 0.15
NOTHING_KNOWN = 1e-6  # of weight: with less of it around, colours stay as they were generated


def mouth_weight(side: int) -> Tensor:
    """(side, side) float32: 1 outside the mouth's ellipse, nearly 0 inside."""
    place = (torch.arange(side) + 0.5) / side
    x = (place[None, :] - MOUTH_CENTRE[0]) / MOUTH_HALF_AXES[0]
    y = (place[:, None] - MOUTH_CENTRE[1]) / MOUTH_HALF_AXES[1]
    return torch.where(x**2 + y**2 < 1, LEAST_WEIGHT, 1.0)


def match_colours(generated: Tensor, source: Tensor) -> Tensor:
    """Generated faces with the source's broad colours; both (F, 3, S, S) float32, about [-1, 1].

    The difference to the source is averaged over what is near and alike (a joint bilateral filter), leaving out the
    mouth, and added; inside the mouth's ellipse the correction is that of its surroundings.
    """
    side = min(GRID_SIDE, generated.shape[-1])
    small_source, small_face = (F.interpolate(x, (side, side), mode="area") for x in (source, generated))
    difference = small_source - small_face
    mouth = mouth_weight(side).to(difference)
    unlike = difference.abs().amax(1, keepdim=True)
    agreement = torch.relu(_agreement(unlike, AGREEING) - LEAST_AGREEMENT)
    correction = _average_of_alike(difference, mouth * agreement, small_face, small_source)
    inner = _average(correction, mouth * (_agreement(unlike, AGREEING_AROUND_LIPS) + LEAST_AGREEMENT))
    inside = rearrange((mouth < 1).to(difference), "h w -> 1 1 h w")
    correction = torch.lerp(correction, inner, inside * _blur(inside, SOFT))
    return generated + F.interpolate(correction, generated.shape[-2:], mode="bicubic", align_corners=False)


def _agreement(unlike: Tensor, tolerance: float) -> Tensor:
    return torch.exp(-((unlike / tolerance) ** 2))


def _average(values: Tensor, weight: Tensor) -> Tensor:
    return _blur(values * weight, SIGMA) / _blur(weight, SIGMA)


def _average_of_alike(values: Tensor, weight: Tensor, face: Tensor, source: Tensor) -> Tensor:
    """(F, C, h, w) averaged with a Gaussian and weights (F, 1, h, w), by likeness of the faces (F, 3, h, w)."""
    reach = int(3 * SIGMA) // STEP * STEP
    height, width = values.shape[-2:]
    weighted = torch.cat([values * weight, weight], 1)
    around, *looks_around = (F.pad(x, [reach] * 4, mode="replicate") for x in (weighted, face, source))
    total = torch.zeros_like(weighted)
    for down in range(0, 2 * reach + 1, STEP):
        for right in range(0, 2 * reach + 1, STEP):
            there = (..., slice(down, down + height), slice(right, right + width))
            by_face, by_source = (
                torch.exp(-((far[there] - near) ** 2).sum(1, keepdim=True) / LIKE**2)
                for far, near in zip(looks_around, (face, source), strict=True)
            )
            nearness = math.exp(-((down - reach) ** 2 + (right - reach) ** 2) / (2 * SIGMA**2))
            total += nearness * (by_face * (by_source + OTHER_SOURCE) + UNLIKE) * around[there]
    return total[:, :-1] / (total[:, -1:] + NOTHING_KNOWN)


def _blur(x: Tensor, sigma: float) -> Tensor:
    kernel = 2 * int(3 * sigma) + 1
    return gaussian_blur2d(x, (kernel, kernel), (sigma, sigma), border_type="replicate")
