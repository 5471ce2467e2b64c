"""Generated faces back into their frames, as the options say."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .faces.blending import FaceBlender, keep_surroundings
from .model.masks import DRAWN_SIDE, generation_mask
from .model.vae import to_pixels
from .options import LipSyncOptions


class FacePaster:
    """Pastes faces of one size; masks are made once.

    resolution  side S of the aligned faces, px
    options     blend, mask, blend_mask, mask_smooth, mask_shape, blend_method and edge_match are what counts
    blend_mask  what suits the model, used where the options name none
    side        S', px of the generated faces where they were enlarged since
    """

    def __init__(
        self, resolution: int, options: LipSyncOptions, blend_mask: str | None = None, side: int | None = None
    ):
        side = side or resolution
        self._keep_surroundings = options.blend == "reference"
        self.follows_landmarks = options.mask_shape == "landmarks"
        self._mask = generation_mask(side, options.mask)
        self.blender = FaceBlender(
            resolution,
            mode=options.blend,
            mask=generation_mask(DRAWN_SIDE, options.blend_mask or blend_mask or options.mask),
            feather=options.mask_smooth,
            side=side,
            method=options.blend_method,
            edge_match=options.edge_match,
        )

    def __call__(
        self,
        frame: np.ndarray,
        face: Tensor,
        aligned: np.ndarray,
        matrix: np.ndarray,
        protect: np.ndarray | None = None,
        *,
        contour: np.ndarray | None = None,
        weight: float = 1.0,
    ) -> np.ndarray:
        """A new frame of the given one's shape and dtype, see FaceBlender.paste.

        frame: (H, W, 3) uint8, or float32 in [0, 1]; face: (3, S', S') float32, about [-1, 1]; aligned: (N, N, 3)
        uint8, what was seen of the face, best at the side S' but of any; matrix: (2, 3); protect: (H, W) in [0, 1], 1
        keeps the frame; contour: (K, 2) px of the frame, landmarks of LOWER_FACE, for the mask_shape "landmarks" (None
        or NaN where unknown: the drawn mask); weight: 0..1 of the face as a whole.
        """
        if self._keep_surroundings:
            pixels = to_pixels(torch.from_numpy(aligned)[None])
            if pixels.shape[-2:] != face.shape[-2:]:
                pixels = F.interpolate(pixels, face.shape[-2:], mode="bicubic", antialias=True)
            face = keep_surroundings(face, pixels[0], self._mask)
        if not self.follows_landmarks or contour is None or not np.isfinite(contour).all():
            contour = None
        return self.blender.paste(frame, face, matrix, protect, weight, source=aligned, contour=contour)
