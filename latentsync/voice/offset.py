"""How far lips and sound of a video lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OffsetEstimate:
    """ms: by how much the lips come later than the sound, negative where earlier (as LipSyncOptions.audio_offset_ms).
    confidence: 0..1."""

    ms: float
    confidence: float


def estimate_offset(
    times: Sequence[float] | np.ndarray, openings: Sequence[float | None] | np.ndarray, peaks: Sequence[float]
) -> OffsetEstimate | None:
    """times (F,) s; openings (F,) of the mouth, None or NaN where unknown; peaks: fifty a second, 0..1 (waveform.py).

    None where it cannot be told.
    """
    return None
