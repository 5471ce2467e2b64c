"""A small net that reads the lips from latents, and its training.

Of drawn avatars the true lips are known. The reader tells them from latents, and the U-Net's one-step estimates are
held to them: a sync loss without SyncNet. With the noise loss alone the mouths of some faces open far too little, since
the few latents of the lips weigh next to nothing there.
"""

import itertools
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .config import LipReaderConfig, TrainingConfig, parse_config
from .schedules import one_cycle

log = logging.getLogger(__name__)
MAX_NOISE = 0.4  # standard deviation added to latents of unit variance: estimates are not as clean as the data
HELD_OUT = 0.05  # share of the clips, the last ones, that only measure


class LipReader(nn.Module):
    """Scaled latents (N, 4, s, s) -> opening and spread of the lips (N, 2)."""

    def __init__(self, config: LipReaderConfig, latent_channels: int, size: int):
        super().__init__()
        widths = [latent_channels, config.width, config.width, 2 * config.width, 2 * config.width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, padding=1, stride=1 + index % 2)
            for index, (narrow, wide) in enumerate(itertools.pairwise(widths))
        )
        self.output = nn.Linear(widths[-1] * (size // 4) ** 2, 2)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = latents
        for convolution in self.convolutions:
            hidden = F.silu(convolution(hidden))
        return self.output(hidden.flatten(1))


def train_lip_reader(config: TrainingConfig, clean: Tensor) -> LipReader:
    """Train it, or load it if ``run_dir/lip_reader.safetensors`` is there; frozen. clean: (N, F, 4, s, s) latents."""
    run_dir = Path(config.run_dir)
    target = run_dir / "lip_reader.safetensors"
    torch.manual_seed(config.seed)
    reader = LipReader(config.lip_reader, clean.shape[2], clean.shape[-1])
    if not target.exists():
        lips = torch.from_numpy(np.load(run_dir / "data" / "lips.npy"))
        _fit(reader, clean, lips, config)
        part = target.with_name(target.name + ".part")
        save_file(reader.state_dict(), part)
        part.rename(target)
    reader.load_state_dict(load_file(target))
    return reader.eval().requires_grad_(False)


def _fit(reader: LipReader, clean: Tensor, lips: Tensor, config: TrainingConfig) -> None:
    settings, generator = config.lip_reader, torch.Generator().manual_seed(config.seed)
    measured = max(1, int(HELD_OUT * len(clean)))
    known = len(clean) - measured if len(clean) > measured else len(clean)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=settings.learning_rate)
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = one_cycle(
            step, settings.steps, settings.learning_rate, config.warmup_fraction
        )
        clips = torch.randint(known, (settings.batch_size,), generator=generator)
        frames = torch.randint(clean.shape[1], (settings.batch_size,), generator=generator)
        latents = clean[clips, frames].float()
        strength = MAX_NOISE * torch.rand(len(latents), 1, 1, 1, generator=generator)
        latents = latents + strength * torch.randn(latents.shape, generator=generator)
        loss = F.mse_loss(reader(latents), lips[clips, frames])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % (10 * config.log_every) == 0:
            log.info("lip reader %d/%d loss %.4f", step + 1, settings.steps, loss.item())
    with torch.inference_mode():
        read = torch.cat([reader(clip.float()) for clip in clean[-measured:]])
    error = (read - lips[-measured:].flatten(0, 1)).pow(2).mean(0)
    log.info("lip reader on clips it was not trained with: mean squared error %.4f, %.4f", *error.tolist())


if __name__ == "__main__":
    from .train_unet import encode_clips

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    configuration = parse_config(__doc__)
    train_lip_reader(configuration, encode_clips(configuration).clean)
