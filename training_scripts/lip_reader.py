"""A small net that reads the lips from latents, and its training.

Of people who were drawn the true lips are known. The reader tells them from latents, and the U-Net's one-step estimates
are held to them: a sync loss without SyncNet. With the noise loss alone the mouths of some faces open far too little,
since the few latents of the lips weigh next to nothing there.
"""

import itertools
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.errors import OptionError
from latentsync.model.weights import read_weights, write_weights

from .batches import ClipLatents
from .config import LipReaderConfig, UNetTrainingConfig
from .training_run import one_cycle

log = logging.getLogger(__name__)
MAX_NOISE = 0.4  # standard deviation added to latents of unit variance: estimates are not as clean as the data
WARMUP = 0.04  # of the steps
LOG_EVERY = 500  # steps
HELD_OUT = 0.05  # share of the clips, the last ones, that only measure


class LipReader(nn.Module):
    """Scaled latents (N, C, s, s) -> the lips as the store has them (N, L): opening, spread and, of heads, rounding.

    deviation: (L,) of each over the clips that it learned from, the unit of its loss.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, config: LipReaderConfig, latent_channels: int, size: int, num_values: int = 2):
        super().__init__()
        widths = [latent_channels, config.width, config.width, 2 * config.width, 2 * config.width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, padding=1, stride=1 + index % 2)
            for index, (narrow, wide) in enumerate(itertools.pairwise(widths))
        )
        self.output = nn.Linear(widths[-1] * (-(-size // 4)) ** 2, num_values)
        self.register_buffer("mean", torch.zeros(num_values))
        self.register_buffer("deviation", torch.ones(num_values))

    def forward(self, latents: Tensor) -> Tensor:
        hidden = latents
        for convolution in self.convolutions:
            hidden = F.silu(convolution(hidden))
        return self.output(hidden.flatten(1)) * self.deviation + self.mean


def load_lip_reader(config: UNetTrainingConfig, latents: ClipLatents | None, clips: list[int]) -> LipReader:
    """The frozen reader of ``loss.lip_reader``, trained where the file is not there yet."""
    if latents is None or config.loss.lip_reader is None:
        raise OptionError("the lip reader's loss needs data.latents=cached and loss.lip_reader, the reader's file")
    return train_lip_reader(config.lip_reader, latents, clips, config.loss.lip_reader, seed=config.seed)


def train_lip_reader(
    settings: LipReaderConfig, latents: ClipLatents, clips: list[int], target: Path, *, seed: int
) -> LipReader:
    """Train it, or load it if ``target`` is there; frozen."""
    channels, size = latents.of(clips[0]).shape[2:4]
    torch.manual_seed(seed)
    reader = LipReader(settings, channels, size, _lips(latents, clips[0]).shape[1])
    if not target.exists():
        _fit(reader, latents, clips, settings, seed)
        write_weights(target, reader.state_dict(), {"width": str(settings.width)})
    tensors, expected = read_weights(target)[0], reader.state_dict()
    if {name: tensor.shape for name, tensor in tensors.items()} != {name: t.shape for name, t in expected.items()}:
        raise OptionError(f"{target} reads other latents or other lips than those of these clips. Delete it.")
    reader.load_state_dict(tensors)
    return reader.eval().requires_grad_(False)


def _lips(latents: ClipLatents, clip: int) -> Tensor:
    lips = latents.store.lips(clip)
    if lips is None:
        raise OptionError(f"the lips of clip {latents.store.keys[clip]} are not known; the reader is for drawn people")
    return torch.from_numpy(lips)


def _fit(reader: LipReader, latents: ClipLatents, clips: list[int], settings: LipReaderConfig, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    measured = max(1, int(HELD_OUT * len(clips)))
    known = clips[:-measured] or clips
    everything = torch.cat([_lips(latents, i) for i in known])
    reader.mean.copy_(everything.mean(0))
    reader.deviation.copy_(everything.std(0).clamp(min=1e-6))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=settings.learning_rate)
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = one_cycle(step, settings.steps, settings.learning_rate, WARMUP)
        chosen = [known[i] for i in torch.randint(len(known), (settings.batch_size,), generator=generator)]
        places = torch.rand(settings.batch_size, generator=generator).tolist()
        pairs = [_pair(latents, clip, place) for clip, place in zip(chosen, places, strict=True)]
        clean, lips = (torch.stack(part) for part in zip(*pairs, strict=True))
        strength = MAX_NOISE * torch.rand(len(clean), 1, 1, 1, generator=generator)
        clean = clean + strength * torch.randn(clean.shape, generator=generator)
        loss = F.mse_loss(reader(clean) / reader.deviation, lips / reader.deviation)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % LOG_EVERY == 0:
            log.info("lip reader %d/%d loss %.4f", step + 1, settings.steps, loss.item())
    with torch.inference_mode():
        read = [reader(torch.from_numpy(latents.of(i)[0].astype(np.float32))) for i in clips[-measured:]]
    error = torch.cat(read) - torch.cat([_lips(latents, i) for i in clips[-measured:]])
    told = ", ".join(f"{value:.2f}" for value in (error.pow(2).mean(0).sqrt() / reader.deviation).tolist())
    log.info("lip reader on clips it was not trained with: error of each value in its deviations %s", told)


def _pair(latents: ClipLatents, clip: int, place: float) -> tuple[Tensor, Tensor]:
    """One frame's clean latents (C, s, s) and lips (L,); place: 0..1 along the clip."""
    clean = latents.of(clip)[0]
    frame = int(place * len(clean))
    return torch.from_numpy(clean[frame].astype(np.float32)), _lips(latents, clip)[frame]
