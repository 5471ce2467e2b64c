"""Train the small U-Net: stage 1 without, stage 2 with motion modules; resumable.

Reads the data set and ``run_dir/vae``, writes the averaged weights: ``run_dir/stage1.safetensors`` and
``run_dir/stage2.safetensors``.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from diffusers.training_utils import EMAModel
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentsync.attention import Float32Attention
from latentsync.audio_tokens import audio_tokens, window_centre
from latentsync.diffusion import ddim_scheduler, mixed_noise, one_step_clean
from latentsync.masks import generation_mask, latent_mask
from latentsync.unet import LatentSyncUNet

from .checkpoints import TrainingState
from .config import StageConfig, TrainingConfig, parse_config
from .lip_reader import train_lip_reader
from .losses import lip_loss, noise_loss, region_weights
from .schedules import one_cycle

log = logging.getLogger(__name__)
FPS = 25


@dataclass
class LatentClips:
    """float16: clean and masked (N, F, 4, s, s), scaled latents; features (N, V, L, layers, D); lips (N, F, 2) float32.

    mask: (1, 1, s, s).
    """

    clean: Tensor
    masked: Tensor
    features: Tensor
    lips: Tensor
    mask: Tensor


def build_unet(config: TrainingConfig, motion: str) -> LatentSyncUNet:
    """The small U-Net; ``motion`` is "none" or "all"."""
    return LatentSyncUNet(
        motion_blocks=motion,
        block_out_channels=config.unet.block_out_channels,
        layers_per_block=config.unet.layers_per_block,
        norm_num_groups=config.unet.norm_num_groups,
        num_attention_heads=config.unet.num_attention_heads,
        cross_attention_dim=config.unet.cross_attention_dim,
    )


@torch.inference_mode()
def encode_clips(config: TrainingConfig) -> LatentClips:
    """Encode the whole data set once; cached in ``run_dir/latents.safetensors``."""
    run_dir = Path(config.run_dir)
    mask = generation_mask(config.resolution, config.mask).float()
    features, lips = (torch.from_numpy(np.load(run_dir / "data" / name)) for name in ("features.npy", "lips.npy"))
    cache = run_dir / "latents.safetensors"
    if not cache.exists():
        vae = AutoencoderKL.from_pretrained(run_dir / "vae").eval().to(memory_format=torch.channels_last)
        faces = np.load(run_dir / "data" / "faces.npy", mmap_mode="r")
        clean, masked = [], []
        for clip in faces:
            pixels = torch.from_numpy(clip.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast("cpu", torch.bfloat16, enabled=config.mixed_precision == "bf16"):
                for pieces, batch in ((clean, pixels), (masked, pixels * mask)):
                    mean = torch.cat([vae.encode(part).latent_dist.mean.float() for part in batch.split(25)])
                    pieces.append((mean * vae.config.scaling_factor).half())
        part = cache.with_name(cache.name + ".part")
        save_file({"clean": torch.stack(clean).contiguous(), "masked": torch.stack(masked).contiguous()}, part)
        part.rename(cache)
    tensors = load_file(cache)
    size = tensors["clean"].shape[-1]
    hole = latent_mask(mask, size).float().reshape(1, 1, size, size)
    return LatentClips(tensors["clean"], tensors["masked"], features, lips, hole)


def draw_batch(clips: LatentClips, stage: StageConfig, dropout: float, sampler: np.random.Generator):
    """Clean, masked and reference latents (B, 4, F, s, s), tokens (B*F, K, D), lips (B, F, 2) and heard (B,), 0 or 1.

    The reference is another run of the same clip, at least ``num_frames`` away where the clip is long enough, so that
    the lips cannot be copied from it.
    """
    length, frames = clips.clean.shape[1], stage.num_frames
    clean, masked, reference, tokens, lips, audible = [], [], [], [], [], []
    for clip in sampler.integers(0, len(clips.clean), stage.batch_size):
        start = int(sampler.integers(0, length - frames + 1))
        apart = [r for r in range(length - frames + 1) if abs(r - start) >= frames] or [length - frames - start]
        other = int(sampler.choice(apart))
        clean.append(clips.clean[clip, start : start + frames])
        masked.append(clips.masked[clip, start : start + frames])
        reference.append(clips.clean[clip, other : other + frames])
        centres = [window_centre(index, FPS) for index in range(start, start + frames)]
        heard = float(sampler.random() >= dropout)
        voice = int(sampler.integers(clips.features.shape[1]))
        tokens.append(audio_tokens(clips.features[clip, voice], centres).float() * heard)
        lips.append(clips.lips[clip, start : start + frames])
        audible.append(heard)
    stacked = [rearrange(torch.stack(x).float(), "b f c h w -> b c f h w") for x in (clean, masked, reference)]
    return *stacked, torch.cat(tokens), torch.stack(lips), torch.tensor(audible)


def train_stage(config: TrainingConfig, name: str, clips: LatentClips) -> Path:
    """Train "stage1" or "stage2", or finish it; returns the file of averaged weights."""
    run_dir, stage = Path(config.run_dir), getattr(config, name)
    target = run_dir / f"{name}.safetensors"
    if target.exists():
        return target
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    torch.manual_seed(config.seed)
    unet = build_unet(config, "none" if name == "stage1" else "all")
    initial = stage.initial or (run_dir / "stage1.safetensors" if name == "stage2" else None)
    if initial is not None:
        missing, unexpected = unet.load_state_dict(load_file(initial), strict=False)
        if unexpected or any("motion_modules" not in key for key in missing):
            raise RuntimeError(f"{initial} does not fit {name}: missing {missing[:3]}, unexpected {unexpected[:3]}")
    if config.mixed_precision == "bf16" and accelerator.device.type == "cpu":
        unet.set_attn_processor(Float32Attention())
    optimizer = torch.optim.AdamW(unet.parameters(), lr=stage.learning_rate)
    unet, optimizer = accelerator.prepare(unet, optimizer)
    model = accelerator.unwrap_model(unet)
    ema = EMAModel(model.parameters(), decay=config.ema_decay)
    shadow = torch.nn.ParameterList(ema.shadow_params).requires_grad_(False)
    state = TrainingState(
        {"unet": model, "ema": shadow},
        optimizer.optimizer,
        np.random.default_rng([config.seed, 2 if name == "stage1" else 3]),
        torch.Generator().manual_seed(config.seed),
    )
    if state.load(run_dir / f"{name}_state.pt"):
        log.info("%s resumed at step %d", name, state.step)
    scheduler, device = ddim_scheduler(), accelerator.device
    mask = clips.mask.to(device)
    paste_mask = latent_mask(generation_mask(config.resolution, config.blend_mask).float(), mask.shape[-1])
    region_weight = region_weights(
        mask[0, 0],
        paste_mask.to(device),
        mask_weight=config.loss.mask_weight,
        paste_weight=config.loss.paste_weight,
    )
    reader = train_lip_reader(config, clips.clean).to(device) if config.loss.lip_weight > 0 else None
    started, average = time.monotonic(), state.extra.get("loss")
    while state.step < stage.steps:
        optimizer.param_groups[0]["lr"] = one_cycle(
            state.step, stage.steps, stage.learning_rate, config.warmup_fraction
        )
        batch = draw_batch(clips, stage, config.loss.audio_dropout, state.sampler)
        clean, masked, reference, tokens, lips, heard = (tensor.to(device) for tensor in batch)
        noise = mixed_noise(clean.shape, config.loss.noise_alpha, state.generator, device)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),), generator=state.generator)
        timesteps = timesteps.to(device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        wanted = noise
        if config.prediction_type == "v_prediction":
            wanted = scheduler.get_velocity(clean, noise, timesteps)
        hole = mask[:, :, None].expand(len(clean), 1, *clean.shape[2:])
        with accelerator.autocast():
            predicted = unet(torch.cat([noisy, hole, masked, reference], 1), timesteps, tokens).sample
        loss = noise_loss(
            predicted,
            wanted,
            region_weight,
            scheduler.alphas_cumprod,
            timesteps,
            max_timestep_weight=config.loss.max_timestep_weight,
        )
        if reader is not None:
            estimate = one_step_clean(
                noisy, predicted.float(), scheduler.alphas_cumprod, timesteps, config.prediction_type
            )
            read = rearrange(reader(rearrange(estimate, "b c f h w -> (b f) c h w")), "(b f) n -> b f n", b=len(lips))
            lip_error = lip_loss(read, lips, heard)
            loss = loss + config.loss.lip_weight * lip_error
            state.extra["lips"] = 0.98 * state.extra.get("lips", lip_error.item()) + 0.02 * lip_error.item()
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(unet.parameters(), config.max_grad_norm)
        optimizer.step()
        state.step += 1
        ema.optimization_step = state.step
        ema.step(model.parameters())
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        state.extra["loss"] = average
        if state.step % config.log_every == 0:
            lips_read = f", of it lips {state.extra['lips']:.4f}" if reader is not None else ""
            seconds = time.monotonic() - started
            log.info("%s %d/%d loss %.4f%s (%.0f s)", name, state.step, stage.steps, average, lips_read, seconds)
        if state.step % config.save_every == 0:
            state.save(run_dir / f"{name}_state.pt")
    ema.copy_to(model.parameters())
    part = target.with_name(target.name + ".part")
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, part)
    part.rename(target)
    return target


def train_unet(config: TrainingConfig) -> Path:
    """Both stages; returns the file of stage 2."""
    clips = encode_clips(config)
    train_stage(config, "stage1", clips)
    return train_stage(config, "stage2", clips)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_unet(parse_config(__doc__))
