"""Pasting a generated face back into its frame.

Mode "mask" (default) replaces only what was generated: the mask's hole with a feathered edge. Everything else in the
frame keeps its bits. Mode "reference" blends the whole aligned rectangle, as the reference does, so the surroundings of
the mouth are resampled too; for parity. Both work inside the rectangle only.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..masks import generation_mask
from .alignment import FILL, canvas_size, square_to_canvas

PasteMode = Literal["mask", "reference"]

FEATHER_WIDTH = 0.1  # of the face's side, at feather 1: from fully generated to fully original
BOX_MARGIN = 2  # px around a warped shape: its bilinear edge and rounding


@dataclass(frozen=True)
class BlendRegion:
    """Where and how strongly a face is blended into a frame.

    box    (x0, y0, x1, y1) px of the frame, last ones exclusive; empty (all 0) where the face is outside
    alpha  (y1 - y0, x1 - x0) float32 in [0, 1], 1 = generated
    """

    box: tuple[int, int, int, int]
    alpha: np.ndarray

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the box in a frame."""
        return slice(self.box[1], self.box[3]), slice(self.box[0], self.box[2])


def keep_surroundings(generated: Tensor, aligned: Tensor, mask: Tensor) -> Tensor:
    """Aligned pixels where the keep-mask (S, S) is 1, generated ones where it is 0; (..., S, S) float, same range.

    The reference does this to the decoded faces before pasting them; at 512 the mask is soft.
    """
    return generated * (1 - mask) + aligned * mask


