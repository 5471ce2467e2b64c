"""The part of a frame that a face is pasted into."""

from dataclasses import dataclass

import cv2
import numpy as np

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


def canvas_to_frame(matrix: np.ndarray) -> np.ndarray:
    """(2, 3) frame px to canvas px -> its inverse (3, 3) float64."""
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-12:
        raise ValueError(f"expected an invertible matrix of shape (2, 3), got {matrix.tolist()}")
    return np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))


def empty_region() -> BlendRegion:
    return BlendRegion((0, 0, 0, 0), np.zeros((0, 0), np.float32))


def frame_box(to_frame: np.ndarray, rectangle: tuple, frame_shape: tuple) -> tuple[int, int, int, int] | None:
    """Rectangle (x0, y0, x1, y1) of source pixels, inclusive -> box of the frame around it, or None if outside."""
    x0, y0, x1, y1 = rectangle
    x0, y0, x1, y1 = x0 - 1, y0 - 1, x1 + 1, y1 + 1  # bilinear sampling reaches one pixel out
    corners = np.array([[x0, y0, 1], [x1, y0, 1], [x0, y1, 1], [x1, y1, 1]]) @ to_frame[:2].T
    limits = [frame_shape[1], frame_shape[0]]
    low = np.clip(np.floor(corners.min(0)) - BOX_MARGIN, 0, limits).astype(int)
    high = np.clip(np.ceil(corners.max(0)) + BOX_MARGIN + 1, 0, limits).astype(int)
    return None if (high <= low).any() else (int(low[0]), int(low[1]), int(high[0]), int(high[1]))


def warp(source: np.ndarray, to_frame: np.ndarray, box: tuple, interpolation: int, border: int) -> np.ndarray:
    """Source image (h, w[, C]) float32 drawn into the box of the frame."""
    shifted = to_frame[:2].copy()
    shifted[:, 2] -= box[:2]
    size = (box[2] - box[0], box[3] - box[1])
    return cv2.warpAffine(source, shifted, size, flags=interpolation, borderMode=border)


def blend(
    frame: np.ndarray,
    region: BlendRegion,
    generated: np.ndarray,
    protect: np.ndarray | None,
    weight: float,
    *,
    rounded: bool,
) -> None:
    """generated (h, w, 3) in 0..255 over the frame's box, in place; rounded or cut off where the frame is uint8.

    protect (H, W) in [0, 1] and the weight of the whole face in [0, 1] lower the region's alpha.
    """
    alpha = region.alpha * np.float32(weight)
    if protect is not None:
        alpha *= 1 - protect[region.slices].astype(np.float32)
    part = frame[region.slices]
    alpha, mixed = alpha[..., None], part.astype(np.float32)
    mixed *= 1 - alpha
    mixed += generated * (alpha if frame.dtype == np.uint8 else alpha / np.float32(255))
    if rounded and frame.dtype == np.uint8:
        np.rint(mixed, out=mixed)
    np.copyto(part, mixed.astype(frame.dtype), where=alpha > 0)
