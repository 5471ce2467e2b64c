"""Train the small VAE on aligned faces; resumable, writes ``run_dir/vae`` in diffusers' layout."""

import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel

from latentsync.masks import generation_mask

from .checkpoints import TrainingState
from .clip_store import ClipStore
from .config import TrainingConfig, parse_config
from .losses import vae_loss
from .make_synthetic_dataset import clip_folder
from .schedules import one_cycle

log = logging.getLogger(__name__)


def build_vae(config: TrainingConfig) -> AutoencoderKL:
    levels = len(config.vae.block_out_channels)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=config.vae.block_out_channels,
        layers_per_block=config.vae.layers_per_block,
        latent_channels=config.vae.latent_channels,
        norm_num_groups=config.vae.norm_num_groups,
        mid_block_add_attention=config.vae.mid_block_add_attention,
        sample_size=config.resolution,
    )


def draw_batch(
    store: ClipStore, mask: torch.Tensor, sampler: np.random.Generator, config: TrainingConfig
) -> torch.Tensor:
    """(N, 3, S, S) in [-1, 1]; part of it with the hole of the mask greyed, as the U-Net's condition has it."""
    clips = sampler.integers(0, len(store), config.vae.batch_size).tolist()
    faces = [store.frames(clip, int(sampler.integers(store.num_frames(clip))), 1)[0] for clip in clips]
    pixels = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2).float() / 127.5 - 1
    pixels[: int(config.vae.masked_fraction * len(pixels))] *= mask
    return pixels


def train_vae(config: TrainingConfig) -> Path:
    """Train, or finish training; returns the folder of the model."""
    run_dir, target = Path(config.run_dir), Path(config.run_dir) / "vae"
    if target.exists():
        return target
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    torch.manual_seed(config.seed)
    store = ClipStore(clip_folder(config))
    mask = generation_mask(config.resolution, config.mask).float()
    mouth = (generation_mask(config.resolution, config.blend_mask) < 0.5).float()
    vae = build_vae(config).to(memory_format=torch.channels_last)
    if config.vae.initial is not None:
        initial = AutoencoderKL.from_pretrained(config.vae.initial)
        vae.load_state_dict(initial.state_dict())
        vae.register_to_config(scaling_factor=initial.config.scaling_factor)
    learned = vae if config.vae.train_encoder else torch.nn.ModuleList([vae.post_quant_conv, vae.decoder])
    vae.requires_grad_(False)
    learned.requires_grad_(True)
    optimizer = torch.optim.AdamW(learned.parameters(), lr=config.vae.learning_rate, betas=(0.9, 0.99))
    vae, optimizer = accelerator.prepare(vae, optimizer)
    model = accelerator.unwrap_model(vae)
    ema = EMAModel(model.parameters(), decay=config.ema_decay)
    shadow = torch.nn.ParameterList(ema.shadow_params).requires_grad_(False)
    state = TrainingState(
        {"vae": model, "ema": shadow},
        optimizer.optimizer,
        np.random.default_rng([config.seed, 1]),
        torch.Generator().manual_seed(config.seed),
    )
    if state.load(run_dir / "vae_state.pt"):
        log.info("resumed at step %d", state.step)
    started = time.monotonic()
    while state.step < config.vae.steps:
        optimizer.param_groups[0]["lr"] = one_cycle(
            state.step, config.vae.steps, config.vae.learning_rate, config.warmup_fraction
        )
        pixels = draw_batch(store, mask, state.sampler, config).to(
            accelerator.device, memory_format=torch.channels_last
        )
        with accelerator.autocast():
            with torch.set_grad_enabled(config.vae.train_encoder):
                posterior = model.encode(pixels).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=state.generator).to(accelerator.device)
            latents = posterior.mean + posterior.std * noise.to(posterior.mean)
            reconstruction = model.decode(latents).sample
        loss, parts = vae_loss(
            reconstruction.float(),
            pixels,
            posterior.mean.float(),
            posterior.logvar.float(),
            mouth.to(accelerator.device),
            lower_half_weight=config.vae.lower_half_weight,
            gradient_weight=config.vae.gradient_weight,
            colour_weight=config.vae.colour_weight,
            mouth_weight=config.vae.mouth_weight,
            kl_weight=config.vae.kl_weight,
        )
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(vae.parameters(), config.max_grad_norm)
        optimizer.step()
        state.step += 1
        ema.optimization_step = state.step  # its warm-up depends on the step, also after a resume
        ema.step(model.parameters())
        if state.step % config.log_every == 0:
            text = " ".join(f"{name} {value:.4f}" for name, value in parts.items())
            log.info("step %d/%d %s (%.0f s)", state.step, config.vae.steps, text, time.monotonic() - started)
        if state.step % config.save_every == 0:
            state.save(run_dir / "vae_state.pt")
    ema.copy_to(model.parameters())
    if config.vae.train_encoder:
        model.register_to_config(scaling_factor=latent_scale(model.cpu(), store))
    part = target.with_name("vae.part")
    model.save_pretrained(part)
    part.rename(target)
    return target


@torch.inference_mode()
def latent_scale(vae: AutoencoderKL, store: ClipStore) -> float:
    """1 / standard deviation of the latents, so that the diffusion model sees unit variance."""
    clips = range(0, len(store), max(1, len(store) // 32))
    faces = np.concatenate([store.frames(clip)[:: max(1, store.num_frames(clip) // 4)] for clip in clips])
    pixels = torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 127.5 - 1
    deviation = torch.cat([vae.encode(batch).latent_dist.mean for batch in pixels.split(16)]).std().item()
    if not math.isfinite(deviation) or deviation == 0:
        raise RuntimeError(f"the VAE's latents have standard deviation {deviation}: training diverged")
    return 1 / deviation


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_vae(parse_config(__doc__))
