"""Where in each frame one chosen face is generated, and how strongly it shows."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np

from ..faces.align import Aligner
from ..faces.detect import FaceRegion
from ..model_files import Framing
from ..options import LipSyncOptions
from .paths import ClipFaces, FacePath
from .smoothing import smooth_points
from .usability import face_weights, filled_gaps


@dataclass(frozen=True)
class PlacedFace:
    """A face of a frame, to be generated.

    matrix      (2, 3) float32, frame px to canvas px (see faces/align.py)
    weight      over 0 .. 1: how much of the generated face shows; it falls towards frames without a usable face
    confidence  0..1 that this is a face; 0 where it was lost for an instant and its place is interpolated
    opening     of the mouth, in units of the distance of the outer eye corners; None unknown
    yaw         degrees, positive turned to the picture's right; None unknown
    region      where the face mesh sees the face, px of the frame; None unknown
    contour     (K, 2) float32 px, the landmarks facemesh.LOWER_FACE; None unknown
    restart     first frame of an unbroken stretch or of a shot: nothing is to be carried over from frames before
    """

    matrix: np.ndarray
    weight: float
    confidence: float
    opening: float | None = None
    yaw: float | None = None
    region: FaceRegion | None = None
    contour: np.ndarray | None = None
    restart: bool = False


class Placement:
    """`placement.at(row)`: the PlacedFace of a scanned frame, None where nothing is generated.

    faces    row of the scanned frame -> its face
    weights  (N,) float64, 0..1: of all frames
    """

    def __init__(self, faces: dict[int, PlacedFace], weights: np.ndarray):
        self._faces, self.weights = faces, weights

    def at(self, row: int) -> PlacedFace | None:
        return self._faces.get(row)

    @cached_property
    def stretches(self) -> np.ndarray:
        """(N,) int: equal for frames that follow each other without a loss or a cut."""
        return np.cumsum([row in self._faces and self._faces[row].restart for row in range(len(self.weights))])

    def longest_stretch(self) -> list[int]:
        """Return the rows of the longest run of generated faces without a loss or a cut, the first of equals."""
        runs = groupby(sorted(self._faces), key=lambda row: self.stretches[row])
        return max((list(run) for _, run in runs), key=len, default=[])


def place(
    path: FacePath, clip: ClipFaces, resolution: int, options: LipSyncOptions, framing: Framing = "insightface"
) -> Placement:
    """The places of one face for a model of side `resolution` px and that framing (see faces/detect.py).

    options.smoothing: "temporal" is the filter of smoothing.py, over the whole stretch at once; for "p_bias" and "none"
    see faces.alignment.Aligner. options.fade, options.max_yaw: see usability.py.
    """
    path = filled_gaps(path, clip)
    weights = face_weights(path, clip, options)
    shots, times = clip.shots[path.rows], clip.times[path.rows]
    breaks = np.flatnonzero((np.diff(path.rows) > 1) | (np.diff(shots) > 0)) + 1
    starts = np.concatenate([[0], breaks, [len(path)]])
    points = path.framed(framing).astype(np.float64)
    if options.smoothing == "temporal":
        for first, last in pairwise(starts.tolist()):
            points[first:last] = smooth_points(points[first:last], times[first:last])
    aligner = Aligner(resolution, "none" if options.smoothing == "temporal" else options.smoothing)
    faces, before = {}, -1
    begins = set(starts[:-1].tolist())
    for index, row in enumerate(path.rows.tolist()):
        if index in begins:
            aligner.reset()
        matrix = aligner(points[index])
        if weights[row] <= 0:
            continue
        region = path.region[index]
        faces[row] = PlacedFace(
            matrix=matrix,
            weight=float(weights[row]),
            confidence=float(path.confidence[index]),
            opening=_known(path.opening[index]),
            yaw=_known(path.yaw[index]),
            region=FaceRegion(region[:2].astype(np.float64), float(region[2]), float(region[3]))
            if np.isfinite(region).all()
            else None,
            contour=path.contour[index] if np.isfinite(path.contour[index]).all() else None,
            restart=index in begins or before != row - 1,
        )
        before = row
    return Placement(faces, weights)


def _known(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None
