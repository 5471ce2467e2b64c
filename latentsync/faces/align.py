"""From three points of a face to the aligned square the model works on.

A similarity transform takes the points to a template on a 3:4 canvas; the canvas is then squashed to a square, so the
square's pixels are not square in the frame (1.22 times wider, 0.91 times as high at every resolution). Matrices are
float32 and map frame px to canvas px, pixel centres at whole numbers. The reference rounds them to float16, which moves
the crop by up to a pixel, differently in each frame; that is not repeated here.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..errors import OptionError

# A filter over time for the alignment points.

MIN_CUTOFF = 1.0  # Hz: smoothing of a still head
SPEED_GAIN = 12.0  # Hz per face width and second: how fast the filter lets go of a moving one
SPEED_CUTOFF = 3.0  # Hz: smoothing of the speed itself
MAX_JUMP = 0.5  # face widths between two frames; more is a cut or another face


class PointFilter:
    """One-euro filter (Casiez et al., 2012) on (K, 2) points in px, one call a frame.

    A first-order low pass whose cut-off grows with the speed of the points' centre, so trembling is removed while a
    real movement is followed. Speeds are in units of the distance between the first two points, so the result does not
    depend on the frame's resolution. All points share one cut-off: their shape is not distorted.
    """

    def __init__(self, fps: float = 25.0):
        if not fps > 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.fps = fps
        self.reset()

    def reset(self) -> None:
        """Take the next points as they are."""
        self._smooth: np.ndarray | None = None
        self._velocity = np.zeros(2)
        self._previous: np.ndarray | None = None

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(K, 2) -> (K, 2) px."""
        face = max(float(np.linalg.norm(points[1] - points[0])), 1e-6)
        if self._previous is not None and np.abs(points - self._previous).max() > MAX_JUMP * face:
            self.reset()
        if self._previous is None or self._smooth is None:
            self._smooth = points
        else:
            velocity = (points - self._previous).mean(0) * self.fps / face
            self._velocity = self._velocity + self._weight(SPEED_CUTOFF) * (velocity - self._velocity)
            cutoff = MIN_CUTOFF + SPEED_GAIN * float(np.linalg.norm(self._velocity))
            self._smooth = self._smooth + self._weight(cutoff) * (points - self._smooth)
        self._previous = points
        return self._smooth

    def _weight(self, cutoff: float) -> float:
        """Share of the newest value in a first-order low pass at `cutoff` Hz."""
        step = 2 * math.pi * cutoff / self.fps
        return step / (step + 1)


# The square

Smoothing = Literal["none", "p_bias", "temporal"]
Sampling = Literal["quality", "reference"]

TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])  # left brow, right brow, nose on a 75 x 100 canvas
TEMPLATE_CANVAS = (75, 100)
TEMPLATE_SCALE = 2.8 / 256  # canvas px per template unit and px of resolution
FILL = 127  # grey outside the frame
BIAS_MEMORY = 0.2
MAX_ALIASED_SHRINK = 1.5  # frame px per canvas px up to which bilinear sampling loses nothing visible


def canvas_size(resolution: int) -> tuple[int, int]:
    """(width, height) px of the canvas: 210 x 280 at 256, 420 x 560 at 512."""
    scale = resolution * TEMPLATE_SCALE
    return int(TEMPLATE_CANVAS[0] * scale), int(TEMPLATE_CANVAS[1] * scale)


def template_points(resolution: int) -> np.ndarray:
    """(3, 2) float64 px on the canvas."""
    return TEMPLATE * (resolution * TEMPLATE_SCALE)


def square_to_canvas(resolution: int) -> np.ndarray:
    """(3, 3) matrix from px of the aligned square to canvas px, both counted from pixel centres."""
    width, height = canvas_size(resolution)
    scale = np.array([width, height]) / resolution
    matrix = np.diag([*scale, 1.0])
    matrix[:2, 2] = (scale - 1) / 2
    return matrix


def resized_matrix(matrix: np.ndarray, resolution: int, side: int) -> np.ndarray:
    """The matrix (2, 3) of an alignment at `resolution` -> that of the same crop with another side, px."""
    scale = np.array(canvas_size(side)) / canvas_size(resolution)
    resized = np.asarray(matrix, np.float64) * scale[:, None]
    resized[:, 2] += (scale - 1) / 2
    return resized.astype(np.float32)


