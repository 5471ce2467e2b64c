"""Which frames of a face can be generated, and the fades towards those that cannot."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np

from ..model_files import Framing
from ..options import LipSyncOptions
from .align import Aligner
from .detect import FaceRegion
from .people import COVERED, ClipFaces, FacePath

# A filter over time that looks both ways: it removes the trembling of a still head without lagging behind a moving
# one.

LONGEST, SHORTEST = 0.30, 0.08  # s, standard deviation of the window over a still head and over a very quick one
SPEED_GAIN = 8.0  # s per face width: how fast the window narrows with the speed of the head
SPEED_WINDOW = 0.08  # s, of the estimate of the speed
REACH = 3.0  # standard deviations at which the window ends


def smooth_points(points: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(n, K, 2) px of one unbroken stretch at times (n,) s, ascending -> the same, smoothed.

    Each frame's points are the value of a parabola fitted to those around it (local regression; Cleveland, 1979) in a
    Gaussian window whose width in seconds falls with the speed of the head. A movement of constant speed or constant
    acceleration passes unchanged, whatever the width. All points share one window, so their shape is not distorted.
    Speeds are in units of the distance of the first two points: the frame's resolution does not matter.
    """
    if len(points) < 4:
        return points
    face = max(float(np.median(np.linalg.norm(points[:, 1] - points[:, 0], axis=1))), 1e-6)
    flat = points.reshape(len(points), -1)
    slopes = _local_fits(flat, times, np.full(len(times), SPEED_WINDOW), degree=1)[1]
    speed = np.linalg.norm(slopes.reshape(points.shape).mean(1), axis=1) / face
    widths = SHORTEST + (LONGEST - SHORTEST) / (1 + SPEED_GAIN * speed) ** 2
    return _local_fits(flat, times, widths, degree=2)[0].reshape(points.shape)


def _local_fits(values: np.ndarray, times: np.ndarray, widths: np.ndarray, degree: int) -> np.ndarray:
    """Value and slope per s, (2, n, D), at every time of a polynomial fitted to values (n, D) in a window around it."""
    fits = np.empty((2, *values.shape))
    first = np.searchsorted(times, times - REACH * widths)
    last = np.searchsorted(times, times + REACH * widths, "right")
    need = degree // 2 + 1  # frames on either side, where frames are far apart
    rows = np.arange(len(times))
    first, last = np.minimum(first, np.maximum(rows - need, 0)), np.maximum(last, rows + need + 1)
    for row, low, high, width in zip(rows.tolist(), first.tolist(), last.tolist(), widths.tolist(), strict=True):
        offset = (times[low:high] - times[row]) / width
        weight = np.exp(-0.25 * offset**2)[:, None]  # the root of the window: both sides of the equations get it
        powers = offset[:, None] ** np.arange(degree + 1)
        solution = np.linalg.lstsq(powers * weight, values[low:high] * weight, rcond=None)[0]
        fits[:, row] = solution[0], solution[1] / width
    return fits


# Which frames can be used, and how strongly

MIN_CONFIDENCE = 0.9  # below, the face mesh is unsure: something covers the face, or it turns out of sight
# See appearance.covering: something lies over the mouth. Bars measure 0.49 and more, talking mouths up to 0.38.
MAX_COVERING = 0.45
MIN_SIDE = 32.0  # px; a smaller face has a mouth of five pixels
BRIEF = 0.1  # s; a face that is lost or unusable for no longer is taken as if it were not


