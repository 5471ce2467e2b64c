"""Learning rates as pure functions of the step, so that resuming needs no state."""

import math


def one_cycle(step: int, total: int, peak: float, warmup_fraction: float) -> float:
    """Linear warm-up to ``peak``, then a cosine down to nearly zero at ``total``."""
    warmup = max(1, int(total * warmup_fraction))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return peak * max(1e-3, 0.5 * (1 + math.cos(math.pi * progress)))
