"""Noise, the noise schedule, guidance and the denoising loop, as pure functions of latents (B, 4, F, h, w)."""

import math
from collections.abc import Callable, Sequence

import torch
from diffusers import DDIMScheduler, SchedulerMixin
from torch import nn

from .errors import OptionError

NUM_TRAIN_TIMESTEPS = 1000
PREDICTION_TYPES = ("epsilon", "v_prediction")  # what a U-Net's output means: the noise, or the velocity
MAX_INFERENCE_STEPS = NUM_TRAIN_TIMESTEPS - 1  # with the offset of 1, a thousand steps would ask for timestep 1000


def ddim_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """DDIM with the reference's settings: leading spacing, offset 1, final alpha = alphas_cumprod[0].

    The reference's U-Nets predict the noise. A small one cannot do that well enough at the noisiest steps, where the
    clean latents are what is left of it, 14 times enlarged: the bundled one predicts the velocity.
    """
    return DDIMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        timestep_spacing="leading",
    )


def shared_noise(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Standard normal noise (B, C, F, h, w) that is the same for all F frames of a clip: inference's initial latents.

    Draws (B, C, 1, h, w), on the generator's device so that a CPU generator gives the same noise everywhere.
    """
    clips, channels, frames, height, width = shape
    noise = _normal((clips, channels, 1, height, width), generator, device, dtype)
    return noise.repeat(1, 1, frames, 1, 1)


def mixed_noise(
    shape: Sequence[int],
    alpha: float = 1.0,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Training noise (B, C, F, h, w): a part shared by the frames plus a part of each frame's own, of unit variance.

    The shared part has variance alpha^2 / (1 + alpha^2). Two full draws, first the shared (whose first frame is used),
    then the individual, as in the reference.
    """
    shared = _normal(shape, generator, device, dtype)[:, :, :1]
    individual = _normal(shape, generator, device, dtype)
    shared_std = math.sqrt(alpha**2 / (1 + alpha**2))
    individual_std = math.sqrt(1 / (1 + alpha**2))
    return individual_std * individual + shared_std * shared


def _normal(shape, generator, device, dtype) -> torch.Tensor:
    drawn_on = generator.device if generator is not None else device
    return torch.randn(tuple(shape), generator=generator, device=drawn_on, dtype=dtype).to(device or drawn_on)


def one_step_clean(
    noisy: torch.Tensor,
    predicted: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    timesteps: torch.Tensor,
    prediction_type: str = "epsilon",
) -> torch.Tensor:
    """Clean latents (B, ...) that the U-Net's output implies, for timesteps (B,) or 0-dim.

    prediction_type: "epsilon", the noise: (x_t - sqrt(1 - a_t) e) / sqrt(a_t); "v_prediction", the velocity
    sqrt(a_t) e - sqrt(1 - a_t) x_0: sqrt(a_t) x_t - sqrt(1 - a_t) v.
    """
    alpha = alphas_cumprod.to(device=noisy.device, dtype=noisy.dtype)[timesteps.to(noisy.device).reshape(-1)]
    alpha = alpha.view(-1, *[1] * (noisy.ndim - 1))
    if prediction_type == "v_prediction":
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
    return (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt()


def predict_noise(
    unet: nn.Module,
    latents: torch.Tensor,
    conditioning: torch.Tensor,
    timestep: torch.Tensor | int,
    tokens: torch.Tensor,
    guidance_scale: float = 1.0,
) -> torch.Tensor:
    """Predicted noise (B, 4, F, h, w) with classifier-free guidance against silent (all-zero) tokens.

    Of a U-Net that predicts the velocity (see `ddim_scheduler`) the velocity: guidance is the same for both.

    Args:
        latents: (B, 4, F, h, w) noisy latents.
        conditioning: (B, 9, F, h, w): mask (1 = keep), masked latents, reference latents.
        timestep: a number or 0-dim tensor, or (B,).
        tokens: audio (B*F, K, D).
        guidance_scale: at most 1 means no guidance and half the work.
    """
    sample = torch.cat((latents.to(unet.dtype), conditioning.to(unet.dtype)), dim=1)
    tokens = tokens.to(device=sample.device, dtype=unet.dtype)
    if guidance_scale <= 1:
        return unet(sample, timestep, tokens, return_dict=False)[0].to(latents.dtype)
    if isinstance(timestep, torch.Tensor) and timestep.ndim == 1 and len(timestep) > 1:
        timestep = timestep.repeat(2)
    both = unet(
        sample.repeat(2, 1, 1, 1, 1), timestep, torch.cat((torch.zeros_like(tokens), tokens)), return_dict=False
    )
    null, audio = both[0].to(latents.dtype).chunk(2)
    return null + guidance_scale * (audio - null)


def denoise(
    unet: nn.Module,
    scheduler: SchedulerMixin,
    latents: torch.Tensor,
    conditioning: torch.Tensor,
    tokens: torch.Tensor,
    num_inference_steps: int = 20,
    guidance_scale: float = 1.5,
    on_step: Callable[[int, int, torch.Tensor], None] | None = None,
    on_estimate: Callable[[torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Turn noise into clean latents (B, 4, F, h, w); shapes as in `predict_noise`.

    Latents keep their dtype between steps (the U-Net computes in its own). `on_step(step_index, num_steps, latents)` is
    called after each step and may raise to stop; `on_estimate(clean)` before it, with the clean latents (B, 4, F, h, w)
    that the step's prediction implies. Call under `torch.inference_mode` or `torch.no_grad`.
    Raises OptionError for a number of steps outside 1..999 or a guidance scale that is not a finite number.
    """
    if not 1 <= num_inference_steps <= MAX_INFERENCE_STEPS:
        raise OptionError(f"{num_inference_steps} steps were asked for; expected 1 to {MAX_INFERENCE_STEPS}.")
    if not math.isfinite(guidance_scale):
        raise OptionError(f"The guidance scale is {guidance_scale}; expected a number, as 1.5.")
    scheduler.set_timesteps(num_inference_steps, device=latents.device)
    latents = latents * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        predicted = predict_noise(unet, model_input, conditioning, timestep, tokens, guidance_scale)
        if on_estimate is not None:
            on_estimate(
                one_step_clean(latents, predicted, scheduler.alphas_cumprod, timestep, scheduler.config.prediction_type)
            )
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(index, len(scheduler.timesteps), latents)
    return latents
