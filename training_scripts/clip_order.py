"""Which clips a step reads, and the random numbers of each of its items: pure functions of the step.

Nothing has to be saved to resume, and two processes together read and draw what one with the doubled batch does.
"""

from functools import lru_cache

import numpy as np
import torch

from latentsync.errors import OptionError

_ORDER, _ITEM, _STEP = 101, 102, 103  # keep the kinds of random numbers of one seed apart


def clip_batch(num_clips: int, batch_size: int, seed: int, step: int, rank: int = 0, world_size: int = 1) -> list[int]:
    """Clips (batch_size of them) that process `rank` of `world_size` reads in step `step`, counted from 0.

    Every epoch is another permutation of all clips, and each is read once an epoch by all processes together; an epoch
    may end within a batch. Raises OptionError where nothing can be read.
    """
    if num_clips < 1 or batch_size < 1 or step < 0 or not 0 <= rank < world_size:
        raise OptionError(
            f"{num_clips} clips, batches of {batch_size}, step {step}, process {rank} of {world_size}: expected at "
            "least one clip and one item a batch, a step from 0 on and a process below their number"
        )
    first = (step * world_size + rank) * batch_size
    places = range(first, first + batch_size)
    return [int(_permutation(num_clips, seed, place // num_clips)[place % num_clips]) for place in places]


def item_rng(seed: int, step: int, position: int) -> np.random.Generator:
    """The generator of one item; position: its index in the global batch, rank * batch_size + i."""
    return np.random.default_rng([seed, _ITEM, step, position])


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The CPU generator of what one process draws for all items of a step together."""
    drawn = np.random.default_rng([seed, _STEP, step, rank]).integers(2**62)
    return torch.Generator().manual_seed(int(drawn))


@lru_cache(maxsize=4)
def _permutation(num_clips: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(num_clips)
