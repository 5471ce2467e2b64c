"""Who is who in a clip: the looks of faces, what belongs together, and each face's way through the clip."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import cv2
import numpy as np

from ..model_files import Framing
from .align import TEMPLATE

# Looks

BROW_DISTANCE = 22.0  # px, in the small picture that is looked at
REACH = 2.3  # of that distance, around the face's middle, are looked at
DARKEST = 12.0  # grey levels added before logarithms: noise in black is no colour
# Against the face's 1: hair and clothes are often half hidden, and the light changes the skin's brightness
HAIR_WEIGHT, CLOTHES_WEIGHT, HUE_WEIGHT, BRIGHTNESS_WEIGHT = 0.4, 0.3, 1.5, 0.6
MIDDLE = 36.0  # height between upper and lower face, in units of the template
MIN_SPREAD = 0.25  # of the template's: brows and nose nearly in one line are a face in profile, or none

_CENTRE, _RADII = np.array([37.5, 32.0]), np.array([24.0, 30.0])  # of the face, in units of the template


def _places() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where face, hair and clothes are looked at, (n, 2) each, in units of the template."""
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 13), np.linspace(-1, 1, 15)), -1).reshape(-1, 2)
    face = grid[(grid**2).sum(1) <= 1]
    hair = [(0.44 * column, -1 - 2 * row) for row in (0.06, 0.16, 0.26) for column in (-1, 0, 1)]
    clothes = [(column, 1 + 2 * row) for row in (0.4, 0.55) for column in (-1, 0, 1)]
    return tuple(np.asarray(part) * _RADII + _CENTRE for part in (face, hair, clothes))


_FACE, _HAIR, _CLOTHES = _places()
_LOWER = np.stack(np.meshgrid([22.0, 37.5, 53.0], [46.0, 54.0, 62.0, 70.0]), -1).reshape(-1, 2)  # around the mouth
_UPPER = np.array([[37.5, 8.0], [25.0, 30.0], [50.0, 30.0]])  # forehead, below the eyes
_PARTS = (_FACE, _HAIR, _CLOTHES, _LOWER, _UPPER)
_ALL, _ENDS = np.concatenate(_PARTS), np.cumsum([len(part) for part in _PARTS])[:-1]

# of a Look.person: upper face and hair, and by how much longer the whole usually is
_UNCOVERED = np.repeat(np.concatenate([_FACE[:, 1] < MIDDLE, np.ones(len(_HAIR), bool)]), 3).nonzero()[0]
UPPER_SHARE = 1.3
# A mask over nose and mouth is less red than the skin around the eyes everywhere, by so much in logarithms, and has one
# colour: pale blue measures 0.2 to 0.7, white 0.12 to 0.4, both within 0.02. Of faces without one the least red places
# but one stay below 0.1, as lips and cheeks do. Masks that are black, red, or of the skin's colour are not told.
MASK_TINT, MASK_SPREAD = 0.15, 0.12
MASK_PLACES = 9  # of the lower face; those below may lie on the neck
COVERED = 1.0  # what `covering` says of it
NUM_LOWER = 3 * len(_LOWER)


class Look(NamedTuple):
    """person: (D,) float32, see look_distance. lower: (NUM_LOWER,) float32, colours around the mouth relative to the
    face above it, see covering."""

    person: np.ndarray
    lower: np.ndarray