def frame_pixels_per_crop_pixel(matrix: np.ndarray, resolution: int) -> float:
    """Side of a pixel of the aligned square in the frame, px: below 1 the frame shows the face smaller."""
    crop = np.sqrt(np.prod(canvas_size(resolution))) / resolution  # canvas px
    return float(crop / np.sqrt(abs(np.linalg.det(np.asarray(matrix, np.float64)[:, :2]))))


class Aligner:
    """Points of one frame after another -> matrices.

    smoothing "none": each frame by itself.
    smoothing "p_bias": the reference's term, an offset of the nose in units of the template's spread, averaged over
        time and added to the translation in px. It moves the crop by less than a pixel; for parity.
    smoothing "temporal": the points pass a filter that is strong on a still head and lets go of a moving one (see
        `PointFilter`). The face is pasted back through the same matrix, so smoothing never displaces it in the frame;
        it only keeps the crop from trembling.
    Call `reset()` at a cut or when the face was lost; a jump of the points resets the temporal filter by itself.
    """

    def __init__(self, resolution: int, smoothing: Smoothing = "temporal", fps: float = 25.0):
        if smoothing not in get_args(Smoothing):
            raise OptionError(f"unknown smoothing {smoothing!r}: choose one of {', '.join(get_args(Smoothing))}")
        self.resolution, self.smoothing = resolution, smoothing
        self._template = template_points(resolution)
        self._filter = PointFilter(fps)
        self._bias: np.ndarray | None = None

    def reset(self) -> None:
        """Forget the frames before."""
        self._filter.reset()
        self._bias = None

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(3, 2) px -> (2, 3) float32. Raises ValueError where the points coincide or are not finite."""
        points = np.asarray(points, np.float64)
        if points.shape != (3, 2) or not np.isfinite(points).all():
            raise ValueError(f"expected three finite points of shape (3, 2), got {points.tolist()}")
        if self.smoothing == "temporal":
            points = self._filter(points)
        matrix, normed, normed_template = _similarity(points, self._template)
        if self.smoothing == "p_bias":
            bias = normed_template[2] - normed[2]
            if self._bias is not None:
                bias = BIAS_MEMORY * self._bias + (1 - BIAS_MEMORY) * bias
            self._bias = bias
            matrix[:, 2] += bias
        return matrix.astype(np.float32)


def _similarity(points: np.ndarray, template: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotation from the SVD of the correlation, scale from the ratio of the unbiased standard deviations.

    Returns the matrix (2, 3) and both point sets (3, 2), centred and divided by their deviation. In float32 and in the
    reference's order of operations: float64 differs by 2e-4 px, which is harmless but not parity.
    """
    source, target = torch.tensor(points, dtype=torch.float32), torch.tensor(template, dtype=torch.float32)
    centre, target_centre = source.mean(0), target.mean(0)
    source, target = source - centre, target - target_centre
    spread, target_spread = source.std(), target.std()
    if spread < 1e-6:
        raise ValueError(f"the three points of the face coincide: {points.tolist()}")
    normed, normed_target = source / spread, target / target_spread
    left, _, right = torch.linalg.svd(normed.T @ normed_target)
    turn = right.T @ left.T
    if torch.linalg.det(turn) < 0:  # a mirrored face is turned, never reflected
        right[-1] *= -1
        turn = right.T @ left.T
    turn = target_spread / spread * turn
    matrix = torch.cat([turn, (target_centre - turn @ centre)[:, None]], 1)
    return matrix.numpy(), normed.numpy(), normed_target.numpy()


def fit_matrices(
    points: Iterable[np.ndarray], resolution: int, smoothing: Smoothing = "temporal", fps: float = 25.0
) -> np.ndarray:
    """(N, 3, 2) px of consecutive frames -> (N, 2, 3) float32, frame px to canvas px (see Aligner)."""
    aligner = Aligner(resolution, smoothing, fps)
    return np.stack([aligner(frame_points) for frame_points in points])


