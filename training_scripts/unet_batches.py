"""What the U-Net's training reads: clips, their masks and references, what is heard, as pure functions of the step.

Everything an item draws comes from generators of its own, made of the seed, the step and its place in the global batch:
how many processes share the work, and where a run was cut, changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latentsync.errors import LatentSyncError, MediaError, OptionError
from latentsync.model.whisper import audio_tokens, window_centre
from latentsync.sync.syncnet import count_windows, mel_window

from .clip_latents import ClipLatents
from .clip_order import clip_batch, item_rng
from .clip_store import ClipStore
from .config import UNetTrainingConfig

FPS = 25
Place = tuple[int, int, int]  # step, position in the global batch, index among the clips that are learned from


@dataclass
class Batch:
    """B items; what a configuration does not need is None."""

    positions: Tensor  # (B,) in the global batch
    seeds: Tensor  # (B,) of each item's noise
    heard: Tensor  # (B,) 1 or 0: whether its audio is there, or zeroed
    tokens: Tensor  # (B, F, K, D) float32
    frames: Tensor | None  # (B, F, S, S, 3) uint8
    reference_frames: Tensor | None  # the same
    latents: Tensor | None  # (B, 3, F, C, s, s) float32: clean, masked and reference
    mel: Tensor | None  # (B, 1, 80, W) float32
    lips: Tensor | None  # (B, F, L) float32
    broken: list[str]  # what could not be read and was replaced

    def to(self, device: torch.device) -> "Batch":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in values.items()})


class UNetClips(Dataset):
    """Items by their `Place`."""

    def __init__(
        self,
        store: ClipStore,
        clips: list[int],
        config: UNetTrainingConfig,
        latents: ClipLatents | None = None,
        needs_mel: bool = False,
        needs_frames: bool = False,
    ):
        self.store, self.clips, self.config, self.latents = store, clips, config, latents
        self.needs_mel, self.needs_frames = needs_mel, needs_frames or latents is None
        self.needs_lips = config.loss.lip_weight > 0
        if not clips:
            raise OptionError(f"{store.folder} has no clips to learn from. Lower data.held_out, or prepare more clips.")

    def __getitem__(self, place: Place) -> dict:
        """The clip at that place, or the next one that can be read (data.broken), with what was wrong."""
        step, position, number = place
        broken = []
        for attempt in range(len(self.clips)):
            clip = self.clips[(number + attempt) % len(self.clips)]
            try:
                return {**self._item(clip, step, position), "broken": broken}
            except (LatentSyncError, OSError, ValueError, IndexError) as error:
                if self.config.data.broken == "stop" or len(self.clips) == 1:
                    raise MediaError(f"clip {self.store.keys[clip]} of {self.store.folder}: {error}") from error
                broken.append(f"clip {self.store.keys[clip]} of {self.store.folder}: {error}")
        raise MediaError(f"no clip of {self.store.folder} can be read; the first error: {broken[0]}")

    def _item(self, clip: int, step: int, position: int) -> dict:
        data, rng = self.config.data, item_rng(self.config.seed, step, position)
        voice = int(rng.integers(self.store.num_voices(clip)))
        heard = float(rng.random() >= self.config.noise.audio_dropout)
        seed = int(rng.integers(2**62))
        starts = self.store.num_frames(clip) - data.num_frames + 1
        if starts < 1:
            raise MediaError(f"it has {self.store.num_frames(clip)} frames, fewer than the {data.num_frames} of a step")
        whole = starts
        if self.needs_mel:
            mel = self.store.mel(clip, voice)
            whole = count_windows(self.store.num_frames(clip), mel.shape[1], data.num_frames)
            if whole < 1:
                raise MediaError(f"its sound is too short for {data.num_frames} frames")
        start = int(rng.integers(whole))
        others = reference_frames(start, data.num_frames, self.store.num_frames(clip), rng)
        item = {"positions": position, "seeds": seed, "heard": heard}
        features = torch.from_numpy(np.array(self.store.features(clip, voice)))
        centres = [window_centre(index, FPS) for index in range(start, start + data.num_frames)]
        item["tokens"] = audio_tokens(features, centres).float() * heard
        if self.needs_frames:
            item["frames"] = torch.from_numpy(self.store.frames(clip, start, data.num_frames))
        if self.latents is None:
            runs = np.split(others, np.flatnonzero(np.diff(others) != 1) + 1)
            parts = [self.store.frames(clip, int(run[0]), len(run)) for run in runs]
            item["reference_frames"] = torch.from_numpy(np.concatenate(parts))
        else:
            clean, masked = self.latents.of(clip)
            own = slice(start, start + data.num_frames)
            stacked = np.stack([clean[own], masked[own], clean[others]])
            item["latents"] = torch.from_numpy(stacked).float()
        if self.needs_mel:
            item["mel"] = torch.from_numpy(np.array(mel_window(mel, start, data.num_frames)))[None]
        if self.needs_lips:
            lips = self.store.lips(clip)
            if lips is None:
                raise OptionError("its lips are not known; the lip reader's loss is for people who were drawn")
            item["lips"] = torch.from_numpy(lips[start : start + data.num_frames])
        return item


def reference_frames(start: int, count: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) frames of the clip that frames from `start` on have as references, so that lips cannot be copied.

    Another run, apart where the clip is long enough; else the clip's frames moved around, each as far from its own as
    it can be.
    """
    starts = num_frames - count + 1
    apart = [other for other in range(starts) if abs(other - start) >= count]
    if apart:
        return int(rng.choice(apart)) + np.arange(count)
    least = min(count, num_frames // 2)
    return (start + int(rng.integers(least, num_frames - least + 1)) + np.arange(count)) % num_frames


def collate(items: list[dict]) -> Batch:
    batch = {field.name: None for field in fields(Batch)}
    batch["broken"] = [text for item in items for text in item["broken"]]
    for name, value in items[0].items():
        if isinstance(value, Tensor):
            batch[name] = torch.stack([item[name] for item in items])
        elif name != "broken":
            batch[name] = torch.tensor([item[name] for item in items])
    return Batch(**batch)


def places(
    num_clips: int, config: UNetTrainingConfig, steps: range, rank: int, world_size: int
) -> Iterator[list[Place]]:
    """Micro-batches of one process: those of an accumulated step together are that step's global batch."""
    size, parts = config.data.batch_size, config.optimizer.gradient_accumulation_steps
    for step in steps:
        for micro in range(parts):
            part = micro * world_size + rank
            clips = clip_batch(num_clips, size, config.seed, step, part, parts * world_size)
            yield [(step, part * size + i, clip) for i, clip in enumerate(clips)]


def batches(clips: UNetClips, steps: range, rank: int = 0, world_size: int = 1, pin: bool = False) -> Iterator[Batch]:
    """`Batch`es of one process from `steps.start` on."""
    loader = DataLoader(
        clips,
        batch_sampler=_Places(clips, steps, rank, world_size),
        num_workers=clips.config.data.num_workers,
        collate_fn=collate,
        pin_memory=pin,
    )
    return iter(loader)


class _Places:
    """`places` as an iterable that can be begun anew."""

    def __init__(self, clips: UNetClips, steps: range, rank: int, world_size: int):
        self.arguments = len(clips.clips), clips.config, steps, rank, world_size

    def __iter__(self) -> Iterator[list[Place]]:
        return places(*self.arguments)
