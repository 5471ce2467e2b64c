"""What is said in a clip, by whom, how its face moves, and how other rooms would have heard it; all from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import rooms
from .visemes import Manner, expressions
from .voices import SAMPLE_RATE, Phone, Voice, utterance

FPS = 25.0
SILENT = 0.03  # share of the clips in which nobody speaks
FROM_THE_START = 0.2  # share of those that begin before the first word, not in the middle of a sentence
BREATHES = 0.5  # share of the longer pauses


@dataclass(frozen=True)
class Speech:
    """voice of whom; waveforms (V, T) float32 at 16 kHz, the first the clip's own, the others of the same words at the
    same times; phones within 0..duration, without gaps; moves {expression: (F,) float32}."""

    voice: str
    waveforms: tuple[np.ndarray, ...]
    phones: tuple[Phone, ...]
    moves: dict[str, np.ndarray]
    manner: Manner


def speech(
    seed: int, voices: Sequence[Voice], *, duration: float, num_voices: int, manner: Manner | None = None
) -> Speech:
    """The speech of a seed, `duration` s long, whole frames, in its own manner or `manner`.

    Raises LatentSyncError where the voice fails.
    """
    random = np.random.default_rng([seed, 21])
    shares = np.array([voice.weight for voice in voices])
    voice = voices[random.choice(len(voices), p=shares / shares.sum())]
    own = Manner.draw(random)
    manner = manner or own
    if random.random() < SILENT:
        length = round(duration * SAMPLE_RATE)
        name, dry, phones = "nobody", np.zeros(length, np.float32), (Phone(0.0, duration, "rest", "pau"),)
    else:
        name = voice.name
        dry, phones = _talk(voice, random, duration + 1.2)
        first = next((p.start for p in phones if p.viseme not in ("rest", "breath")), 0.0)
        last = len(dry) / SAMPLE_RATE - duration
        lead = min(first, random.uniform(0.05, 0.5))
        start = first - lead if random.random() < FROM_THE_START else random.uniform(first, max(first, last))
        start = min(max(start, 0.0), last)
        begin = round(start * SAMPLE_RATE)
        dry = dry[begin : begin + round(duration * SAMPLE_RATE)]
        phones = tuple(replace(p, start=p.start - begin / SAMPLE_RATE, end=p.end - begin / SAMPLE_RATE) for p in phones)
    times = (np.arange(round(duration * FPS)) + 0.5) / FPS
    moves = expressions(phones, dry, times, manner, random)
    waveforms = [rooms.recorded(dry, random, spoiled=random.choice((0.2, 0.6, 1.0)))]
    for _ in range(num_voices - 1):
        other = rooms.other_size(dry, float(np.exp(random.uniform(-0.16, 0.16)))) if dry.any() else dry
        waveforms.append(rooms.recorded(other, random))
    return Speech(name, tuple(waveforms), _within(phones, duration), moves, manner)


def _talk(voice: Voice, random: np.random.Generator, length: float) -> tuple[np.ndarray, tuple[Phone, ...]]:
    """At least `length` s of sentences with pauses, and their phones."""
    parts: list[np.ndarray] = []
    phones: list[Phone] = []
    time = 0.0
    while time < length:
        pause = random.uniform(0.05, 0.35) if random.random() < 0.7 else random.uniform(0.35, 0.9)
        quiet = np.zeros(round(pause * SAMPLE_RATE))
        marks = [Phone(time, time + pause, "rest", "pau")]
        if pause > 0.4 and random.random() < BREATHES:
            lasts = random.uniform(0.22, 0.34)
            begin = len(quiet) - round((lasts + 0.05) * SAMPLE_RATE)
            drawn = rooms.breath(round(lasts * SAMPLE_RATE), random)
            quiet[begin : begin + len(drawn)] = drawn
            at, end = time + begin / SAMPLE_RATE, time + begin / SAMPLE_RATE + lasts
            marks = [
                Phone(time, at, "rest", "pau"),
                Phone(at, end, "breath", "breath"),
                Phone(end, time + pause, "rest", "pau"),
            ]
        spoken = utterance(voice, random)
        begin = time + len(quiet) / SAMPLE_RATE
        parts += [quiet, spoken.waveform * random.uniform(0.6, 1.0)]
        phones += [*marks, *(replace(p, start=p.start + begin, end=p.end + begin) for p in spoken.phones)]
        time = begin + len(spoken.waveform) / SAMPLE_RATE
    return np.concatenate(parts).astype(np.float32), tuple(phones)


def _within(phones: Sequence[Phone], duration: float) -> tuple[Phone, ...]:
    """Cut to 0..duration, pauses beside each other made one."""
    kept: list[Phone] = []
    for phone in phones:
        start, end = max(phone.start, 0.0), min(phone.end, duration)
        if end - start < 1e-4:
            continue
        if kept and kept[-1].viseme == phone.viseme == "rest":
            kept[-1] = replace(kept[-1], end=end)
        else:
            kept.append(replace(phone, start=start, end=end))
    return tuple(kept)
