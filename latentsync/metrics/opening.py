"""How far a mouth is open, frame by frame, and what that curve tells."""

from collections.abc import Iterable

import numpy as np

from ..faces.facemesh import mouth_opening
from ..faces.tracking import FaceTracker


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
