"""How far the lips and the sound of a video lie apart, told from mouth openings and loudness.

An open vowel is loud and closed lips are quiet, so the two curves correlate best at the lag between them. That is a
coarse measure: it wants some seconds of clear speech and says so, by its confidence, where it has not got them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from ..waveform import PEAKS_PER_SECOND

SHORTEST = 2.0  # s of known openings
LARGEST = 0.5  # s, of an offset looked for
COMPARED = 1.0  # s; lags up to here tell how distinct the best one is
STEP = 0.01  # s between lags
NEIGHBOURHOOD = 0.15  # s around the best lag that belong to it
SMOOTHING = 0.04  # s, standard deviation, of the loudness: lips are slower than the voice
DRIFT = 2.0  # s; slower changes are the head's and the speaker's distance, not speech
# Margin of the best correlation over those elsewhere, times the root of the seconds. Of synthetic speech of 3 s or more
# and noisy openings, half of SURE put 19 of 20 estimates within 80 ms, LEAST 3 of 4.
SURE, LEAST = 0.8, 0.15
TOLD = 0.5  # confidence from which on a person is told
LONGEST_COUNTED = 16.0  # s


@dataclass(frozen=True)
class OffsetEstimate:
    """An offset of lips and sound.

    ms           by how much the lips come later than the sound, negative where earlier: what audio_offset_ms does
    confidence   0..1
    method       what it was told from
    """

    ms: float
    confidence: float
    method: str = "loudness"

    @property
    def is_sure(self) -> bool:
        """Whether it is worth telling a person; web/js/report.js asks the same."""
        return self.confidence >= TOLD


def estimate_offset(
    times: Sequence[float] | np.ndarray, openings: Sequence[float | None] | np.ndarray, peaks: Sequence[float]
) -> OffsetEstimate | None:
    """The offset in a video, of at most half a second.

    times: (F,) s of its frames, ascending; openings: (F,) of the mouth in any unit, None or NaN where unknown; peaks:
    of its sound, fifty a second from 0 s on, 0..1 (waveform.py). None where it cannot be told: fewer than two seconds
    of known openings, a mouth or a sound without change, no lag better than the others.
    """
    times, openings = np.asarray(times, np.float64), np.array(openings, np.float64)  # None becomes NaN
    known = np.isfinite(openings)
    if known.sum() < 3 or len(peaks) < 3:
        return None
    interval = float(np.median(np.diff(times)))
    seconds = float(known.sum() * interval)
    if seconds < SHORTEST:
        return None
    opening = _without_drift(openings[known], round(DRIFT / interval))
    loudness = gaussian_filter1d(np.sqrt(np.asarray(peaks, np.float64)), SMOOTHING * PEAKS_PER_SECOND)
    loudness = _without_drift(loudness, round(DRIFT * PEAKS_PER_SECOND))
    count = round(COMPARED / STEP)
    lags = np.arange(-count, count + 1) * STEP
    shown = times[known] + interval / 2  # a frame stands for the middle of its display time
    places = (np.arange(len(loudness)) + 0.5) / PEAKS_PER_SECOND
    similarity = np.array([_correlation(opening, np.interp(shown - lag, places, loudness)) for lag in lags])
    if not similarity.any():
        return None
    best = int(np.where(np.abs(lags) <= LARGEST + 1e-9, similarity, -np.inf).argmax())
    others = similarity[np.abs(lags - lags[best]) > NEIGHBOURHOOD]
    confidence = (similarity[best] - others.max()) * min(seconds, LONGEST_COUNTED) ** 0.5 / SURE
    if confidence < LEAST / SURE or abs(lags[best]) > LARGEST - STEP / 2:
        return None
    before, peak, after = similarity[best - 1 : best + 2]
    between = 0.5 * (before - after) / (before - 2 * peak + after)  # the top of the parabola through the three
    return OffsetEstimate(round(1000 * float(lags[best] + between * STEP), 1), float(min(confidence, 1.0)))


def _without_drift(curve: np.ndarray, width: int) -> np.ndarray:
    return curve - uniform_filter1d(curve, max(width, 1), mode="nearest")


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's; 0 where one does not change."""
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 1e-9 else 0.0