def feathered_hole(mask: Tensor | np.ndarray, feather: float = 0.5) -> np.ndarray:
    """Keep-mask (S, S) -> alpha (S, S) float32 for the face's square: 1 in the hole, 0 away from it.

    `feather` in [0, 1] sets the width of the ramp as a fraction of the square's side, a tenth of it at 1 (13 px of 256
    at 0.5), half of it on each side of the hole's edge. 0 is a hard edge. The ramp also reaches 0 at the border of the
    square, so a hole that touches it leaves no seam.
    """
    if not 0 <= feather <= 1:
        raise OptionError(f"feather must be from 0 (hard edge) to 1 (softest), got {feather}")
    hole = (np.asarray(mask, np.float32) < 0.5).astype(np.uint8)
    width = feather * FEATHER_WIDTH * len(hole)
    if width < 1:
        return hole.astype(np.float32)
    inside = cv2.distanceTransform(np.pad(hole, 1, mode="edge"), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # distances are from centre to centre: the edge lies half a pixel nearer. No edge at all gives huge ones: bounded.
    distance = np.minimum(np.where(hole, inside, outside), len(hole)) - 0.5
    ramp = np.clip(0.5 + np.where(hole, distance, -distance) / width, 0, 1)
    index = np.arange(len(hole), dtype=np.float32)
    border = np.clip(np.minimum(index, index[::-1]) / (width / 2), 0, 1)
    ramp = np.minimum(ramp, np.minimum(border[:, None], border[None, :]))
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


class FaceBlender:
    """Pastes faces of one resolution: the feathered mask is made once.

    resolution  side S of the faces as they were aligned, px
    mask        (S', S') keep-mask in [0, 1]; None for the default generation mask; not used by mode "reference"
    feather     0 hard edge .. 1 softest (see feathered_hole); not used by mode "reference"
    side        S', px: that of the faces to paste, where they were resized since; None for S
    """

    def __init__(
        self,
        resolution: int,
        *,
        mode: PasteMode = "mask",
        mask: Tensor | np.ndarray | None = None,
        feather: float = 0.5,
        side: int | None = None,
    ):
        if mode not in get_args(PasteMode):
            raise OptionError(f"unknown paste mode {mode!r}: choose one of {', '.join(get_args(PasteMode))}")
        side = resolution if side is None else side
        mask = generation_mask(side) if mask is None else mask
        if tuple(mask.shape) != (side, side):
            raise ValueError(f"expected a mask of shape {(side, side)}, got {tuple(mask.shape)}")
        self.resolution, self.mode, self.feather, self.side = resolution, mode, feather, side
        self._hole = feathered_hole(mask, feather)
        scale = resolution / side  # an ordinary resize keeps the square's edges where they are
        resized = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
        self._to_canvas = square_to_canvas(resolution) @ resized

    def region(self, frame_shape: tuple, matrix: np.ndarray) -> BlendRegion:
        """What a paste with this matrix would change in a frame of shape (H, W, ...)."""
        if self.mode == "reference":
            return _reference_region(frame_shape, _canvas_to_frame(matrix), canvas_size(self.resolution))[0]
        to_frame = _canvas_to_frame(matrix) @ self._to_canvas
        rows, columns = np.nonzero(self._hole.any(1))[0], np.nonzero(self._hole.any(0))[0]
        if not len(rows):
            return _empty_region()
        box = _frame_box(to_frame, (columns[0], rows[0], columns[-1], rows[-1]), frame_shape)
        if box is None:
            return _empty_region()
        alpha = _warp(self._hole, to_frame, box, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT)
        return BlendRegion(box, alpha if self.feather > 0 else (alpha >= 0.5).astype(np.float32))

    def paste(
        self,
        frame: np.ndarray,
        face: Tensor | np.ndarray,
        matrix: np.ndarray,
        protect: np.ndarray | None = None,
        weight: float = 1.0,
    ) -> np.ndarray:
        """Frame (H, W, 3) RGB with face (3, S', S') float in [-1, 1] pasted in: a new array like the frame.

        frame    uint8, or float32 in [0, 1], which is never rounded to levels
        matrix   (2, 3), frame px to canvas px, as the face was aligned with
        protect  (H, W) float in [0, 1]: 1 keeps the frame (a hand or microphone before the face)
        weight   0..1 of the face as a whole: 0 gives the frame, 1 the face (a face that fades in or out)
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
            region, eroded = _reference_region(frame.shape, _canvas_to_frame(matrix), canvas_size(self.resolution))
            region = _weighted(region, weight)
            if region.alpha.size:
                warped = _reference_face(pixels, _canvas_to_frame(matrix), region.box, canvas_size(self.resolution))
                _blend(pasted, region, warped * eroded[..., None], protect, rounded=False)
            return pasted
        region = _weighted(self.region(frame.shape, matrix), weight)
        if region.alpha.size:
            _blend(pasted, region, self._warped_face(pixels, matrix, region.box), protect, rounded=True)
        return pasted

    def _warped_face(self, pixels: Tensor, matrix: np.ndarray, box: tuple) -> np.ndarray:
        """Face in the box: (h, w, 3) float32 in 0..255. Averaged first where the frame shows it smaller, else bicubic.

        Beyond its square the face is continued, not filled, so no rim of another colour can enter the blend.
        """
        to_frame = _canvas_to_frame(matrix) @ self._to_canvas
        scale = np.minimum(np.hypot(*to_frame[:2, :2]), 1)  # px of the frame per px of the face, each axis
        if (scale < 1).any():
            width, height = np.maximum(np.rint(scale * self.side).astype(int), 1)
            pixels = F.interpolate(pixels[None], (int(height), int(width)), mode="bicubic", antialias=True)[0]
            shrunk = np.array([self.side / width, self.side / height])
            to_frame = to_frame @ np.array(
                [[shrunk[0], 0, (shrunk[0] - 1) / 2], [0, shrunk[1], (shrunk[1] - 1) / 2], [0, 0, 1]]
            )
        levels = (pixels.clamp(-1, 1) + 1).mul_(127.5).permute(1, 2, 0).contiguous().numpy()
        return np.clip(_warp(levels, to_frame, box, cv2.INTER_CUBIC, cv2.BORDER_REPLICATE), 0, 255)


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


def _canvas_to_frame(matrix: np.ndarray) -> np.ndarray:
    """(2, 3) frame px to canvas px -> its inverse (3, 3) float64."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-12:
        raise ValueError(f"expected an invertible matrix of shape (2, 3), got {matrix.tolist()}")
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))


def _empty_region() -> BlendRegion:
    return BlendRegion((0, 0, 0, 0), np.zeros((0, 0), np.float32))


def _weighted(region: BlendRegion, weight: float) -> BlendRegion:
    return region if weight == 1 else BlendRegion(region.box, region.alpha * np.float32(weight))


