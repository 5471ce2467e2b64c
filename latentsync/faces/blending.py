"""Pasting a generated face back into its frame.

Mode "mask" (default) replaces only what was generated: the hole of a mask with a feathered edge, or what the landmarks
of the lower face leave of it. Everything else in the frame keeps its bits. Mode "reference" blends the whole aligned
rectangle, as the reference does, so the surroundings of the mouth are resampled too; for parity. Both work inside the
rectangle only.
"""

from typing import Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..model.masks import generation_mask
from .alignment import canvas_size, square_to_canvas
from .blend_shape import BlendShape, resized, shape_of_mask
from .frame_region import BlendRegion, blend, canvas_to_frame, empty_region, frame_box, warp
from .harmonisation import BlendMethod, Harmoniser
from .reference_blending import paste_rectangle, reference_region

PasteMode = Literal["mask", "reference"]


def keep_surroundings(generated: Tensor, aligned: Tensor, mask: Tensor) -> Tensor:
    """Aligned pixels where the keep-mask (S, S) is 1, generated ones where it is 0; (..., S, S) float, same range.

    The reference does this to the decoded faces before pasting them; at 512 the mask is soft.
    """
    return generated * (1 - mask) + aligned * mask


class FaceBlender:
    """Pastes faces of one resolution: what depends on the mask alone is made once.

    resolution  side S of the faces as they were aligned, px
    mask        (M, M) keep-mask in [0, 1] of any side; None for the default generation mask
    feather     0 hard edge .. 1 softest (see BlendShape)
    side        S', px: that of the faces to paste, where they were resized since; None for S
    method      how the edge is hidden where the source's face is given too (see Harmoniser)
    edge_match  whether colour and gain along the edge are made those of that source
    Mode "reference" uses none of mask, feather, method and edge_match.
    """

    def __init__(
        self,
        resolution: int,
        *,
        mode: PasteMode = "mask",
        mask: Tensor | np.ndarray | None = None,
        feather: float = 0.5,
        side: int | None = None,
        method: BlendMethod = "feather",
        edge_match: bool = True,
    ):
        if mode not in get_args(PasteMode):
            raise OptionError(f"unknown paste mode {mode!r}: choose one of {', '.join(get_args(PasteMode))}")
        side = resolution if side is None else side
        mask = generation_mask(side) if mask is None else mask
        if mask.ndim != 2 or mask.shape[0] != mask.shape[1]:
            raise ValueError(f"expected a square mask, got {tuple(mask.shape)}")
        self.resolution, self.mode, self.side, self.method, self.edge_match = resolution, mode, side, method, edge_match
        self._shape = shape_of_mask(mask, feather)
        self._harmoniser = Harmoniser(self._shape, side, method, edge_match)

    def region(self, frame_shape: tuple, matrix: np.ndarray, contour: np.ndarray | None = None) -> BlendRegion:
        """What a paste with this matrix, and contour, would change in a frame of shape (H, W, ...)."""
        if self.mode == "reference":
            return reference_region(frame_shape, canvas_to_frame(matrix), canvas_size(self.resolution))[0]
        return self._region(frame_shape, matrix, self._shape_in(matrix, contour))

    def paste(
        self,
        frame: np.ndarray,
        face: Tensor | np.ndarray,
        matrix: np.ndarray,
        protect: np.ndarray | None = None,
        weight: float = 1.0,
        *,
        source: np.ndarray | None = None,
        contour: np.ndarray | None = None,
    ) -> np.ndarray:
        """Frame (H, W, 3) RGB with face (3, S', S') float in [-1, 1] pasted in: a new array like the frame.

        frame    uint8, or float32 in [0, 1], which is never rounded to levels
        matrix   (2, 3), frame px to canvas px, as the face was aligned with
        protect  (H, W) float in [0, 1]: 1 keeps the frame (a hand or microphone before the face)
        weight   0..1 of the face as a whole: 0 gives the frame, 1 the face (a face that fades in or out)
        source   (N, N, 3) uint8 of any side, the frame's own face on the square, to which the generated one is fitted:
                 where both are alike the frame stays as it is. None: the face is pasted as given
        contour  (K, 2) px of the frame, a polygon beyond which (with a margin) nothing is pasted
        Pixels where the blend region's alpha is 0 are the frame's own, bit for bit; inputs are not modified.
        """
        pixels = torch.as_tensor(face).detach().float().cpu()
        if pixels.shape != (3, self.side, self.side):
            raise ValueError(f"expected a face of shape (3, {self.side}, {self.side}), got {tuple(pixels.shape)}")
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype not in (np.uint8, np.float32):
            raise ValueError(
                f"expected a frame of shape (H, W, 3) and dtype uint8 or float32, got {frame.shape} {frame.dtype}"
            )
        if protect is not None and protect.shape != frame.shape[:2]:
            raise ValueError(f"expected protect of shape {frame.shape[:2]}, got {protect.shape}")
        if not 0 <= weight <= 1:
            raise OptionError(f"weight is {weight}; expected 0 (the frame alone) to 1 (the whole face)")
        pasted = frame.copy()
        if weight == 0:
            return pasted
        if self.mode == "reference":
            paste_rectangle(pasted, pixels, matrix, self.resolution, protect, weight)
            return pasted
        shape = self._shape_in(matrix, contour)
        region = self._region(frame.shape, matrix, shape)
        if region.alpha.size:
            levels, share = (pixels.clamp(-1, 1) + 1).mul_(127.5).permute(1, 2, 0).contiguous().numpy(), None
            if source is not None:
                levels, share = self._harmonised(levels, source, shape)
            drawn = self._drawn(levels, matrix, region.box)
            if share is not None:
                part = frame[region.slices].astype(np.float32)
                part *= self._share_in(share, matrix, region.box, 1 if frame.dtype == np.uint8 else 255)
                drawn += part
            np.clip(drawn, 0, 255, out=drawn)
            blend(pasted, region, drawn, protect, weight, rounded=True)
        return pasted

    def _shape_in(self, matrix: np.ndarray, contour: np.ndarray | None) -> BlendShape:
        if contour is None:
            return self._shape
        to_grid = np.linalg.inv(canvas_to_frame(matrix) @ self._to_canvas(len(self._shape.distance)))
        return self._shape.within(contour @ to_grid[:2, :2].T + to_grid[:2, 2])

    def _harmonised(self, face: np.ndarray, source: np.ndarray, shape: BlendShape) -> tuple[np.ndarray, np.ndarray]:
        harmonise = self._harmoniser
        if shape is not self._shape:
            harmonise = Harmoniser(shape, self.side, self.method, self.edge_match)
        return harmonise(face, resized(source.astype(np.float32), self.side))

    def _region(self, frame_shape: tuple, matrix: np.ndarray, shape: BlendShape) -> BlendRegion:
        ramp = shape.ramp
        to_frame = canvas_to_frame(matrix) @ self._to_canvas(len(ramp))
        rows, columns = np.nonzero((ramp > 0).any(1))[0], np.nonzero((ramp > 0).any(0))[0]
        if not len(rows):
            return empty_region()
        box = frame_box(to_frame, (columns[0], rows[0], columns[-1], rows[-1]), frame_shape)
        if box is None:
            return empty_region()
        return BlendRegion(box, shape.eased(warp(ramp, to_frame, box, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)))

    def _to_canvas(self, side: int) -> np.ndarray:
        """(3, 3), from px of a picture of the square with this side to px of the canvas."""
        scale = self.resolution / side  # an ordinary resize keeps the square's edges where they are
        return square_to_canvas(self.resolution) @ _scaling(np.array([scale, scale]))

    def _share_in(self, share: np.ndarray, matrix: np.ndarray, box: tuple, white: float) -> np.ndarray:
        """(h, w, 1): share (N, N) in the box, times what makes levels of the frame's values."""
        to_frame = canvas_to_frame(matrix) @ self._to_canvas(len(share))
        return (warp(share, to_frame, box, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE) * np.float32(white))[..., None]

    def _drawn(self, levels: np.ndarray, matrix: np.ndarray, box: tuple) -> np.ndarray:
        """Levels (S', S', 3) float32 in the box, (h, w, 3), not bounded.

        Averaged first where the frame shows it smaller, else bicubic. Beyond its square the face is continued, not
        filled, so no rim of another colour can enter the blend.
        """
        to_frame = canvas_to_frame(matrix) @ self._to_canvas(self.side)
        scale = np.minimum(np.hypot(*to_frame[:2, :2]), 1)  # px of the frame per px of the face, each axis
        if (scale < 1).any():
            width, height = np.maximum(np.rint(scale * self.side).astype(int), 1)
            pixels = torch.from_numpy(levels).permute(2, 0, 1)[None]
            pixels = F.interpolate(pixels, (int(height), int(width)), mode="bicubic", antialias=True)[0]
            levels = pixels.permute(1, 2, 0).contiguous().numpy()
            to_frame = to_frame @ _scaling(np.array([self.side / width, self.side / height]))
        return warp(levels, to_frame, box, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE)


def paste_face(
    frame: np.ndarray,
    face: Tensor | np.ndarray,
    matrix: np.ndarray,
    *,
    mode: PasteMode = "mask",
    mask: Tensor | np.ndarray | None = None,
    feather: float = 0.5,
    protect: np.ndarray | None = None,
) -> np.ndarray:
    """One face into one frame; see FaceBlender, which is cheaper for many."""
    return FaceBlender(face.shape[-1], mode=mode, mask=mask, feather=feather).paste(frame, face, matrix, protect)


def blend_alpha(
    frame_shape: tuple,
    matrix: np.ndarray,
    resolution: int,
    *,
    mode: PasteMode = "mask",
    mask: Tensor | np.ndarray | None = None,
    feather: float = 0.5,
) -> BlendRegion:
    """The region paste_face would blend, without a face."""
    return FaceBlender(resolution, mode=mode, mask=mask, feather=feather).region(frame_shape, matrix)


def _scaling(scale: np.ndarray) -> np.ndarray:
    """(3, 3) of an enlargement by (x, y), from px to px, counted from their centres."""
    return np.array([[scale[0], 0, (scale[0] - 1) / 2], [0, scale[1], (scale[1] - 1) / 2], [0, 0, 1]])
