"""What a microphone hears of a voice: a room, its own sound, noise, music; all synthesised. Nothing moves in time."""

import numpy as np
from scipy.signal import fftconvolve, lfilter, stft
from scipy.signal import istft as inverse_stft

from .voices import SAMPLE_RATE

FRAME = 512  # samples of a spectrum in which formants are moved
CHORDS = ((0, 4, 7), (0, 3, 7), (0, 5, 9), (0, 4, 9), (-2, 2, 5), (0, 3, 8))
SCALE = (0, 2, 4, 7, 9, 12, 14)  # half tones


def recorded(waveform: np.ndarray, random: np.random.Generator, *, spoiled: float = 1.0) -> np.ndarray:
    """(T,) float32 in [-1, 1] of (T,) speech. `spoiled` 0..1: how often and how much room, noise and music."""
    sound = waveform.astype(np.float64)
    if random.random() < 0.75 * spoiled:
        sound = _in_a_room(sound, random)
    sound = _microphone(sound, random, spoiled)
    level = max(_rms(sound), 1e-4)
    if random.random() < 0.9 * spoiled:
        distance = random.uniform(6 + 24 * (1 - spoiled), 45)  # dB below the voice
        sound = sound + noise(len(sound), random) * level * 10 ** (-distance / 20)
    if random.random() < 0.3 * spoiled:
        sound = sound + music(len(sound), random) * level * 10 ** (-random.uniform(3, 22) / 20)
    peak = float(np.abs(sound).max())
    loud = random.uniform(0.12, 0.95) / max(peak, 1e-4)
    sound = sound * min(loud, 300.0)
    if random.random() < 0.12 * spoiled:  # too near: it is cut off
        sound = np.clip(sound * random.uniform(1.5, 4), -0.9, 0.9)
    sound = sound + random.normal(0, 10 ** random.uniform(-4.6, -3.2), len(sound))
    return np.clip(sound, -1, 1).astype(np.float32)


