"""Colours of the generated face, held to those of the source frame.

Frame and pose are the same; only lips and jaw differ. So the broad colours of cheeks, neck and background inside the
generated region are known, and what the model or its VAE got wrong there can be taken back, without a look at the lips.
"""

import torch
from einops import rearrange
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

GRID_SIDE = 64  # px; broad colours need no more
SIGMA = 4.0  # px of the grid, a sixteenth of the face: a cheek is wider, lips are thinner
# Ellipse around every place the lips can be, in units of the face's side: the template puts them there.
MOUTH_CENTRE, MOUTH_HALF_AXES = (0.5, 0.67), (0.25, 0.17)
LEAST_WEIGHT = 1e-6  # inside the ellipse: colours come from around it


def mouth_weight(side: int) -> Tensor:
    """(side, side) float32: 1 outside the mouth's ellipse, nearly 0 inside."""
    place = (torch.arange(side) + 0.5) / side
    x = (place[None, :] - MOUTH_CENTRE[0]) / MOUTH_HALF_AXES[0]
    y = (place[:, None] - MOUTH_CENTRE[1]) / MOUTH_HALF_AXES[1]
    return torch.where(x**2 + y**2 < 1, LEAST_WEIGHT, 1.0)


def match_colours(generated: Tensor, source: Tensor) -> Tensor:
    """Generated faces with the source's broad colours; both (F, 3, S, S) float32, about [-1, 1].

    The difference to the source is averaged with a Gaussian that leaves out the mouth (normalised convolution) and
    added; inside the mouth's ellipse the correction is that of its surroundings.
    """
    side = min(GRID_SIDE, generated.shape[-1])
    difference = F.interpolate(source - generated, (side, side), mode="area")
    weight = mouth_weight(side).to(difference)
    kernel = 2 * int(3 * SIGMA) + 1

    def blur(x: Tensor) -> Tensor:
        return gaussian_blur2d(x, (kernel, kernel), (SIGMA, SIGMA), border_type="replicate")

    correction = blur(difference * weight) / blur(rearrange(weight, "h w -> 1 1 h w"))
    return generated + F.interpolate(correction, generated.shape[-2:], mode="bicubic", align_corners=False)
