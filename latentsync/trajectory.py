"""What can be chosen about the denoising trajectory; without torch, so that it can be asked before that is loaded."""

from typing import Literal, get_args

from .errors import OptionError

MAX_INFERENCE_STEPS = 999  # with DDIM's offset of 1, a thousand steps would ask for timestep 1000
# ddim: first order, the reference's. dpmpp_2m: DPM-Solver++ of second order, multistep. unipc: UniPC of second order.
Scheduler = Literal["ddim", "dpmpp_2m", "unipc"]
SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)


def check_scheduler(name: str) -> None:
    """Raises OptionError for a name that is not one of SCHEDULERS."""
    if name not in SCHEDULERS:
        raise OptionError(f"scheduler is {name!r}; expected one of {', '.join(SCHEDULERS)}")


def check_savings(guidance_interval: tuple[float, float], cache_interval: int) -> None:
    """Raises OptionError for an interval that is not within 0..1 in order, or a cache interval outside 1..999."""
    if len(guidance_interval) != 2 or not 0 <= guidance_interval[0] <= guidance_interval[1] <= 1:
        raise OptionError(
            f"guidance_interval is {guidance_interval}; expected two shares of the steps in order, such as (0, 0.5) "
            "for their first half"
        )
    if not 1 <= cache_interval <= MAX_INFERENCE_STEPS:
        raise OptionError(
            f"cache_interval is {cache_interval}; expected 1 (off) to {MAX_INFERENCE_STEPS}, usually at most 3"
        )