def warp_faces(
    frames: Sequence[np.ndarray] | np.ndarray,
    matrices: np.ndarray,
    resolution: int,
    sampling: Sampling = "quality",
) -> np.ndarray:
    """Frames (H, W, 3) uint8 RGB, of any sizes, with matrices (N, 2, 3) -> aligned faces (N, S, S, 3) uint8.

    sampling "reference": bilinear, truncated to uint8, then Lanczos to the square: the reference's arithmetic.
    sampling "quality": the same, but a face that is shrunk by more than 1.5 is averaged first (the reference aliases,
        which flickers as the head moves) and values are rounded (truncation darkens the face by half a grey level).
    """
    if sampling not in get_args(Sampling):
        raise OptionError(f"unknown sampling {sampling!r}: choose one of {', '.join(get_args(Sampling))}")
    faces = np.empty((len(frames), resolution, resolution, 3), np.uint8)
    for face, frame, matrix in zip(faces, frames, matrices, strict=True):
        canvas = warp_to_canvas(frame, matrix, resolution, sampling)
        cv2.resize(canvas, (resolution, resolution), dst=face, interpolation=cv2.INTER_LANCZOS4)
    return faces


def warp_to_canvas(
    frame: np.ndarray, matrix: np.ndarray, resolution: int, sampling: Sampling = "quality"
) -> np.ndarray:
    """One frame (H, W, 3) uint8 -> its 3:4 canvas (h, w, 3) uint8, grey 127 where it reaches outside the frame.

    Touches only the part of the frame that the canvas covers.
    """
    width, height = canvas_size(resolution)
    to_frame = np.linalg.inv(np.vstack([np.asarray(matrix, np.float64), [0, 0, 1]]))
    low, high = _covered(to_frame, width, height, frame.shape)
    if (high <= low).any():
        return np.full((height, width, 3), FILL, np.uint8)
    patch, scale = frame[low[1] : high[1], low[0] : high[0]], np.ones(2)
    shrink = np.sqrt(abs(np.linalg.det(to_frame[:2, :2])))
    if sampling == "quality" and shrink > MAX_ALIASED_SHRINK:
        size = np.maximum(np.rint((high - low) / shrink).astype(int), 1)
        patch = cv2.resize(patch, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
        scale = size / (high - low)
    offset = (to_frame[:2, 2] - low + 0.5) * scale - 0.5
    sampled = _bilinear(patch, to_frame[:2, :2] * scale[:, None], offset, width, height)
    return (sampled.round_() if sampling == "quality" else sampled).to(torch.uint8).numpy()


def _covered(to_frame: np.ndarray, width: int, height: int, shape: tuple) -> tuple[np.ndarray, np.ndarray]:
    """First and last-plus-one (x, y) of the frame pixels that bilinear sampling of the canvas reads."""
    corners = np.array([[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]]) @ to_frame[:2].T
    limits = [shape[1], shape[0]]
    low = np.clip(np.floor(corners.min(0)) - 1, 0, limits).astype(int)
    return low, np.clip(np.ceil(corners.max(0)) + 2, 0, limits).astype(int)


def _bilinear(patch: np.ndarray, turn: np.ndarray, offset: np.ndarray, width: int, height: int) -> torch.Tensor:
    """Patch (h, w, 3) uint8 sampled at turn @ (x, y) + offset -> (height, width, 3) float32, FILL outside.

    grid_sample rather than OpenCV's warp, which rounds positions to 1/32 px in some of its versions. It pads with
    zeros, hence the subtraction.
    """
    size = np.array([patch.shape[1], patch.shape[0]])
    # normalised coordinates with align_corners=False: (2 p + 1) / size - 1
    theta = np.concatenate([turn * (2 / size)[:, None], ((2 * offset + 1) / size - 1)[:, None]], 1)
    theta = torch.from_numpy(theta)
    columns = torch.arange(width, dtype=torch.float64)
    rows = torch.arange(height, dtype=torch.float64)
    along_rows = rows[:, None, None] * theta[:, 1] + theta[:, 2]
    grid = (along_rows + columns[None, :, None] * theta[:, 0]).float()[None]
    pixels = torch.from_numpy(np.ascontiguousarray(patch)).permute(2, 0, 1)[None].float() - FILL
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (sampled[0] + FILL).permute(1, 2, 0).contiguous()
