"""The faces of a scanned clip: numbers only, a few hundred bytes a face and frame."""

from dataclasses import dataclass, fields

import numpy as np

from ..model_files import Framing


@dataclass(frozen=True)
class FacePath:
    """One person through a clip: what was seen in n of its frames. Arrays are shared: treat them as read-only.

    rows        (n,) int64, ascending: which of the scanned frames
    points      (n, 3, 2) float32 px: left brow, right brow, nose, of the framing "mesh" or a detector's own
    nose        (n, 2) float32 px, that of the framing "insightface"; NaN where the detector's own points are all
    confidence  (n,) float32, 0..1 that this is a face
    opening     (n,) float32, of the mouth in units of the distance of the outer eye corners; NaN unknown
    yaw         (n,) float32 degrees, 0 frontal, positive turned to the picture's right; NaN unknown
    side        (n,) float32 px, longest side of the box around the landmarks
    region      (n, 4) float32: centre x, y and side in px, angle in radians of the FaceRegion; NaN unknown
    contour     (n, K, 2) float32 px, the landmarks facemesh.LOWER_FACE; NaN unknown
    box         (n, 4) float32 px, x0 y0 x1 y1
    covering    (n,) float32, how unlike its usual colours the lower face is, see appearance.py; NaN unknown
    look        (D,) float32, what the person looks like, see appearance.py
    """

    rows: np.ndarray
    points: np.ndarray
    nose: np.ndarray
    confidence: np.ndarray
    opening: np.ndarray
    yaw: np.ndarray
    side: np.ndarray
    region: np.ndarray
    contour: np.ndarray
    box: np.ndarray
    covering: np.ndarray
    look: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def area(self) -> float:
        """How much of the picture the face fills over the clip, px."""
        return float((self.side.astype(np.float64) ** 2).sum())

    def until(self, row: int) -> "FacePath":
        """What was seen before this row."""
        kept = self.rows < row
        columns = {field.name: getattr(self, field.name)[kept] for field in fields(self) if field.name != "look"}
        return FacePath(**columns, look=self.look)

    def framed(self, framing: Framing) -> np.ndarray:
        """(n, 3, 2) float32 px: the points that a model of this framing is aligned by."""
        if framing == "mesh" or not self.has_framings:
            return self.points
        return np.concatenate([self.points[:, :2], self.nose[:, None]], 1)

    @property
    def has_framings(self) -> bool:
        """Whether there is more than one framing: not where the detector gives the points."""
        return bool(np.isfinite(self.nose).all())

    @property
    def centres(self) -> np.ndarray:
        """(n, 2) px, of the boxes."""
        return (self.box[:, :2] + self.box[:, 2:]) / 2


@dataclass(frozen=True)
class ClipFaces:
    """All faces of a scanned stretch of a clip of N frames.

    times       (N,) float64 s from the first scanned frame, ascending
    shots       (N,) int64: 0 for the first shot, 1 after the first cut, ...
    frame_size  (H, W) px
    paths       persons, by how much of the picture they fill over the clip, largest first; a person's place in it is
                the index a user gives
    """

    times: np.ndarray
    shots: np.ndarray
    frame_size: tuple[int, int]
    paths: tuple[FacePath, ...]

    @property
    def num_frames(self) -> int:
        return len(self.times)

    def until(self, time: float | None) -> "ClipFaces":
        """The frames before `time` s (None: all of them) and who is seen there."""
        if time is None or self.times[-1] < time:
            return self
        row = int(np.searchsorted(self.times, time))
        paths = [path for path in (path.until(row) for path in self.paths) if len(path)]
        paths.sort(key=lambda path: -path.area)
        return ClipFaces(self.times[:row], self.shots[:row], self.frame_size, tuple(paths))

    @property
    def interval(self) -> float:
        """s from one frame to the next, usually."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 0.04
