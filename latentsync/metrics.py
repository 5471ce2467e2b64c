"""Measures of lip-sync quality on frames."""

from collections.abc import Iterable

import numpy as np

from .faces.facemesh import mouth_opening
from .faces.tracking import FaceTracker


def opening_track(frames: Iterable[np.ndarray]) -> np.ndarray:
    """(F,) mouth opening in units of the eye distance, as the face mesh sees it; NaN where there is no face.

    frames: (H, W, 3) uint8 RGB.
    """
    tracker, observation, track = FaceTracker(), None, []
    for frame in frames:
        found = tracker(frame, observation)
        observation = found or observation
        track.append(np.nan if found is None else mouth_opening(found.landmarks))
    return np.array(track)


def correlation(measured: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's r over the frames where both are known; NaN with fewer than three, or without any variation."""
    known = np.isfinite(measured) & np.isfinite(truth)
    if known.sum() < 3 or measured[known].std() == 0 or truth[known].std() == 0:
        return float("nan")
    return float(np.corrcoef(measured[known], truth[known])[0, 1])


def region_psnr(picture: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB inside a boolean region (H, W) of two (H, W, 3) uint8 pictures."""
    return psnr_of(float(((picture[region].astype(np.float64) - truth[region]) ** 2).mean()))


def psnr_of(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error in grey levels of 255."""
    return float("inf") if mean_squared_error == 0 else 10 * np.log10(255**2 / mean_squared_error)
