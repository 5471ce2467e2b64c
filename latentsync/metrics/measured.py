"""What a metric found in a clip, and how sure that is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .frechet import FeatureCloud, frechet_distance

RESAMPLES = 1000
COVERED = 0.95
BLOCK = 25  # frames: neighbours resemble each other, so they are drawn together


def mean_of(values: np.ndarray) -> float:
    """The usual statistic."""
    return float(np.mean(values))


@dataclass(frozen=True)
class Measured:
    """values: (N, ...), a row for each frame or window; statistic: rows -> the score."""

    values: np.ndarray
    statistic: Callable[[np.ndarray], float] = mean_of

    @property
    def score(self) -> float:
        """NaN without any row."""
        return self.statistic(self.values) if len(self.values) else float("nan")

    def interval(self, seed: int = 0) -> tuple[float, float] | None:
        """Of the score in this one clip; None with fewer than four blocks of frames. See `block_interval`."""
        return block_interval(self.values, self.statistic, seed=seed)


@dataclass(frozen=True)
class MeasuredClouds:
    """Features of the result and of the reference, for a Frechet distance. There is no interval: a resampled cloud has
    fewer different vectors, so its distance is larger, and the interval would not hold the score."""

    output: FeatureCloud
    reference: FeatureCloud

    @property
    def score(self) -> float:
        """NaN with fewer than two vectors."""
        enough = min(self.output.count, self.reference.count) >= 2
        return frechet_distance(self.output, self.reference) if enough else float("nan")

    def interval(self, seed: int = 0) -> None:
        return None


def block_interval(
    values: np.ndarray, statistic: Callable[[np.ndarray], float] = mean_of, *, block: int = BLOCK, seed: int = 0
) -> tuple[float, float] | None:
    """95 % percentile interval of a statistic of consecutive rows, by a moving-block bootstrap (Kuensch, 1989)."""
    number = len(values) // block
    if number < 4:
        return None
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, len(values) - block + 1, (RESAMPLES, -(-len(values) // block)))
    rows = (starts[..., None] + np.arange(block)).reshape(RESAMPLES, -1)[:, : len(values)]
    return _percentiles([statistic(values[chosen]) for chosen in rows])


def clip_interval(scores: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile interval of the mean over clips, by a bootstrap over the clips; None for fewer than four."""
    scores = np.asarray(scores, np.float64)
    if len(scores) < 4:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(scores), (RESAMPLES, len(scores)))
    return _percentiles(scores[drawn].mean(1))


def _percentiles(found) -> tuple[float, float] | None:
    found = np.asarray(found)
    found = found[np.isfinite(found)]
    if not len(found):
        return None
    low, high = np.quantile(found, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(low), float(high)
