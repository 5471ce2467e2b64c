"""Mel-frequency cepstral coefficients as python_speech_features gives them, which the original SyncNet listens to."""

import numpy as np
from scipy.fft import dct

from ..errors import AudioError

SAMPLE_RATE = 16_000
FRAME, STEP = 400, 160  # samples: 25 ms every 10 ms
FFT_SIZE, NUM_FILTERS, NUM_COEFFICIENTS = 512, 26, 13
PRE_EMPHASIS, LIFTER = 0.97, 22


def mfcc(samples: np.ndarray) -> np.ndarray:
    """(T,) samples at 16 kHz -> (N, 13) float64, 100 a second; the first column is the logarithm of the energy.

    samples: int16, or floats in its range (not [-1, 1]: the logarithms would shift). No window; the end is padded with
    zeros to a whole frame. Raises AudioError for no samples.
    """
    if not len(samples):
        raise AudioError("there are no samples; expected some speech")
    signal = np.asarray(samples, np.float64)
    signal = np.append(signal[0], signal[1:] - PRE_EMPHASIS * signal[:-1])
    count = 1 if len(signal) <= FRAME else 1 + -(-(len(signal) - FRAME) // STEP)
    padded = np.zeros((count - 1) * STEP + FRAME)
    padded[: len(signal)] = signal
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP]
    power = np.abs(np.fft.rfft(frames, FFT_SIZE)) ** 2 / FFT_SIZE
    energy = _positive(power.sum(1))
    cepstrum = dct(np.log(_positive(power @ _filters().T)), type=2, axis=1, norm="ortho")[:, :NUM_COEFFICIENTS]
    cepstrum = cepstrum * (1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / LIFTER))
    cepstrum[:, 0] = np.log(energy)
    return cepstrum


def _filters() -> np.ndarray:
    """(26, 257): triangles between 0 and 8 kHz, evenly spaced in mel, their corners at whole bins."""
    highest = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, NUM_FILTERS + 2) / 2595) - 1)
    corners = np.floor((FFT_SIZE + 1) * hertz / SAMPLE_RATE)
    bins = np.arange(FFT_SIZE // 2 + 1)
    low, middle, high = (corners[place : place + NUM_FILTERS, None] for place in range(3))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where(bins < middle, rising, falling) * ((bins >= low) & (bins < high))


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values == 0, np.finfo(float).eps, values)
