"""Sounds under a speech, and speeches with long pauses: what a voice gate has to tell apart. 16 kHz mono."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from latentsync.synthetic.speech import CONTROL_RATE, PHONEMES, SAMPLE_RATE, Speech

BEDS = ("room", "music", "noise")
ROOM = 1e-3  # standard deviation of a quiet room's hiss
BELOW_SPEECH = {"music": 14.0, "noise": 12.0}  # dB, root mean square against that of the spoken parts
EDGE = 0.02  # s, fade at the edges of a pause
CHORDS = ((0, 4, 7), (-3, 0, 4), (5, 9, 12), (7, 11, 14))  # semitones above the key
BEAT = 0.5  # s


def music(rng: np.random.Generator, samples: int) -> np.ndarray:
    """A pad of chords, a plucked melody and a drum; (T,), of unit root mean square."""
    time = np.arange(samples) / SAMPLE_RATE
    key, sound = 110 * 2 ** rng.uniform(0, 1), np.zeros(samples)
    for bar in range(int(time[-1] / (4 * BEAT)) + 1):
        start = bar * 4 * BEAT
        inside = (time >= start) & (time < start + 4 * BEAT)
        local = time[inside] - start
        for semitones in CHORDS[bar % len(CHORDS)]:
            pitch = key * 2 ** (semitones / 12)
            swell = np.minimum(1, local / 0.3) * np.minimum(1, (4 * BEAT - local) / 0.3)
            sound[inside] += swell * sum(np.sin(2 * np.pi * n * pitch * local) / n**1.5 for n in range(1, 7))
    for beat in range(int(time[-1] / BEAT) + 1):
        since = time - beat * BEAT
        after = (since >= 0) & (since < BEAT)
        local = since[after]
        note = key * 2 ** ((rng.choice((0, 2, 4, 7, 9)) + 12) / 12)
        sound[after] += 1.5 * np.exp(-local / 0.15) * np.sin(2 * np.pi * note * local)
        sound[after] += 0.8 * np.exp(-local / 0.03) * rng.standard_normal(len(local))
    return sound / sound.std()


def noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """A street: low rumble and hiss that swell and fall; (T,), of unit root mean square."""
    rumble = lfilter([1], [1, -0.97], rng.standard_normal(samples))
    hiss = rng.standard_normal(samples)
    swell = 1 + 0.4 * np.sin(2 * np.pi * 0.4 * np.arange(samples) / SAMPLE_RATE + rng.uniform(0, 6))
    sound = (rumble / rumble.std() + 0.4 * hiss) * swell
    return sound / sound.std()


def with_pauses(speech: Speech, pauses: Sequence[tuple[float, float]]) -> Speech:
    """The same speech, silent and with closed lips from one to the other second of each pause."""
    loudness, lips = np.ones(len(speech.waveform)), speech.lips.copy()
    for start, end in pauses:
        loudness[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)] = 0
        lips[round(start * CONTROL_RATE) : round(end * CONTROL_RATE)] = PHONEMES["pause"][6:8]
    loudness = gaussian_filter1d(loudness, EDGE / 2 * SAMPLE_RATE)
    return Speech((speech.waveform * loudness).astype(np.float32), gaussian_filter1d(lips, 0.03 * CONTROL_RATE, axis=0))


def with_bed(speech: np.ndarray, bed: str, rng: np.random.Generator) -> np.ndarray:
    """A speech (T,) over one of BEDS; at most 1, float32."""
    sound = speech + ROOM * rng.standard_normal(len(speech))
    if bed != "room":
        loudness = speech[np.abs(speech) > ROOM].std() * 10 ** (-BELOW_SPEECH[bed] / 20)
        sound = sound + loudness * {"music": music, "noise": noise}[bed](rng, len(speech))
    return (sound / max(1.0, np.abs(sound).max())).astype(np.float32)
