"""Pasting a generated face back into its frame.

Mode "mask" (default) replaces only what was generated: the hole of a mask with a feathered edge, or what the landmarks
of the lower face leave of it. Everything else in the frame keeps its bits. Mode "reference" blends the whole aligned
rectangle, as the reference does, so the surroundings of the mouth are resampled too; for parity. Both work inside the
rectangle only.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..model.masks import DRAWN_SIDE, generation_mask
from ..model.vae import to_pixels
from ..options import LipSyncOptions
from .align import FILL, canvas_size, square_to_canvas
from .edge import BlendShape, Harmoniser, resized, shape_of_mask

# The part of a frame that a face is pasted into.

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


# The reference's paste: the whole aligned rectangle with a soft border. For parity, so its arithmetic is repeated.


def paste_rectangle(
    pasted: np.ndarray, pixels: Tensor, matrix: np.ndarray, resolution: int, protect: np.ndarray | None, weight: float
) -> None:
    """Face (3, S', S') float32 in [-1, 1] into a frame, in place; see FaceBlender.paste. Levels are cut off."""
    to_frame, canvas = canvas_to_frame(matrix), canvas_size(resolution)
    region, eroded = reference_region(pasted.shape, to_frame, canvas)
    if region.alpha.size:
        warped = _face_in_box(pixels, to_frame, region.box, canvas) * eroded[..., None]
        blend(pasted, region, warped, protect, weight, rounded=False)


def reference_region(
    frame_shape: tuple, to_frame: np.ndarray, canvas: tuple[int, int]
) -> tuple[BlendRegion, np.ndarray]:
    """The reference's soft rectangle, and its hard one (h, w) that multiplies the face.

    The warped rectangle is eroded by 2 x 2 px: the hard one. Eroded by twice the edge width and blurred: the alpha.
    The edge width is a twentieth of the square root of the rectangle's area inside the frame.
    """
    width, height = canvas
    box = frame_box(to_frame, (0, 0, width - 1, height - 1), frame_shape)
    if box is None:
        return empty_region(), np.zeros((0, 0), np.float32)
    ones = torch.ones(1, 1, height, width)
    hard = _sample(ones, to_frame, box)[0, 0].numpy()
    eroded = cv2.erode(hard, np.ones((2, 2), np.uint8), anchor=(1, 1))
    edge = int(np.sqrt(eroded.sum(dtype=np.float64))) // 20
    centre = cv2.erode(eroded, np.ones((2 * edge, 2 * edge), np.uint8)) if edge else eroded
    kernel = 2 * edge + 1
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    soft = cv2.GaussianBlur(centre, (kernel, kernel), sigma, borderType=cv2.BORDER_REFLECT_101)
    return BlendRegion(box, soft), eroded


def _face_in_box(face: Tensor, to_frame: np.ndarray, box: tuple, canvas: tuple[int, int]) -> np.ndarray:
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


# The paste

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
        method: str = "feather",
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


def _scaling(scale: np.ndarray) -> np.ndarray:
    """(3, 3) of an enlargement by (x, y), from px to px, counted from their centres."""
    return np.array([[scale[0], 0, (scale[0] - 1) / 2], [0, scale[1], (scale[1] - 1) / 2], [0, 0, 1]])


# Generated faces back into their frames, as the options say.


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
