"""Noise, guidance and the denoising loop, as pure functions of latents (B, C, F, h, w)."""

import math
from collections.abc import Callable, Sequence

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler
from torch import nn

from ..errors import OptionError
from ..options import MAX_INFERENCE_STEPS, check_savings, check_scheduler
from .device import threads_of

# Solvers of the denoising trajectory, from diffusers, with the noise levels that LatentSync was trained on.

NUM_TRAIN_TIMESTEPS = 1000
NOISE_LEVELS = {
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def ddim_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    """DDIM with the reference's settings: leading spacing, offset 1, final alpha = alphas_cumprod[0].

    The reference's U-Nets predict the noise. A small one cannot do that well enough at the noisiest steps, where the
    clean latents are what is left of it, 14 times enlarged: the bundled one predicts the velocity.
    """
    return DDIMScheduler(
        **NOISE_LEVELS,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
        timestep_spacing="leading",
    )


def build_scheduler(name: str = "ddim", prediction_type: str = "epsilon") -> SchedulerMixin:
    """A new scheduler of that name (see options.py). Raises OptionError for another name.

    The multistep ones remember the steps before, so each chunk needs one of its own, or `set_timesteps` anew. They
    start at the noisiest level and end without noise, where DDIM starts a step lower and leaves a trace of it.
    """
    check_scheduler(name)
    if name == "ddim":
        return ddim_scheduler(prediction_type)
    kind = DPMSolverMultistepScheduler if name == "dpmpp_2m" else UniPCMultistepScheduler
    return kind(**NOISE_LEVELS, solver_order=2, prediction_type=prediction_type, timestep_spacing="linspace")


# Noise, guidance, the loop

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")  # a U-Net's output: noise, velocity, or clean latents


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
    sqrt(a_t) e - sqrt(1 - a_t) x_0: sqrt(a_t) x_t - sqrt(1 - a_t) v; "sample", the clean latents themselves.
    """
    if prediction_type == "sample":
        return predicted
    if timesteps.ndim:
        alpha = alphas_cumprod.to(device=noisy.device, dtype=noisy.dtype)[timesteps.to(noisy.device)]
        alpha = alpha.view(-1, *[1] * (noisy.ndim - 1))
    else:  # a number on the CPU, where the table is too, goes to no other device
        alpha = alphas_cumprod[timesteps].to(noisy.dtype)
    if prediction_type == "v_prediction":
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * predicted
    return (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt()


class NoisePredictor:
    """The U-Net's prediction at each step of one run, with classifier-free guidance and reuse of deep features.

    Args:
        conditioning: (B, 9, F, h, w): mask (1 = keep), masked latents, reference latents.
        tokens: audio (B*F, K, D).
        guidance_scale: at most 1 means no guidance and half the work.
        cache_interval: for how many steps in a row deep features serve (see `LatentSyncUNet.forward`), that of their
            making included. 1: they are made anew at each step.
    """

    def __init__(
        self,
        unet: nn.Module,
        conditioning: torch.Tensor,
        tokens: torch.Tensor,
        guidance_scale: float = 1.0,
        cache_interval: int = 1,
    ):
        self._unet, self._scale, self._interval = unet, guidance_scale, cache_interval
        self._conditioning = conditioning.to(unet.dtype)
        self._tokens = tokens.to(device=conditioning.device, dtype=unet.dtype)
        self._both_tokens = torch.cat((torch.zeros_like(self._tokens), self._tokens)) if guidance_scale > 1 else None
        self._deep_features: torch.Tensor | None = None
        self._age = 0  # steps that the deep features served

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor | int, guided: bool = True) -> torch.Tensor:
        """Prediction (B, C, F, h, w) of noisy latents of that shape; timestep: a number or 0-dim tensor, or (B,)."""
        sample = torch.cat((latents.to(self._unet.dtype), self._conditioning), dim=1)
        if not (guided and self._scale > 1):
            return self._run(sample, timestep, self._tokens).to(latents.dtype)
        if isinstance(timestep, torch.Tensor) and timestep.ndim == 1 and len(timestep) > 1:
            timestep = timestep.repeat(2)
        both = self._run(sample.repeat(2, 1, 1, 1, 1), timestep, self._both_tokens)
        null, audio = both.to(latents.dtype).chunk(2)
        return null + self._scale * (audio - null)

    @property
    def deep_features(self) -> torch.Tensor | None:
        """Those of the latest step that made any, (B*F, C, h, w); with guidance those without speech come first."""
        return self._deep_features

    def _run(self, sample: torch.Tensor, timestep: torch.Tensor | int, tokens: torch.Tensor) -> torch.Tensor:
        with threads_of(self._unet):
            return self._called(sample, timestep, tokens)

    def _called(self, sample: torch.Tensor, timestep: torch.Tensor | int, tokens: torch.Tensor) -> torch.Tensor:
        if self._interval == 1:
            return self._unet(sample, timestep, tokens, return_dict=False)[0]
        known = 0 if self._deep_features is None else len(self._deep_features)
        if self._age < self._interval and known >= len(tokens):
            self._age += 1
            deep_features = self._deep_features[known - len(tokens) :]  # where both are known, the speech's come last
            return self._unet(sample, timestep, tokens, return_dict=False, deep_features=deep_features)[0]
        predicted, self._deep_features = self._unet(
            sample, timestep, tokens, return_dict=False, keep_deep_features=True
        )
        self._age = 1
        return predicted


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
    *,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    cache_interval: int = 1,
) -> torch.Tensor:
    """Turn noise into clean latents (B, C, F, h, w); shapes as in `NoisePredictor`.

    Latents keep their dtype between steps (the U-Net computes in its own), and nothing is read back from their device.
    `on_step(step_index, num_steps, latents)` is called after each step and may raise to stop; `on_estimate(clean)`
    before it, with the clean latents (B, C, F, h, w) that the step's prediction implies. Of n steps number i, from 0,
    is guided where i / n is at least guidance_interval[0] and below guidance_interval[1]. The scheduler's state is made
    anew. Call under `torch.inference_mode` or `torch.no_grad`.

    Raises OptionError for a number of steps outside 1..999, a guidance scale that is not a finite number, an interval
    of guidance that is not within 0..1 in order, or a cache interval below 1.
    """
    if not 1 <= num_inference_steps <= MAX_INFERENCE_STEPS:
        raise OptionError(f"{num_inference_steps} steps were asked for; expected 1 to {MAX_INFERENCE_STEPS}.")
    if not math.isfinite(guidance_scale):
        raise OptionError(f"The guidance scale is {guidance_scale}; expected a number, as 1.5.")
    check_savings(guidance_interval, cache_interval)
    scheduler.set_timesteps(num_inference_steps)  # stays on the CPU: the scheduler asks for single values
    timesteps = scheduler.timesteps.to(latents.device)
    predict = NoisePredictor(unet, conditioning, tokens, guidance_scale, cache_interval)
    latents = latents * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        model_input = scheduler.scale_model_input(latents, timestep)
        guided = guidance_interval[0] <= index / len(timesteps) < guidance_interval[1]
        predicted = predict(model_input, timesteps[index], guided)
        if on_estimate is not None:
            on_estimate(
                one_step_clean(latents, predicted, scheduler.alphas_cumprod, timestep, scheduler.config.prediction_type)
            )
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(index, len(timesteps), latents)
    return latents
