"""Babble spoken by eSpeak NG, where that program is installed: other voices than our own, with a known lip track.

eSpeak NG does not tell when a sound begins, so syllables are spoken one at a time and joined by short cross-fades; the
consonant lasts as long as the syllable is longer than its vowel alone.
"""

import math
import shutil
import subprocess
import tempfile
import wave
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from ..errors import LatentSyncError
from .speech import CONTROL_RATE, PHONEMES, SAMPLE_RATE, Speech, _smooth

PROGRAM = "espeak-ng"
# names of PHONEMES -> eSpeak NG's mnemonics
VOWELS = {"a": "A:", "ae": "a", "e": "E", "i": "i:", "o": "O:", "u": "u:", "schwa": "3:"}
CONSONANTS = {"m": "m", "b": "b", "f": "f", "s": "s", "sh": "S", "l": "l", "n": "n", "r": "r"}
VARIANTS = ("m1", "m2", "m3", "m4", "m7", "f1", "f2", "f3", "f4", "f5")
CLOSURE = 0.06  # s of silence before a "b": the lips are closed and nothing sounds
FADE = 0.012  # s, cross-fade of two syllables
SILENCE = 0.02  # of the peak; what is quieter at the edges is not part of the syllable
CONSONANT_LENGTH = (0.05, 0.16)  # s, within which a measured length is believed


@dataclass(frozen=True)
class EspeakVoice:
    """variant: one of VARIANTS; speed: words a minute; pitch: 0..99; loudness: peak of the waveform, 0..1."""

    variant: str
    speed: int
    pitch: int
    loudness: float

    @staticmethod
    def random(rng: np.random.Generator) -> "EspeakVoice":
        return EspeakVoice(
            str(rng.choice(VARIANTS)), int(rng.integers(200, 320)), int(rng.integers(20, 80)), rng.uniform(0.3, 0.9)
        )


def espeak_available() -> bool:
    """Whether the program is installed."""
    return shutil.which(PROGRAM) is not None


def synthesise_espeak(rng: np.random.Generator, duration: float, voice: EspeakVoice | None = None) -> Speech:
    """Babble for ``duration`` seconds; the same generator state gives the same speech with one version of eSpeak NG.

    Raises LatentSyncError where eSpeak NG is not installed or fails.
    """
    voice = voice or EspeakVoice.random(rng)
    count = math.ceil(duration * SAMPLE_RATE)
    waveform = np.zeros(count + SAMPLE_RATE, np.float32)
    lips = np.empty((int(duration * CONTROL_RATE) + 1, 2))
    lips[:] = PHONEMES["pause"][6:8]
    fade, position = int(FADE * SAMPLE_RATE), 0
    while position < count:
        if rng.random() < 0.07:
            position += int(rng.uniform(0.15, 0.6) * SAMPLE_RATE)
            continue
        consonant, vowel = str(rng.choice(list(CONSONANTS))), str(rng.choice(list(VOWELS)))
        sound, consonant_length = _syllable(voice, consonant, vowel)
        place = waveform[position : position + len(sound)]
        place += _faded(sound[: len(place)], fade)
        seconds = np.array([position, position + consonant_length * SAMPLE_RATE, position + len(sound)]) / SAMPLE_RATE
        start, middle, end = np.rint(seconds * CONTROL_RATE).astype(int)
        lips[start:middle], lips[middle:end] = PHONEMES[consonant][6:8], PHONEMES[vowel][6:8]
        position += len(sound) - fade
    waveform = waveform[:count]
    waveform *= voice.loudness / max(float(np.abs(waveform).max()), 1e-6)
    return Speech(waveform, _smooth(lips, 0.1))


def _syllable(voice: EspeakVoice, consonant: str, vowel: str) -> tuple[np.ndarray, float]:
    """Samples (T,) of a consonant and a vowel, and the seconds until the vowel begins."""
    whole = _spoken(voice, CONSONANTS[consonant] + VOWELS[vowel])
    length = (len(whole) - len(_spoken(voice, VOWELS[vowel]))) / SAMPLE_RATE
    length = float(np.clip(length, *CONSONANT_LENGTH))
    if consonant != "b":
        return whole, length
    return np.pad(whole, (int(CLOSURE * SAMPLE_RATE), 0)), CLOSURE  # its burst opens the lips


def _faded(sound: np.ndarray, fade: int) -> np.ndarray:
    ramp = np.minimum(1, (np.arange(len(sound)) + 0.5) / fade).astype(np.float32)
    return sound * ramp * ramp[::-1]


@cache
def _spoken(voice: EspeakVoice, mnemonics: str) -> np.ndarray:
    """(T,) float32 at SAMPLE_RATE, without the silence around it."""
    if not espeak_available():
        raise LatentSyncError(
            f"{PROGRAM} is not installed; install it (apt or brew install espeak-ng) or use `synthesise`"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "syllable.wav"
        command = [PROGRAM, "-v", f"en+{voice.variant}", "-s", str(voice.speed), "-p", str(voice.pitch)]
        done = subprocess.run(  # noqa: S603 (numbers and phonemes of ours)
            [*command, "-w", str(file), f"[[{mnemonics}]]"], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        if done.returncode or not file.is_file():
            raise LatentSyncError(
                f"{PROGRAM} could not speak {mnemonics!r}: {done.stderr.strip() or 'no file written'}"
            )
        with wave.open(str(file)) as sound:
            rate, samples = sound.getframerate(), np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    common = math.gcd(rate, SAMPLE_RATE)
    samples = resample_poly(samples / 32768, SAMPLE_RATE // common, rate // common).astype(np.float32)
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max(initial=0))
    if not len(loud):
        raise LatentSyncError(f"{PROGRAM} spoke {mnemonics!r} without a sound; is the voice en+{voice.variant} there?")
    return samples[loud[0] : loud[-1] + 1]
