"""Formant-synthesised speech whose mouth shapes are known exactly.

A source (glottal pulses or noise) passes three resonators, the classical formant synthesiser; the same phoneme track
drives the lips. Babble rather than language: any phoneme may follow any other.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

SAMPLE_RATE = 16000
CONTROL_RATE = 200  # Hz, rate of formant and lip tracks
_BLOCK = SAMPLE_RATE // 100  # samples between filter updates

# voiced, noise, F1, F2, F3 (Hz), amplitude, lip opening 0..1, lip spread (1 = neutral)
PHONEMES: dict[str, tuple[float, ...]] = {
    "a": (1, 0, 800, 1250, 2600, 1.0, 0.95, 1.0),
    "ae": (1, 0, 680, 1750, 2500, 0.95, 0.75, 1.1),
    "e": (1, 0, 530, 1850, 2500, 0.9, 0.5, 1.1),
    "i": (1, 0, 300, 2300, 3000, 0.8, 0.25, 1.25),
    "o": (1, 0, 500, 900, 2500, 0.95, 0.6, 0.7),
    "u": (1, 0, 320, 800, 2300, 0.8, 0.3, 0.55),
    "schwa": (1, 0, 600, 1400, 2450, 0.8, 0.55, 0.95),
    "m": (1, 0, 250, 1100, 2200, 0.35, 0.0, 1.0),
    "b": (0, 0, 300, 900, 2300, 0.02, 0.0, 1.0),
    "f": (0, 1, 1500, 4000, 6500, 0.12, 0.06, 1.05),
    "s": (0, 1, 4500, 6000, 7200, 0.25, 0.12, 1.15),
    "sh": (0, 1, 2200, 3300, 5200, 0.25, 0.18, 0.75),
    "l": (1, 0, 380, 1300, 2700, 0.6, 0.3, 1.0),
    "n": (1, 0, 280, 1600, 2500, 0.4, 0.2, 1.0),
    "r": (1, 0, 420, 1200, 1600, 0.6, 0.25, 0.8),
    "pause": (0, 0, 500, 1500, 2500, 0.0, 0.02, 1.0),
}
_VOWEL_AMPLITUDE = 0.5  # phonemes at least this loud last as long as vowels


@dataclass(frozen=True)
class Voice:
    """What tells one speaker from another."""

    pitch: float  # Hz
    melody: float  # relative depth of the pitch contour
    formant_scale: float  # vocal tract length
    tilt: float  # glottal low-pass coefficient, higher is darker
    breath: float  # noise mixed into voiced sounds
    tempo: float
    loudness: float  # peak of the waveform, 0..1
    hiss: float  # level of the room's noise

    @staticmethod
    def random(rng: np.random.Generator) -> "Voice":
        return Voice(
            pitch=rng.uniform(80, 250),
            melody=rng.uniform(0.06, 0.2),
            formant_scale=rng.uniform(0.87, 1.2),
            tilt=rng.uniform(0.86, 0.95),
            breath=rng.uniform(0.0, 0.06),
            tempo=rng.uniform(0.85, 1.2),
            loudness=rng.uniform(0.3, 0.9),
            hiss=10 ** rng.uniform(-4.5, -2.3),
        )


@dataclass(frozen=True)
class Speech:
    """waveform: (T,) float32 in [-1, 1] at SAMPLE_RATE; lips: (n, 2) opening and spread at CONTROL_RATE."""

    waveform: np.ndarray
    lips: np.ndarray

    def lips_at(self, times: np.ndarray) -> np.ndarray:
        """Opening and spread at the given times in seconds; (F, 2)."""
        grid = np.arange(len(self.lips)) / CONTROL_RATE
        return np.stack([np.interp(times, grid, self.lips[:, i]) for i in range(2)], 1)


def _phoneme_track(rng: np.random.Generator, duration: float, tempo: float) -> np.ndarray:
    """(n, 8) control values at CONTROL_RATE, still with sharp steps."""
    names = [name for name in PHONEMES if name != "pause"]
    track = np.empty((int(duration * CONTROL_RATE) + 1, 8))
    time = 0.0
    stress = rng.uniform(0.8, 1.05)
    while time < duration:
        if rng.random() < 0.07:
            name, length = "pause", rng.uniform(0.15, 0.6)
        else:
            name = names[rng.integers(len(names))]
            short = PHONEMES[name][5] < _VOWEL_AMPLITUDE
            length = (rng.uniform(0.07, 0.13) if short else rng.uniform(0.1, 0.26)) / tempo
        values = np.array(PHONEMES[name])
        if rng.random() < 0.4:
            stress = rng.uniform(0.7, 1.1)
        values[5:7] *= stress  # a louder vowel is a wider one
        track[int(time * CONTROL_RATE) : int((time + length) * CONTROL_RATE) + 1] = values
        time += length
    return track


def _smooth(track: np.ndarray, seconds: float) -> np.ndarray:
    size = int(seconds * CONTROL_RATE) | 1
    kernel = np.hanning(size + 2)[1:-1]
    kernel /= kernel.sum()
    padded = np.pad(track, ((size // 2, size // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, i], kernel, "valid") for i in range(track.shape[1])], 1)


def synthesise(rng: np.random.Generator, duration: float, voice: Voice) -> Speech:
    """Babble for ``duration`` seconds in one voice."""
    steps = _phoneme_track(rng, duration, voice.tempo)
    lips = _smooth(steps[:, 6:8], 0.1)  # lips are slower than the tongue
    control = _smooth(steps[:, :6], 0.05)
    count = int(duration * SAMPLE_RATE)
    seconds = np.arange(count) / SAMPLE_RATE
    grid = np.arange(len(control)) / CONTROL_RATE
    voiced, noisy, amplitude = (np.interp(seconds, grid, control[:, i]) for i in (0, 1, 5))
    contour = np.sin(2 * np.pi * rng.uniform(0.3, 1) * seconds + rng.uniform(0, 6))
    contour += 0.5 * np.sin(2 * np.pi * rng.uniform(1, 2.5) * seconds + rng.uniform(0, 6))
    phase = np.cumsum(voice.pitch * (1 + voice.melody * contour) / SAMPLE_RATE)
    pulses = lfilter([1], [1, -voice.tilt], np.diff(np.floor(phase), prepend=0) * 8)
    noise = rng.standard_normal(count)
    source = pulses * voiced + noise * (0.35 * noisy + voice.breath * voiced + 0.01)
    spoken = _resonate(source, control[:, 2:5] * voice.formant_scale) * amplitude
    spoken *= voice.loudness / (np.abs(spoken).max() + 1e-6)
    spoken += voice.hiss * rng.standard_normal(count)
    return Speech(np.clip(spoken, -1, 1).astype(np.float32), lips)


def _resonate(source: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Three parallel two-pole resonators whose frequencies follow ``formants`` (n, 3) at CONTROL_RATE."""
    output = np.zeros_like(source)
    state = [np.zeros(2) for _ in range(3)]
    step = _BLOCK * CONTROL_RATE // SAMPLE_RATE
    for block, start in enumerate(range(0, len(source), _BLOCK)):
        piece = source[start : start + _BLOCK]
        row = formants[min(block * step, len(formants) - 1)]
        for j, (bandwidth, gain) in enumerate(((80, 1.0), (110, 0.7), (160, 0.45))):
            frequency = np.clip(row[j], 100, 7600)
            radius = np.exp(-np.pi * bandwidth / SAMPLE_RATE)
            poles = [1, -2 * radius * np.cos(2 * np.pi * frequency / SAMPLE_RATE), radius * radius]
            filtered, state[j] = lfilter([1 - radius], poles, piece, zi=state[j])
            output[start : start + _BLOCK] += gain * filtered
    return output
