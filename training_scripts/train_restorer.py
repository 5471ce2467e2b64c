"""Train the small restorer (`--superres tiny`); resumable, writes ``run_dir/restorer.safetensors``.

The network is SRVGGNetCompact (Real-ESRGAN, Wang et al., 2021) in spandrel's layout: any program that reads such models
reads this one. It enlarges twice. Pairs are made first, see make_restorer_pairs.py.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from spandrel.architectures.Compact import Compact
from torch import Tensor
from torch.nn import functional as F

from latentsync.model.masks import generation_mask
from latentsync.model.weights import write_weights

from .batches import step_generator
from .config import TrainingConfig, parse_settings
from .losses import restoration_loss
from .make_restorer_pairs import SCALE, make_pairs
from .training_run import Losses, TrainingRun, make_accelerator, one_cycle

BLUR_KERNEL = 7  # px
BROAD = 4.0  # px of the soft face, sigma: colours of wider places are left as they are


def build_restorer(config: TrainingConfig) -> Compact:
    return Compact(num_feat=config.restorer.width, num_conv=config.restorer.depth, upscale=SCALE)


def draw_batch(
    soft: np.ndarray, sharp: np.ndarray, places: np.ndarray, sampler: np.random.Generator, config: TrainingConfig
) -> tuple[Tensor, Tensor]:
    """Pieces (N, 3, p, p) of soft faces and the same ones sharp, (N, 3, 2p, 2p), in [0, 1]; some of them mirrored.

    places: (n, 2) row and column of pixels that may be a piece's middle.
    """
    side, inputs, targets = config.restorer.crop, [], []
    for face in sampler.integers(0, len(soft), config.restorer.batch_size):
        place = places[sampler.integers(len(places))] - side // 2
        row, column = np.clip(place, 0, soft.shape[2] - side)
        turn = slice(None, None, -1 if sampler.random() < 0.5 else 1)
        variant = sampler.integers(soft.shape[1])
        inputs.append(soft[face, variant, row : row + side, column : column + side][:, turn])
        row, column, large = SCALE * row, SCALE * column, SCALE * side
        targets.append(sharp[face, row : row + large, column : column + large][:, turn])
    return tuple(torch.from_numpy(np.stack(x)).permute(0, 3, 1, 2).float() / 255 for x in (inputs, targets))


def with_colours_of(soft: Tensor, sharp: Tensor) -> Tensor:
    """The sharp pieces with the soft ones' broad colours: what the VAE lost of those, no sharpening brings back."""
    sigma = BROAD * SCALE
    kernel = 2 * int(2 * sigma) + 1
    difference = F.interpolate(soft, sharp.shape[-2:], mode="bilinear") - sharp
    return sharp + gaussian_blur2d(difference, (kernel, kernel), (sigma, sigma), border_type="replicate")


def degrade(pixels: Tensor, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    """(N, 3, p, p) in [0, 1] with a blur and a noise of random strengths, the same for a whole batch and for each."""
    sigma = config.restorer.blur * torch.rand((), generator=generator).item()
    if sigma > 0.2:
        pixels = gaussian_blur2d(pixels, (BLUR_KERNEL, BLUR_KERNEL), (sigma, sigma))
    strength = config.restorer.noise * torch.rand((len(pixels), 1, 1, 1), generator=generator)
    return (pixels + strength * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)


def train_restorer(config: TrainingConfig) -> Path:
    """Train, or finish training; returns the file."""
    run_dir, target = config.run_dir, config.run_dir / "restorer.safetensors"
    if target.exists():
        return target
    pairs = make_pairs(config)
    accelerator, settings = make_accelerator(config.mixed_precision), config.restorer
    torch.manual_seed(config.seed)
    soft, sharp = (np.load(pairs / f"{name}.npy", mmap_mode="r") for name in ("soft", "sharp"))
    # The whole generated region, and what is pasted of it twice as often.
    holes = [generation_mask(config.resolution, name) < 0.5 for name in (config.mask, config.blend_mask)]
    places = np.concatenate([np.argwhere(hole.numpy()) for hole in holes])
    model = build_restorer(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    run = TrainingRun(
        run_dir / "restorer_training",
        accelerator,
        model,
        model.parameters(),
        optimizer,
        ema_decay=config.ema_decay,
        max_grad_norm=config.max_grad_norm,
        log_every=config.log_every,
        save_every=config.save_every,
    )
    run.resume(earlier=run_dir / "restorer_state.pt")

    def loss_of(step: int) -> Losses:
        pixels, drawn = draw_batch(soft, sharp, places, np.random.default_rng([config.seed, 4, step]), config)
        wanted = with_colours_of(pixels, drawn).to(accelerator.device)
        pixels = degrade(pixels, config, step_generator(config.seed, step))
        with accelerator.autocast():
            restored = run.model(pixels.to(accelerator.device, memory_format=torch.channels_last))
        return restoration_loss(restored.float(), wanted, gradient_weight=settings.gradient_weight)

    def rate(step: int) -> float:
        return one_cycle(step, settings.steps, settings.learning_rate, config.warmup_fraction)

    run.train(settings.steps, range(run.step, settings.steps), loss_of, rate)
    run.swap_average()
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    write_weights(target, tensors, {"steps": str(run.step), "scale": str(SCALE)})
    return target


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_restorer(parse_settings(TrainingConfig, __doc__))
