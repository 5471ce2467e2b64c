"""Which of the pieces that were followed without a break belong to the same person."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
