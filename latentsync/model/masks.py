"""Generation masks: which part of the aligned face is repainted.

Throughout the package 1 = keep, 0 = to be generated (the inverse of Stable Diffusion's inpainting masks).
"""

import json

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..model_files import ASSETS

ROWS = ASSETS / "mask_rows.json"
DRAWN_SIDE = 256  # px: the reference's mask images
MASK_NAMES = ("mask", "mask2", "mask3", "mask4")


def drawn_mask(name: str = "mask") -> np.ndarray:
    """The reference's mask image: (256, 256) uint8, 0 or 255. Raises OptionError for an unknown name."""
    if name not in MASK_NAMES:
        raise OptionError(f"unknown mask {name!r}: choose one of {', '.join(MASK_NAMES)}")
    image = np.full((DRAWN_SIDE, DRAWN_SIDE), 255, np.uint8)
    for first_row, last_row, intervals in json.loads(ROWS.read_text())[name]:
        for first_column, last_column in intervals:
            image[first_row : last_row + 1, first_column : last_column + 1] = 0
    return image


def generation_mask(resolution: int, name: str = "mask") -> Tensor:
    """Keep-mask (S, S) float32 in [0, 1] for an aligned face of side `resolution`.

    Scaled as the reference does, by OpenCV's Lanczos on uint8: binary at 256, with soft edges and a little ringing at
    other sizes. The U-Net saw those in training, so they are not thresholded.
    """
    if resolution < 1:
        raise OptionError(f"resolution must be positive, got {resolution}")
    image = drawn_mask(name)
    if resolution != DRAWN_SIDE:
        image = cv2.resize(image, (resolution, resolution), interpolation=cv2.INTER_LANCZOS4)
    return torch.from_numpy(image).float() / 255


def latent_mask(mask: Tensor, latent_size: int) -> Tensor:
    """(S, S) keep-mask -> (h, h) for the latents, by nearest interpolation: pixel (8i, 8j) at 1/8."""
    return F.interpolate(mask[None, None], size=(latent_size, latent_size), mode="nearest")[0, 0]
