"""Train the small restorer (`--superres tiny`); resumable, writes ``run_dir/restorer.safetensors``.

The network is SRVGGNetCompact (Real-ESRGAN, Wang et al., 2021) in spandrel's layout: any program that reads such models
reads this one. It enlarges twice. Pairs are made first, see make_restorer_pairs.py.
"""

import logging
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from kornia.filters import gaussian_blur2d
from spandrel.architectures.Compact import Compact
from torch import Tensor
from torch.nn import functional as F

from latentsync.model.masks import generation_mask
from latentsync.model.weights import write_weights

from .checkpoints import TrainingState
from .config import TrainingConfig, parse_settings
from .losses import restoration_loss
from .make_restorer_pairs import SCALE, make_pairs
from .schedules import one_cycle
from .training_run import precision_here

log = logging.getLogger(__name__)
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
    run_dir, target = Path(config.run_dir), Path(config.run_dir) / "restorer.safetensors"
    if target.exists():
        return target
    pairs = make_pairs(config)
    accelerator = Accelerator(mixed_precision=precision_here(config.mixed_precision))
    torch.manual_seed(config.seed)
    soft, sharp = (np.load(pairs / f"{name}.npy", mmap_mode="r") for name in ("soft", "sharp"))
    # The whole generated region, and what is pasted of it twice as often.
    holes = [generation_mask(config.resolution, name) < 0.5 for name in (config.mask, config.blend_mask)]
    places = np.concatenate([np.argwhere(hole.numpy()) for hole in holes])
    network = build_restorer(config).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.restorer.learning_rate, betas=(0.9, 0.99))
    network, optimizer = accelerator.prepare(network, optimizer)
    model = accelerator.unwrap_model(network)
    ema = EMAModel(model.parameters(), decay=config.ema_decay)
    shadow = torch.nn.ParameterList(ema.shadow_params).requires_grad_(False)
    state = TrainingState(
        {"restorer": model, "ema": shadow},
        optimizer.optimizer,
        np.random.default_rng([config.seed, 4]),
        torch.Generator().manual_seed(config.seed),
    )
    if state.load(run_dir / "restorer_state.pt"):
        log.info("resumed at step %d", state.step)
    started = time.monotonic()
    while state.step < config.restorer.steps:
        optimizer.param_groups[0]["lr"] = one_cycle(
            state.step, config.restorer.steps, config.restorer.learning_rate, config.warmup_fraction
        )
        pixels, drawn = draw_batch(soft, sharp, places, state.sampler, config)
        wanted = with_colours_of(pixels, drawn)
        pixels = degrade(pixels, config, state.generator).to(accelerator.device, memory_format=torch.channels_last)
        with accelerator.autocast():
            restored = network(pixels)
        loss, parts = restoration_loss(
            restored.float(), wanted.to(accelerator.device), gradient_weight=config.restorer.gradient_weight
        )
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        state.step += 1
        ema.optimization_step = state.step  # its warm-up depends on the step, also after a resume
        ema.step(model.parameters())
        if state.step % config.log_every == 0:
            text = " ".join(f"{name} {value:.4f}" for name, value in parts.items())
            log.info("step %d/%d %s (%.0f s)", state.step, config.restorer.steps, text, time.monotonic() - started)
        if state.step % config.save_every == 0:
            state.save(run_dir / "restorer_state.pt")
    ema.copy_to(model.parameters())
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    write_weights(target, tensors, {"steps": str(state.step), "scale": str(SCALE)})
    return target


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_restorer(parse_settings(TrainingConfig, __doc__))
