"""Pairs of a run of frames and a window of sound, that belong together or certainly do not."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError
from .sync_mel import count_windows, mel_window

FIXED = 7_777  # goes into the seed of the pairs to measure with


class Clips(Protocol):
    """What is needed of a store of clips (training_scripts.clip_store.ClipStore)."""

    def num_frames(self, i: int) -> int: ...

    def num_voices(self, i: int) -> int: ...

    def frames(self, i: int, start: int, count: int) -> np.ndarray: ...

    def mel(self, i: int, voice: int = 0) -> np.ndarray: ...


class Pair(NamedTuple):
    """Frames of a clip from one start on, and its sound, in one of its voices, from another."""

    clip: int
    voice: int
    picture: int  # start frames
    sound: int

    @property
    def label(self) -> int:
        """1 where they belong together."""
        return int(self.picture == self.sound)


@dataclass
class PairBatch:
    """frames (B, F, S, S, 3) uint8, mel (B, 1, 80, W) float32, and which clip and start frames (B,) they are of."""

    frames: Tensor
    mel: Tensor
    clip: Tensor
    picture: Tensor
    sound: Tensor

    @property
    def labels(self) -> Tensor:
        """(B,) float: 1 where picture and sound belong together."""
        return (self.picture == self.sound).float()

    def belongs(self) -> Tensor:
        """(B, B) bool, pictures by sounds of the batch."""
        return self._same_clip() & (self.picture[:, None] == self.sound[None])

    def differs(self, distance: int) -> tuple[Tensor, Tensor]:
        """Of different clips, and of one clip but so many frames apart that they certainly do not belong together.

        (B, B) bool each.
        """
        apart = (self.picture[:, None] - self.sound[None]).abs() >= distance
        return ~self._same_clip(), self._same_clip() & apart

    def _same_clip(self) -> Tensor:
        return self.clip[:, None] == self.clip[None]


def count_starts(clips: Clips, clip: int, num_frames: int, voice: int = 0) -> int:
    """Start frames that have a whole window of pictures and of sound."""
    return count_windows(clips.num_frames(clip), clips.mel(clip, voice).shape[1], num_frames)


def usable_clips(clips: Clips, among: Iterable[int], num_frames: int, distance: int, windows: int = 2) -> list[int]:
    """Those with room for so many windows, each `distance` frames or more from the others, wherever the first are.

    Raises OptionError where none is.
    """
    among, needed = list(among), (windows - 1) * (2 * distance - 1) + 1
    usable = [clip for clip in among if count_starts(clips, clip, num_frames) >= needed]
    if not usable:
        raise OptionError(
            f"None of {len(among)} clips has the {needed + num_frames - 1} frames, with sound, that {windows} windows "
            f"at least {distance} frames apart need. Give longer clips or lower min_negative_distance."
        )
    return usable


def start_apart(count: int, taken: list[int], distance: int, rng: np.random.Generator) -> int:
    """One of the first `count` starts, `distance` or more away from those taken."""
    free = [start for start in range(count) if all(abs(start - other) >= distance for other in taken)]
    return int(rng.choice(free))


def draw_pair(clips: Clips, clip: int, num_frames: int, distance: int, rng: np.random.Generator, label: int) -> Pair:
    """A pair of that clip in any of its voices; label 0: at least `distance` frames apart."""
    voice = int(rng.integers(clips.num_voices(clip)))
    count = count_starts(clips, clip, num_frames, voice)
    sound = int(rng.integers(count))
    return Pair(clip, voice, sound if label else start_apart(count, [sound], distance, rng), sound)


def fixed_pairs(
    clips: Clips, usable: list[int], num_frames: int, distance: int, num_pairs: int, seed: int
) -> list[Pair]:
    """Pairs to measure with, right and wrong in turn, of the usable clips in turn: the same at every call."""
    return [
        draw_pair(
            clips,
            usable[(index // 2) % len(usable)],
            num_frames,
            distance,
            np.random.default_rng([seed, FIXED, index]),
            (index + 1) % 2,
        )
        for index in range(num_pairs)
    ]


def load_pairs(clips: Clips, pairs: list[Pair], num_frames: int) -> PairBatch:
    frames = np.stack([clips.frames(pair.clip, pair.picture, num_frames) for pair in pairs])
    mel = np.stack([mel_window(clips.mel(pair.clip, pair.voice), pair.sound, num_frames) for pair in pairs])
    clip, picture, sound = (torch.tensor([getattr(p, name) for p in pairs]) for name in ("clip", "picture", "sound"))
    return PairBatch(torch.from_numpy(frames), torch.from_numpy(mel[:, None]).float(), clip, picture, sound)