def face_look(frame: np.ndarray, points: np.ndarray) -> Look | None:
    """Of the face with the alignment points (3, 2) px in a frame (H, W, 3) uint8 RGB; None in profile."""
    small, points = _shrunk(frame, points)
    to_small = cv2.getAffineTransform(TEMPLATE.astype(np.float32), points.astype(np.float32))
    spread = np.linalg.svd(to_small[:, :2], compute_uv=False)
    if spread[1] < MIN_SPREAD * spread[0]:
        return None
    places = (_ALL @ to_small[:, :2].T + to_small[:, 2]).astype(np.float32)
    blurred = cv2.GaussianBlur(small, (0, 0), 1.5).astype(np.float32)
    seen = cv2.remap(blurred, places[None, :, 0], places[None, :, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    face, hair, clothes, lower, upper = np.split(np.log(seen[0] + DARKEST), _ENDS)
    skin = np.median(face[_FACE[:, 1] < MIDDLE], 0)  # what covers a mouth does not change it
    parts = ((face, 1.0), (hair, HAIR_WEIGHT), (clothes, CLOTHES_WEIGHT))
    relative = [((part - skin) * (weight / np.sqrt(part.size))).ravel() for part, weight in parts]
    tone = [HUE_WEIGHT * (skin - skin.mean()), BRIGHTNESS_WEIGHT * skin.mean(keepdims=True)]
    return Look(np.concatenate([*relative, *tone]), (lower - np.median(upper, 0)).ravel())


def covering(lower: np.ndarray) -> np.ndarray:
    """(n,) how unlike its usual colours the lower face is in each of n frames of one person, `lower` (n, NUM_LOWER).

    Below 0.3 for a face that talks and turns a little, 0.35 and more where something of another colour lies over it. A
    mask that is worn for more than half of the time is itself the usual: see masked. NaN unknown.
    """
    if not np.isfinite(lower).any():
        return lower.reshape(len(lower), -1).mean(-1)
    unlike = np.abs(lower - np.nanmedian(lower, 0)).reshape(len(lower), -1, 3).max(-1).mean(-1)
    worn, known = masked(lower), np.isfinite(unlike)
    if worn[known].mean() <= 0.5:
        return unlike
    if not worn[known].all():
        unlike[known & ~worn] = covering(lower[known & ~worn])
    unlike[worn] = COVERED
    return unlike


def masked(lower: np.ndarray) -> np.ndarray:
    """(n,) bool, whether something like a mask lies over nose, cheeks and mouth, in n frames (n, NUM_LOWER).

    Told by the skin around the eyes. A beard leaves the nose and the cheeks beside it, and the lips.
    """
    colours = lower.reshape(len(lower), -1, 3)[:, :MASK_PLACES]
    tints = np.sort(colours[..., 2] - colours[..., 0])[:, 1:-1]  # of all but one at either end
    return (tints[:, 0] > MASK_TINT) & (tints[:, -1] - tints[:, 0] < MASK_SPREAD)


def look_distance(look: np.ndarray, other: np.ndarray) -> float:
    """Of two Look.person: 0 for the same picture, about 0.2 for one person in two shots, 0.4 for two people."""
    return float(np.linalg.norm(look - other))


def look_change(look: np.ndarray, other: np.ndarray) -> float:
    """The same of the upper face and the hair alone, which stay where a mouth is covered."""
    return float(np.linalg.norm((look - other)[_UNCOVERED])) * UPPER_SHARE


def _shrunk(frame: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The head and its surroundings at one size, and the points there."""
    brows = max(float(np.linalg.norm(points[1] - points[0])), 1.0)
    reach, centre = REACH * brows, points.mean(0)
    step = max(1, int(brows / (1.5 * BROW_DISTANCE)))  # thinned first: averaging a close-up costs more than it tells
    low = np.clip(np.floor(centre - reach), 0, None).astype(int)
    patch = frame[low[1] : int(centre[1] + reach) + 1 : step, low[0] : int(centre[0] + reach) + 1 : step]
    scale = BROW_DISTANCE / brows
    size = np.maximum(np.rint(np.array([patch.shape[1], patch.shape[0]]) * step * scale).astype(int), 1)
    small = cv2.resize(patch, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA if scale < 1 else 1)
    return small, (points - low) * scale


# What belongs together

MAX_DISTANCE = 0.22  # of the looks of two pieces of one person, see appearance.look_distance
NEAR_BONUS = 0.25  # by which looks may differ more where a face comes back at once, at the same place and size
FORGETTING = 0.6  # s, in which that bonus falls to a third
NEVER = np.inf


@dataclass(frozen=True)
class Piece:
    """One face followed without a break in one shot.

    first, last  rows of the scan; begin, end: their times in s
    boxes        (2, 4) px, in the first and in the last frame
    look         (D,), NaN unknown
    weight       of its look: number of frames
    is_new       it begins where another face was seen at the same place: nearness says nothing
    """

    shot: int
    first: int
    last: int
    begin: float
    end: float
    boxes: np.ndarray
    look: np.ndarray
    weight: int
    is_new: bool = False


def link(pieces: Sequence[Piece]) -> list[list[int]]:
    """Indices of the pieces of each person.

    The two most alike are joined, and so on until no two groups are alike enough. Pieces that were seen at the same
    time are never one person.
    """
    if not pieces:
        return []
    count = len(pieces)
    groups: list[list[int]] = [[index] for index in range(count)]
    looks = np.stack([piece.look for piece in pieces]).astype(np.float64)
    weights = np.array([piece.weight for piece in pieces], float)
    apart = np.array([[_together(a, b) for b in pieces] for a in pieces]).reshape(count, count)
    bonus = np.array([[_nearness(a, b) for b in pieces] for a in pieces]).reshape(count, count) * NEAR_BONUS
    np.fill_diagonal(apart, True)
    costs = np.array([_distances(looks, index) for index in range(count)]).reshape(count, count) - bonus
    costs[apart] = NEVER
    while count > 1:
        one, other = sorted(map(int, np.unravel_index(np.argmin(costs), costs.shape)))
        if costs[one, other] > MAX_DISTANCE:
            break
        groups[one] += groups.pop(other)
        looks[one] = _mean_look(looks[[one, other]], weights[[one, other]])
        weights[one] += weights[other]
        apart[one] |= apart[other]
        bonus[one] = np.maximum(bonus[one], bonus[other])
        looks, weights = np.delete(looks, other, 0), np.delete(weights, other)
        apart, bonus, costs = (_without(matrix, one, other) for matrix in (apart, bonus, costs))
        costs[one] = np.where(apart[one], NEVER, _distances(looks, one) - bonus[one])
        costs[:, one] = costs[one]
        count -= 1
    return [sorted(group, key=lambda index: pieces[index].first) for group in groups]


def _distances(looks: np.ndarray, index: int) -> np.ndarray:
    """To all; where a look is unknown, as far as two people usually are, so that only nearness joins."""
    distances = np.linalg.norm(looks - looks[index], axis=1)
    return np.where(np.isnan(distances), MAX_DISTANCE + NEAR_BONUS / 2, distances)


def _mean_look(looks: np.ndarray, weights: np.ndarray) -> np.ndarray:
    known = np.isfinite(looks).all(1)
    return np.average(looks[known], axis=0, weights=weights[known]) if known.any() else looks[0]


def _without(matrix: np.ndarray, changed: int, index: int) -> np.ndarray:
    matrix[:, changed] = matrix[changed]
    return np.delete(np.delete(matrix, index, 0), index, 1)


def _together(one: Piece, other: Piece) -> bool:
    return one.first <= other.last and other.first <= one.last


def _nearness(one: Piece, other: Piece) -> float:
    """1 where one piece goes on where and when the other ends, down to 0."""
    before, after = (one, other) if one.first <= other.first else (other, one)
    if before.shot != after.shot or after.is_new or _together(before, after):
        return 0.0
    old, new = before.boxes[1], after.boxes[0]
    sides = float((old[2:] - old[:2]).max()), float((new[2:] - new[:2]).max())
    distance = float(np.linalg.norm(old[:2] + old[2:] - new[:2] - new[2:])) / 2 / max(*sides, 1e-6)
    growth = abs(float(np.log(max(sides[0], 1e-6) / max(sides[1], 1e-6))))
    gap = after.begin - before.end
    return float(np.exp(-gap / FORGETTING)) * max(0.0, 1 - distance) * max(0.0, 1 - growth)


# The faces of a clip


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
