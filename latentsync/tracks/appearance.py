"""What a person looks like, in numbers that stay alike while the same person moves and talks.

No recognition model: the skin's colour, and those of face, hair and clothes relative to it, read at places that are
fixed relative to brows and nose. That tells the handful of people of one clip from each other, not any two people in
the world.
"""

from typing import NamedTuple

import cv2
import numpy as np

from ..faces.align import TEMPLATE

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