def filled_gaps(path: FacePath, clip: ClipFaces) -> FacePath:
    """The path with frames added, interpolated and of confidence 0, where it is broken for an instant in a shot."""
    ends = np.flatnonzero(np.diff(path.rows) > 1)
    added = []
    for end in ends:
        first, last = path.rows[end], path.rows[end + 1]
        same_shot = clip.shots[first] == clip.shots[last]
        if same_shot and clip.times[last] - clip.times[first] <= BRIEF + clip.interval * 1.01:
            added.append(np.arange(first + 1, last))
    if not added:
        return path
    rows = np.union1d(path.rows, np.concatenate(added))
    at = np.clip(np.searchsorted(path.rows, rows, "right") - 1, 0, len(path) - 2)
    times, seen = clip.times[rows], clip.times[path.rows]
    share = (times - seen[at]) / (seen[at + 1] - seen[at])

    def between(values: np.ndarray) -> np.ndarray:
        part = share.reshape(-1, *[1] * (values.ndim - 1))
        mixed = values[at] * (1 - part) + values[at + 1] * part
        mixed[np.isin(rows, path.rows)] = values
        return mixed.astype(values.dtype)

    confidence = np.zeros(len(rows), np.float32)
    confidence[np.isin(rows, path.rows)] = path.confidence
    return FacePath(
        rows=rows,
        points=between(path.points),
        nose=between(path.nose),
        confidence=confidence,
        opening=between(path.opening),
        yaw=between(path.yaw),
        side=between(path.side),
        region=between(path.region),
        contour=between(path.contour),
        box=between(path.box),
        covering=between(path.covering),
        look=path.look,
    )


def face_weights(path: FacePath, clip: ClipFaces, options: LipSyncOptions) -> np.ndarray:
    """(N,) weight 0..1 in every frame of the clip.

    A face is usable where it is seen, large enough, not turned by more than options.max_yaw, not covered and not
    unsure. Towards frames where it is not, the weight falls over options.fade seconds, all of them inside the usable
    stretch; at cuts and at the clip's ends it does not.
    """
    sure = (path.confidence >= MIN_CONFIDENCE) & ~(path.covering > MAX_COVERING)
    frontal = ~(np.abs(path.yaw) > options.max_yaw)  # unknown counts as frontal, and as not covered
    usable = np.zeros(clip.num_frames, bool)
    usable[path.rows[(sure | (path.confidence == 0)) & frontal & (path.side >= MIN_SIDE)]] = True
    seen = np.zeros(clip.num_frames, bool)
    seen[path.rows] = True
    weights = np.zeros(clip.num_frames)
    for first, last in _stretches(clip.shots, np.arange(clip.num_frames)):
        shot = slice(first, last)
        _close_brief(usable[shot], seen[shot], clip.times[shot], clip.interval)
        weights[shot] = _faded(usable[shot], clip.times[shot], options.fade)
    return weights


def cover_notice(path: FacePath, index: int) -> str | None:
    """What a person should know of a face, of that number, that wears a mask."""
    worn = int((path.covering >= COVERED).sum())
    if not worn:
        return None
    return (
        f"something like a mask covers nose and mouth of face {index} in {worn} of {len(path)} frames: they are left "
        "as they are. Choose another face (face, on the command line --face) or another part of the video"
    )


def _stretches(values: np.ndarray, rows: np.ndarray) -> list[tuple[int, int]]:
    """(first, last + 1) of the runs of equal values."""
    edges = np.flatnonzero(np.diff(values) != 0) + 1
    return list(zip([0, *edges.tolist()], [*edges.tolist(), len(rows)], strict=True)) if len(rows) else []


def _close_brief(usable: np.ndarray, seen: np.ndarray, times: np.ndarray, interval: float) -> None:
    """Set runs of unusable frames that are brief, lie between usable ones and show the face."""
    for first, last in _stretches(usable, times):
        inner = first > 0 and last < len(usable) and not usable[first] and seen[first:last].all()
        if inner and times[last] - times[first - 1] <= BRIEF + interval * 1.01:
            usable[first:last] = True


def _faded(usable: np.ndarray, times: np.ndarray, fade: float) -> np.ndarray:
    """Weights of the frames of one shot: 0 where unusable, rising over `fade` s from there, smoothly."""
    if not usable.any() or usable.all() or fade == 0:
        return usable.astype(float)
    unusable = times[~usable]
    after = np.searchsorted(unusable, times)
    padded = np.concatenate([[-np.inf], unusable, [np.inf]])
    distance = np.where(usable, np.minimum(times - padded[after], padded[after + 1] - times), 0.0)
    share = np.clip(distance / fade, 0, 1)
    return share * share * (3 - 2 * share)


# The place


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
