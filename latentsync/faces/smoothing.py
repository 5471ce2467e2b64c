"""A filter over time for the alignment points."""

import math

import numpy as np

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
