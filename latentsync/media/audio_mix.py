"""Several sounds heard together, as when each person of a clip speaks a file of their own."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..errors import OptionError
from .audio_reader import AudioFacts, probe_audio, read_audio_blocks


def probe_mix(paths: Sequence[str | os.PathLike]) -> AudioFacts:
    """What the mix of these files is: the highest rate, the widest layout, the longest duration of any of them.

    Raises AudioError as `probe_audio` does, OptionError for no files.
    """
    if not paths:
        raise OptionError("no sound was given to be mixed; expected one file or more")
    facts = [probe_audio(path) for path in paths]
    widest = max(facts, key=lambda one: one.channels)
    return replace(
        widest,
        sample_rate=max(one.sample_rate for one in facts),
        duration=max(one.duration for one in facts),
    )


def read_mix_blocks(
    paths: Sequence[str | os.PathLike],
    *,
    sample_rate: int,
    layout: str,
    start: float = 0.0,
    duration: float | None = None,
) -> Iterator[np.ndarray]:
    """The sum of the files' sounds in blocks (C, T) float32, from `start` seconds on, until the longest one ends.

    One file is given as it is, as by `read_audio_blocks`, which says what is raised. Where the sum of several would go
    beyond [-1, 1] anywhere, the whole of it is turned down just so far that it does not: for that they are read twice.
    A file that ends before `start` is not heard; if all do, AudioError is raised.
    """
    if len(paths) > 1:
        lasting = [path for path in paths if probe_audio(path).duration > start]
        paths = lasting or paths[:1]

    def read() -> Iterator[np.ndarray]:
        part = {"mono": False, "layout": layout, "start": start, "duration": duration}
        return _summed([read_audio_blocks(path, sample_rate=sample_rate, **part) for path in paths])

    if len(paths) == 1:
        yield from read()
        return
    loudest = max((float(np.abs(block).max()) for block in read()), default=0.0)
    for block in read():
        yield block / max(loudest, 1.0)


def _summed(sounds: Sequence[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Blocks (C, T) as long as all sounds have samples at hand; a sound that has ended is silence."""
    playing = [(sound, np.empty((0, 0), np.float32)) for sound in sounds]
    while True:
        filled = ((sound, left if left.shape[1] else next(sound, None)) for sound, left in playing)
        playing = [(sound, block) for sound, block in filled if block is not None]
        if not playing:
            return
        count = min(block.shape[1] for _, block in playing)
        yield sum(block[:, :count] for _, block in playing)
        playing = [(sound, block[:, count:]) for sound, block in playing]
