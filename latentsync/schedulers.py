"""Solvers of the denoising trajectory, from diffusers, with the noise levels that LatentSync was trained on."""

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin, UniPCMultistepScheduler

from .options import check_scheduler

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
    """A new scheduler of that name (see trajectory.py). Raises OptionError for another name.

    The multistep ones remember the steps before, so each chunk needs one of its own, or `set_timesteps` anew. They
    start at the noisiest level and end without noise, where DDIM starts a step lower and leaves a trace of it.
    """
    check_scheduler(name)
    if name == "ddim":
        return ddim_scheduler(prediction_type)
    kind = DPMSolverMultistepScheduler if name == "dpmpp_2m" else UniPCMultistepScheduler
    return kind(**NOISE_LEVELS, solver_order=2, prediction_type=prediction_type, timestep_spacing="linspace")