def other_size(waveform: np.ndarray, factor: float) -> np.ndarray:
    """(T,) the same words at the same times and pitch from a throat whose formants lie `factor` times as high."""
    _, _, spectrum = stft(waveform, nperseg=FRAME, noverlap=FRAME * 3 // 4)
    logarithm = np.log(np.abs(spectrum) + 1e-7)
    kernel = np.hanning(25)[:, None]
    padded = np.pad(logarithm, ((12, 12), (0, 0)), mode="reflect")
    envelope = fftconvolve(padded, kernel / kernel.sum(), mode="valid", axes=0)
    places = np.clip(np.arange(len(envelope)) / factor, 0, len(envelope) - 1)
    low = places.astype(int)
    high, share = np.minimum(low + 1, len(envelope) - 1), (places - low)[:, None]
    moved = envelope[low] * (1 - share) + envelope[high] * share
    _, sound = inverse_stft(spectrum * np.exp(np.clip(moved - envelope, -3, 3)), nperseg=FRAME, noverlap=FRAME * 3 // 4)
    sound = np.pad(sound, (0, max(0, len(waveform) - len(sound))))[: len(waveform)]
    return (sound / max(float(np.abs(sound).max()), 1e-6)).astype(np.float32)


def breath(length: int, random: np.random.Generator) -> np.ndarray:
    """(length,) air drawn in: hiss that swells and ends."""
    swell = np.sin(np.linspace(0, np.pi, length) ** random.uniform(1.0, 1.4) / np.pi**0.2) ** 2
    hiss = random.normal(0, 1, length)
    hiss = hiss - lfilter([0.35], [1, -0.65], hiss)
    return np.clip(swell, 0, 1) * hiss * 10 ** random.uniform(-2.6, -1.7)


def noise(length: int, random: np.random.Generator) -> np.ndarray:
    """(length,) of unit power: hiss, rumble, hum of the mains, traffic, claps and clicks."""
    slope = random.choice((0.0, 0.5, 1.0, 1.4))  # white, pink, brown
    spectrum = np.fft.rfft(random.normal(0, 1, length))
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    sound = np.fft.irfft(spectrum / np.maximum(frequency, 40.0) ** slope, length)
    sound /= max(_rms(sound), 1e-9)
    times = np.arange(length) / SAMPLE_RATE
    if random.random() < 0.25:
        hum = random.choice((50.0, 60.0)) * random.uniform(0.99, 1.01)
        sound = sound + random.uniform(0.3, 1.5) * sum(
            np.sin(2 * np.pi * hum * k * times + k) / k for k in (1, 2, 3, 5)
        )
    if random.random() < 0.3:
        slow = np.interp(times, np.linspace(0, times[-1], 6), random.uniform(0.2, 2, 6))
        sound = sound * slow
    for _ in range(random.poisson(1.0) if random.random() < 0.3 else 0):
        at, last = int(random.integers(length)), int(random.integers(80, 2000))
        click = random.normal(0, 1, last) * np.exp(-np.arange(last) / (0.2 * last)) * random.uniform(2, 8)
        sound[at : at + last] += click[: max(0, length - at)]
    return sound / max(_rms(sound), 1e-9)


def music(length: int, random: np.random.Generator) -> np.ndarray:
    """(length,) of unit power: chords, a tune and a beat."""
    times = np.arange(length) / SAMPLE_RATE
    beat = 60 / random.uniform(70, 150)
    base = 110 * 2 ** (random.integers(0, 12) / 12)
    softness = random.uniform(0.8, 2.5)
    sound = np.zeros(length)
    begin = -random.uniform(0, 4) * beat
    while begin < times[-1]:
        local = times - begin
        sounding = (local >= 0) & (local < 4 * beat)
        for step in CHORDS[random.integers(len(CHORDS))]:
            sound += _tone(local, base * 2 ** (step / 12), softness, 1.6) * sounding
        for quarter in range(4):
            if random.random() < 0.7:
                step = SCALE[random.integers(len(SCALE))]
                sound += 0.8 * _tone(local - quarter * beat, 2 * base * 2 ** (step / 12), softness, 0.5)
            if random.random() < 0.6:
                hit = local - quarter * beat
                sound += 0.8 * np.where(hit >= 0, np.exp(-np.clip(hit, 0, 9) * 40), 0) * random.normal(0, 1, length)
        begin += 4 * beat
    return sound / max(_rms(sound), 1e-9)


def _tone(local: np.ndarray, frequency: float, softness: float, lasts: float) -> np.ndarray:
    """A plucked string from second 0 of `local` on."""
    on = np.clip(local, 0, None)
    swing = sum(np.sin(2 * np.pi * frequency * k * on) / k**softness for k in range(1, 6) if frequency * k < 7500)
    return np.where(local >= 0, swing * np.exp(-on / lasts) * np.minimum(on * 100, 1), 0)


def _in_a_room(sound: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Some early echoes and a tail; the direct sound comes first, undelayed."""
    decay = random.uniform(0.04, 0.28)  # s to a hundredth of the power, about
    length = int(min(3 * decay, 0.5) * SAMPLE_RATE)
    tail = random.normal(0, 1, length) * np.exp(-np.arange(length) / SAMPLE_RATE / (decay / 2.3))
    tail = lfilter([1 - (dull := random.uniform(0.2, 0.75))], [1, -dull], tail)
    tail[: int(0.004 * SAMPLE_RATE)] = 0
    tail *= random.uniform(0.05, 0.8) / max(np.linalg.norm(tail), 1e-9)
    for _ in range(random.integers(1, 6)):
        tail[random.integers(30, max(31, min(length, 700)))] += random.uniform(-0.4, 0.4)
    tail[0] = 1.0
    return fftconvolve(sound, tail)[: len(sound)]


def _microphone(sound: np.ndarray, random: np.random.Generator, spoiled: float) -> np.ndarray:
    """What it passes: tilts and bumps, at times only the band of a telephone."""
    spectrum = np.fft.rfft(sound)
    frequency = np.fft.rfftfreq(len(sound), 1 / SAMPLE_RATE)
    knots = np.array([0, 120, 300, 700, 1500, 3000, 5000, 8000])
    gain = np.interp(frequency, knots, random.normal(0, 3.5 * (0.4 + 0.6 * spoiled), len(knots)))  # dB
    gain -= 24 * np.clip(1 - frequency / random.uniform(40, 140), 0, 1)
    if random.random() < 0.12 * spoiled:
        low, high = random.uniform(150, 400), random.uniform(3000, 4200)
        gain -= 40 * (np.clip(1 - frequency / low, 0, 1) + np.clip((frequency - high) / 1000, 0, 1))
    return np.fft.irfft(spectrum * 10 ** (gain / 20), len(sound))


def _rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound))))
