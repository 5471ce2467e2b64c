"""Which clips are read when, and with what random numbers."""

import numpy as np
import pytest

from latentsync.errors import OptionError
from training_scripts.batches import clip_batch, item_rng


@pytest.mark.parametrize(("batch_size", "world_size"), [(2, 1), (3, 1), (2, 2), (5, 4)])
def test_every_clip_is_read_once_an_epoch(batch_size, world_size):
    num_clips = 7
    steps = range(3 * num_clips)  # a whole number of epochs for every batch size
    read = [
        clip
        for step in steps
        for rank in range(world_size)
        for clip in clip_batch(num_clips, batch_size, 5, step, rank, world_size)
    ]
    epochs = np.reshape(read, (-1, num_clips))
    assert all(sorted(epoch) == list(range(num_clips)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1  # in another order each time


def test_two_processes_read_what_one_with_the_doubled_batch_does():
    for step in range(12):
        halves = [clip_batch(10, 3, 1, step, rank, 2) for rank in range(2)]
        assert halves[0] + halves[1] == clip_batch(10, 6, 1, step)


def test_a_step_needs_no_history():
    later = clip_batch(9, 4, 3, 1000)
    for step in range(30):
        clip_batch(9, 4, 3, step)
    assert clip_batch(9, 4, 3, 1000) == later
    assert [clip_batch(9, 4, 3, step) for step in range(5)] != [clip_batch(9, 4, 4, step) for step in range(5)]


def test_random_numbers_differ_by_seed_step_and_place():
    draws = {item_rng(*place).integers(1 << 62) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]}
    assert len(draws) == 5
    assert item_rng(3, 4, 5).random() == item_rng(3, 4, 5).random()


@pytest.mark.parametrize("arguments", [(0, 1, 0, 0), (4, 0, 0, 0), (4, 1, 0, -1), (4, 1, 0, 0, 2, 2)])
def test_what_cannot_be_read_is_refused(arguments):
    with pytest.raises(OptionError, match="expected at least one clip"):
        clip_batch(*arguments)
