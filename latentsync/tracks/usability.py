"""Which frames of a face can be generated, and the fades towards those that cannot."""

import numpy as np

from ..options import LipSyncOptions
from .appearance import COVERED
from .paths import ClipFaces, FacePath

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
