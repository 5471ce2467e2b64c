"""Aligned faces of consecutive frames, smoothed over time as the product smooths a clip: looking both ways."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from latentsync.faces.align import Aligner, canvas_size, frame_pixels_per_crop_pixel, warp_faces
from latentsync.tracks.smoothing import LONGEST, REACH, smooth_points

from .settings import FPS

AHEAD = math.ceil(REACH * LONGEST * FPS)  # frames on either side that a frame's place may depend on
MARGIN = 0.5  # of the square's side: what smoothing may move it by, and far more


@dataclass(frozen=True)
class _Patch:
    """pixels: the part of a frame around its face, a copy; corner: (2,) x, y of its first pixel in the frame."""

    pixels: np.ndarray
    corner: np.ndarray


class LookaheadAligner:
    """Frames one after another; their faces come about a second later, when the frames after them are known.

    What is held meanwhile is the part of each frame around its face. The places are those of
    `smooth_points` over the whole stretch.
    """

    def __init__(self, resolution: int):
        self._resolution = resolution
        self._aligner = Aligner(resolution, "none")
        self.drop()

    def drop(self) -> None:
        """Forget all frames: what comes next is another stretch."""
        self._points: list[np.ndarray] = []  # of up to AHEAD frames that are done, then of the waiting ones
        self._patches: list[_Patch] = []  # of the waiting ones

    def add(self, pixels: np.ndarray, points: np.ndarray) -> None:
        """One more frame (H, W, 3) uint8 RGB whose face has the alignment points (3, 2) px."""
        self._points.append(np.asarray(points, np.float64))
        self._patches.append(_patch(pixels, self._aligner(points), self._resolution))

    @property
    def waiting(self) -> int:
        """Frames whose faces were not taken."""
        return len(self._patches)

    def take(self, is_end: bool = False) -> Iterator[tuple[np.ndarray, float]]:
        """Aligned faces (S, S, 3) uint8, and px of the frame per px of theirs, of all frames that can be placed.

        is_end: no more frames follow, so that all can.
        """
        count = self.waiting if is_end else max(self.waiting - AHEAD, 0)
        if not count:
            return
        before = len(self._points) - self.waiting
        times = np.arange(len(self._points)) / FPS
        places = smooth_points(np.stack(self._points), times)[before : before + count]
        patches, self._patches = self._patches[:count], self._patches[count:]
        self._points = self._points[max(before + count - AHEAD, 0) :]
        for patch, points in zip(patches, places, strict=True):
            matrix = self._aligner(points).astype(np.float64)
            scale = frame_pixels_per_crop_pixel(matrix, self._resolution)
            matrix[:, 2] += matrix[:, :2] @ patch.corner
            yield warp_faces([patch.pixels], matrix[None], self._resolution)[0], scale


def _patch(frame: np.ndarray, matrix: np.ndarray, resolution: int) -> _Patch:
    width, height = canvas_size(resolution)
    turn = np.linalg.inv(matrix[:, :2].astype(np.float64))
    corners = (np.array([[0, 0], [width, 0], [0, height], [width, height]]) - matrix[:, 2]) @ turn.T
    margin = MARGIN * np.ptp(corners, axis=0).max()
    limits = np.array([frame.shape[1], frame.shape[0]])
    low = np.clip(np.floor(corners.min(0) - margin), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0) + margin), low + 1, limits).astype(int)
    return _Patch(frame[low[1] : high[1], low[0] : high[0]].copy(), low)
