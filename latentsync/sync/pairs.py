"""Pairs of a run of frames and a window of sound, that belong together or certainly do not."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..errors import OptionError
from ..model.vae import Autoencoder, encode
from .syncnet import StableSyncNet, count_windows, mel_window, stack_frames

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


# How well cosines tell pairs that belong together from those that do not.

TOGETHER = 64  # frames that the VAE encodes at a time
THRESHOLD = 0.5


@dataclass(frozen=True)
class PairScores:
    """accuracy: share of pairs told right by a cosine over the given threshold; best_accuracy: over best_threshold.

    right, wrong: mean cosine of the pairs that belong together and of the others.
    """

    num_pairs: int
    accuracy: float
    best_accuracy: float
    best_threshold: float
    right: float
    wrong: float


def pair_scores(cosines: np.ndarray, labels: np.ndarray, threshold: float = THRESHOLD) -> PairScores:
    """cosines: (N,); labels: (N,), 1 or True where a pair belongs together. Both kinds must be there."""
    cosines, belongs = np.asarray(cosines, np.float64), np.asarray(labels) > 0.5
    order = np.argsort(cosines)
    # With the threshold below the k-th smallest cosine, k pairs are called wrong.
    below = np.concatenate(([0], np.cumsum(~belongs[order])))
    over = belongs.sum() - np.concatenate(([0], np.cumsum(belongs[order])))
    edges = np.concatenate(([-np.inf], cosines[order], [np.inf]))
    possible = np.append(np.diff(edges) > 0, True)[: len(below)]  # equal cosines cannot be told apart
    share = np.where(possible, (below + over) / len(cosines), -1.0)
    best = int(share.argmax())
    between = np.clip(edges[best : best + 2], cosines.min(), cosines.max())
    return PairScores(
        num_pairs=len(cosines),
        accuracy=float(((cosines > threshold) == belongs).mean()),
        best_accuracy=float(share[best]),
        best_threshold=float(between.mean()),
        right=float(cosines[belongs].mean()),
        wrong=float(cosines[~belongs].mean()),
    )


def prepare_frames(batch: PairBatch, vae: Autoencoder | None, device: torch.device | str) -> Tensor:
    """Faces as SyncNet's kind of frames: (B, 3, F, S, S) in [-1, 1], or scaled latents (B, C, F, s, s)."""
    frames = rearrange(batch.frames.to(device), "b f h w c -> b c f h w").float() / 127.5 - 1
    if vae is None:
        return frames
    with torch.no_grad():
        latents = encode(vae, rearrange(frames, "b c f h w -> (b f) c h w"), sample=False, batch_size=TOGETHER)
    return rearrange(latents.float(), "(b f) c h w -> b c f h w", b=len(frames))


@torch.no_grad()
def pair_cosines(syncnet: StableSyncNet, batch: PairBatch, vae: Autoencoder | None = None) -> Tensor:
    """(B,) of each picture with its sound. Raises OptionError for a latent SyncNet without a VAE."""
    if syncnet.config.latent and vae is None:
        raise OptionError("This SyncNet looks at latents; give the VAE that makes them.")
    device = next(syncnet.parameters()).device
    stacked = stack_frames(prepare_frames(batch, vae, device), syncnet.config)
    vision, audio = syncnet(stacked.to(syncnet.dtype), batch.mel.to(device, syncnet.dtype))
    return (vision.float() * audio.float()).sum(1)


def measure_pairs(
    clips: Clips,
    among: Iterable[int],
    syncnet: StableSyncNet,
    *,
    num_pairs: int = 2048,
    min_negative_distance: int = 8,
    seed: int = 42,
    batch_size: int = 64,
    vae: Autoencoder | None = None,
    threshold: float = THRESHOLD,
) -> PairScores:
    """The scores on fixed pairs of these clips: half of frames with their own sound, half with that of another time.

    Raises OptionError where no clip is long enough.
    """
    num_frames = syncnet.config.num_frames
    usable = usable_clips(clips, among, num_frames, min_negative_distance)
    pairs = fixed_pairs(clips, usable, num_frames, min_negative_distance, num_pairs, seed)
    cosines = [
        pair_cosines(syncnet, load_pairs(clips, pairs[start : start + batch_size], num_frames), vae).cpu()
        for start in range(0, num_pairs, batch_size)
    ]
    return pair_scores(torch.cat(cosines).numpy(), np.array([pair.label for pair in pairs]), threshold)
