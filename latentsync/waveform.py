"""The outline of a sound, for drawing."""

import numpy as np

PEAKS_PER_SECOND = 50


class WaveformPeaks:
    """The loudest sample of each fiftieth of a second, of samples that come in blocks.

    sample_rate: Hz, a multiple of 50.
    """

    def __init__(self, sample_rate: int):
        self._length = sample_rate // PEAKS_PER_SECOND
        self._left = np.empty(0, np.float32)
        self._peaks: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """The next samples (T,), float."""
        samples = np.concatenate([self._left, np.abs(block)])
        whole = len(samples) // self._length * self._length
        self._peaks.append(samples[:whole].reshape(-1, self._length).max(1))
        self._left = samples[whole:]

    def peaks(self) -> tuple[float, ...]:
        """0..1, the last one of what is left at the end."""
        last = [self._left.max(keepdims=True)] if len(self._left) else []
        return tuple(float(peak) for peak in np.concatenate([np.empty(0), *self._peaks, *last]).clip(0, 1))