def _frame_box(to_frame: np.ndarray, rectangle: tuple, frame_shape: tuple) -> tuple[int, int, int, int] | None:
    """Rectangle (x0, y0, x1, y1) of source pixels, inclusive -> box of the frame around it, or None if outside."""
    x0, y0, x1, y1 = rectangle
    x0, y0, x1, y1 = x0 - 1, y0 - 1, x1 + 1, y1 + 1  # bilinear sampling reaches one pixel out
    corners = np.array([[x0, y0, 1], [x1, y0, 1], [x0, y1, 1], [x1, y1, 1]]) @ to_frame[:2].T
    limits = [frame_shape[1], frame_shape[0]]
    low = np.clip(np.floor(corners.min(0)) - BOX_MARGIN, 0, limits).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + BOX_MARGIN + 1, 0, limits).astype(int)
    return None if (high <= low).any() else (int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def _warp(source: np.ndarray, to_frame: np.ndarray, box: tuple, interpolation: int, border: int) -> np.ndarray:
    """Source image (h, w[, C]) float32 drawn into the box of the frame."""
    shifted = to_frame[:2].copy()
    shifted[:, 2] -= box[:2]
    size = (box[2] - box[0], box[3] - box[1])
    return cv2.warpAffine(source, shifted, size, flags=interpolation, borderMode=border)


def _blend(
    frame: np.ndarray, region: BlendRegion, generated: np.ndarray, protect: np.ndarray | None, rounded: bool
) -> None:
    """generated (h, w, 3) in 0..255 over the frame's box, in place; rounded or cut off where the frame is uint8."""
    alpha = region.alpha if protect is None else region.alpha * (1 - protect[region.slices].astype(np.float32))
    part = frame[region.slices]
    if frame.dtype != np.uint8:
        generated = generated / 255
    mixed = alpha[..., None] * generated + (1 - alpha[..., None]) * part.astype(np.float32)
    if rounded and frame.dtype == np.uint8:
        np.rint(mixed, out=mixed)
    np.copyto(part, mixed.astype(frame.dtype), where=alpha[..., None] > 0)


def _reference_region(
    frame_shape: tuple, to_frame: np.ndarray, canvas: tuple[int, int]
) -> tuple[BlendRegion, np.ndarray]:
    """The reference's soft rectangle, and its hard one (h, w) that multiplies the face.

    The warped rectangle is eroded by 2 x 2 px: the hard one. Eroded by twice the edge width and blurred: the alpha.
    The edge width is a twentieth of the square root of the rectangle's area inside the frame.
    """
    width, height = canvas
    box = _frame_box(to_frame, (0, 0, width - 1, height - 1), frame_shape)
    if box is None:
        return _empty_region(), np.zeros((0, 0), np.float32)
    ones = torch.ones(1, 1, height, width)
    hard = _sample(ones, to_frame, box)[0, 0].numpy()
    eroded = cv2.erode(hard, np.ones((2, 2), np.uint8), anchor=(1, 1))
    edge = int(np.sqrt(eroded.sum(dtype=np.float64))) // 20
    centre = cv2.erode(eroded, np.ones((2 * edge, 2 * edge), np.uint8)) if edge else eroded
    kernel = 2 * edge + 1
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    soft = cv2.GaussianBlur(centre, (kernel, kernel), sigma, borderType=cv2.BORDER_REFLECT_101)
    return BlendRegion(box, soft), eroded


def _reference_face(face: Tensor, to_frame: np.ndarray, box: tuple, canvas: tuple[int, int]) -> np.ndarray:
    """Face resized to the canvas and drawn into the box: (h, w, 3) float32 in 0..255.

    Outside the canvas the reference's fill of 127 counts in the face's own range, where it is far beyond white.
    """
    width, height = canvas
    resized = F.interpolate(face[None], (height, width), mode="bicubic", antialias=True)
    warped = _sample(resized - FILL, to_frame, box)[0] + FILL
    return ((warped / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()


def _sample(source: Tensor, to_frame: np.ndarray, box: tuple) -> Tensor:
    """Source (1, C, h, w) drawn into the box, bilinear, zeros outside, positions exact in float32."""
    to_source = np.linalg.inv(to_frame)[:2]
    size = np.array([source.shape[3], source.shape[2]])
    theta = to_source * (2 / size)[:, None]
    theta[:, 2] += 1 / size - 1
    columns = torch.arange(box[0], box[2], dtype=torch.float64)
    rows = torch.arange(box[1], box[3], dtype=torch.float64)
    theta = torch.from_numpy(theta)
    grid = (rows[:, None, None] * theta[:, 1] + theta[:, 2]) + columns[None, :, None] * theta[:, 0]
    return F.grid_sample(source, grid.float()[None], mode="bilinear", padding_mode="zeros", align_corners=False)
