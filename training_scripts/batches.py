"""What a step of training reads and draws: clips, their latents, and the batches of the U-Net and of SyncNet.

Everything is a pure function of the seed, the step and the place in the global batch: nothing has to be saved to
resume, and two processes together read and draw what one with the doubled batch does.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from latentsync.errors import LatentSyncError, MediaError, OptionError
from latentsync.media.output_file import written_whole
from latentsync.model.vae import Autoencoder, LatentSpace, encode
from latentsync.model.whisper import audio_tokens, window_centre
from latentsync.sync.pairs import Pair, PairBatch, count_starts, draw_pair, load_pairs, start_apart, usable_clips
from latentsync.sync.syncnet import count_windows, mel_window

from .clip_store import FPS, ClipStore
from .config import AugmentationConfig, SyncNetTraining, UNetTrainingConfig

log = logging.getLogger(__name__)
_ORDER, _ITEM, _STEP = 101, 102, 103  # keep the kinds of random numbers of one seed apart
ENCODED_AT_ONCE = 25  # frames
BLUR_KERNEL = 7  # px
BLURRED = 0.5  # share of clips
LOUDEST = 4.0  # end of the mel's range
Place = tuple[int, int, int]  # step, position in the global batch, index among the clips that are learned from


# Which clips a step reads, and what random numbers it draws


def clip_batch(num_clips: int, batch_size: int, seed: int, step: int, rank: int = 0, world_size: int = 1) -> list[int]:
    """Clips (batch_size of them) that process `rank` of `world_size` reads in step `step`, counted from 0.

    Every epoch is another permutation of all clips, and each is read once an epoch by all processes together; an epoch
    may end within a batch. Raises OptionError where nothing can be read.
    """
    if num_clips < 1 or batch_size < 1 or step < 0 or not 0 <= rank < world_size:
        raise OptionError(
            f"{num_clips} clips, batches of {batch_size}, step {step}, process {rank} of {world_size}: expected at "
            "least one clip and one item a batch, a step from 0 on and a process below their number"
        )
    first = (step * world_size + rank) * batch_size
    places = range(first, first + batch_size)
    return [int(_permutation(num_clips, seed, place // num_clips)[place % num_clips]) for place in places]


def item_rng(seed: int, step: int, position: int) -> np.random.Generator:
    """The generator of one item; position: its index in the global batch, rank * batch_size + i."""
    return np.random.default_rng([seed, _ITEM, step, position])


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The CPU generator of what one process draws for all items of a step together."""
    drawn = np.random.default_rng([seed, _STEP, step, rank]).integers(2**62)
    return torch.Generator().manual_seed(int(drawn))


@lru_cache(maxsize=4)
def _permutation(num_clips: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(num_clips)


# Latents that are encoded once


def hash_of(vae: Autoencoder) -> str:
    """Twelve hexadecimal digits of the VAE's weights and scale."""
    digest = hashlib.sha256(repr(LatentSpace.of(vae.config)).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()))
    return digest.hexdigest()[:12]


class ClipLatents:
    """Latents of a whole store, for data that is small enough to lie on disk in that form too.

    They lie beside the clips, in ``latents/<VAE>-<mask>/<key>.npy``: (2, F, C, s, s) float16, clean and masked, scaled
    posterior means. <VAE> is a hash of its weights, so that another VAE never reads them.

    vae: on the device that encodes; mask: keep-mask (S, S), whose name tells it from others.
    """

    def __init__(self, store: ClipStore, vae: Autoencoder, mask: Tensor, mask_name: str):
        self.store, self.vae, self.mask = store, vae, mask
        self.folder = store.folder / "latents" / f"{hash_of(vae)}-{mask_name}-{len(mask)}"

    def path(self, i: int) -> Path:
        return self.folder / f"{self.store.keys[i]}.npy"

    def of(self, i: int) -> np.ndarray:
        """(2, F, C, s, s) float16, memory-mapped: clean and masked. Raises MediaError, with the path."""
        try:
            return np.load(self.path(i), mmap_mode="r")
        except (OSError, ValueError, EOFError) as reason:
            raise MediaError(f"{self.path(i)} cannot be read ({reason}). Delete it; it is made again.") from reason

    @torch.inference_mode()
    def make(self, clips: Iterable[int], precision: torch.dtype | None = None) -> None:
        """Encode those of the clips that are not encoded yet; broken ones are left out, and met again when read."""
        missing = [i for i in clips if not self.path(i).exists()]
        for count, i in enumerate(missing):
            try:
                frames = self.store.frames(i, 0, self.store.num_frames(i))
            except (MediaError, OSError) as error:
                log.warning("not encoded: %s", error)
                continue
            pixels = to_pixels(frames)
            with torch.autocast(self.vae.device.type, precision, enabled=precision is not None):
                both = [
                    encode(self.vae, part, sample=False, batch_size=ENCODED_AT_ONCE).half().cpu().numpy()
                    for part in (pixels, pixels * self.mask)
                ]
            with written_whole(self.path(i)) as part:
                np.save(part, np.stack(both))
            if (count + 1) % 100 == 0:
                log.info("encoded %d of %d clips", count + 1, len(missing))


