"""Which clips a step sees, and the randomness of each: pure functions of the step, so that resuming needs no state."""

import numpy as np

_ORDER, _ITEM = 11, 12  # keep the two kinds of draws apart


def clip_batch(num_clips: int, batch_size: int, seed: int, step: int, rank: int = 0, world_size: int = 1) -> list[int]:
    """Numbers of the clips of one process's batch at a step.

    An epoch is a seeded permutation in which every clip comes once over all processes together; a batch may span two
    epochs. One process with ``world_size`` times the batch sees the same clips in the same places.
    """
    first = (step * world_size + rank) * batch_size
    places = range(first, first + batch_size)
    orders = {epoch: _permutation(num_clips, seed, epoch) for epoch in {place // num_clips for place in places}}
    return [int(orders[place // num_clips][place % num_clips]) for place in places]


def item_rng(seed: int, step: int, position: int) -> np.random.Generator:
    """The randomness of one item; ``position`` is its index in the batch of all processes together."""
    return np.random.default_rng([seed, _ITEM, step, position])


def _permutation(num_clips: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(num_clips)