def to_pixels(frames: np.ndarray | Tensor) -> Tensor:
    """(..., S, S, 3) uint8 -> (..., 3, S, S) float32 in [-1, 1]."""
    return torch.as_tensor(frames).movedim(-1, -3).float() / 127.5 - 1


# What the U-Net reads


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


def unet_batches(
    clips: UNetClips, steps: range, rank: int = 0, world_size: int = 1, pin: bool = False
) -> Iterator[Batch]:
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


# What SyncNet reads


def draw_pairs(clips: ClipStore, usable: list[int], config: SyncNetTraining, step: int, rank=0, world=1) -> list[Pair]:
    """The pairs of one (micro) step of one process."""
    num_frames, distance, pairs = config.network().num_frames, config.negative_distance, []
    each = config.windows_per_clip if config.pairing == "all" else 1
    count = config.batch_size // each
    for position, place in enumerate(clip_batch(len(usable), count, config.seed, step, rank, world)):
        clip, rng = usable[place], item_rng(config.seed, step, rank * count + position)
        if config.pairing == "labels":
            pairs.append(draw_pair(clips, clip, num_frames, distance, rng, int(rng.integers(2))))
            continue
        voice, starts = int(rng.integers(clips.num_voices(clip))), []
        for _ in range(each):
            starts.append(start_apart(count_starts(clips, clip, num_frames, voice), starts, distance, rng))
        pairs.extend(Pair(clip, voice, start, start) for start in starts)
    return pairs


class StepBatches(Dataset):
    """Batch number n of a run is its item number n."""

    def __init__(self, clips: ClipStore, among: list[int], config: SyncNetTraining, rank: int = 0, world: int = 1):
        windows = config.windows_per_clip if config.pairing == "all" else 2
        self.usable = usable_clips(clips, among, config.network().num_frames, config.negative_distance, windows)
        self.clips, self.config, self.rank, self.world = clips, config, rank, world

    def __getitem__(self, step: int) -> PairBatch:
        pairs = draw_pairs(self.clips, self.usable, self.config, step, self.rank, self.world)
        return load_pairs(self.clips, pairs, self.config.network().num_frames)

    def loader(self, first: int, last: int) -> DataLoader:
        """Batches `first` to `last - 1` in order."""
        workers = self.config.num_workers
        return DataLoader(
            self,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
        )


def augment(
    stacked: Tensor, mel: Tensor, config: AugmentationConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Stacked frames (B, C, h, w) in [-1, 1] and mel (B, 1, 80, W), changed each clip by itself, all its frames alike.

    generator: of the CPU, so that all devices draw the same.
    """
    batch = len(stacked)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    mirrored = uniform(batch) < config.mirrored
    contrast = 1 + config.contrast * (2 * uniform(batch, 1, 1, 1) - 1)
    brightness = config.brightness * (2 * uniform(batch, 1, 1, 1) - 1)
    shifts = torch.randint(-config.shift, config.shift + 1, (batch, 2), generator=generator).tolist()
    sigmas = config.blur * uniform(batch) * (uniform(batch) < BLURRED)
    noise = config.noise * uniform(batch, 1, 1, 1)
    gain = config.mel_gain * (2 * uniform(batch, 1, 1, 1) - 1)

    stacked = torch.where(mirrored.to(stacked.device)[:, None, None, None], stacked.flip(-1), stacked)
    stacked = stacked * contrast.to(stacked) + brightness.to(stacked)
    if config.shift:
        height, width = stacked.shape[-2:]
        padded = F.pad(stacked, (config.shift,) * 4, mode="replicate")
        starts = [(config.shift + rows, config.shift + columns) for rows, columns in shifts]
        stacked = torch.stack(
            [
                clip[:, row : row + height, column : column + width]
                for clip, (row, column) in zip(padded, starts, strict=True)
            ]
        )
    if (blurred := (sigmas > 0.2).nonzero().flatten()).numel():
        sigma = sigmas[blurred][:, None].expand(-1, 2).to(stacked)
        places = blurred.to(stacked.device)
        kernel = (BLUR_KERNEL, BLUR_KERNEL)
        stacked[places] = gaussian_blur2d(stacked[places], kernel, sigma, border_type="replicate")
    if config.noise:
        drawn = torch.randn(stacked.shape, generator=generator)
        stacked = stacked + noise.to(stacked) * drawn.to(stacked)
    return stacked, (mel + gain.to(mel)).clamp(-LOUDEST, LOUDEST)
