"""What an autoencoder learns from: parts of faces, other colours, dead leaves, spoiled pictures."""

import numpy as np
import pytest
import torch

from training_scripts.clip_store import ClipStore
from training_scripts.config import TrainingConfig, load_settings
from training_scripts.train_vae import PictureSource, crop, dead_leaves, disturbed, recoloured, spoiled

from .conftest import MICRO
from .small_parts import SIDE


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_crop_is_a_part_of_the_face_or_a_larger_one_made_smaller():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0).repeat(3, 2)  # each column its number
    widths = set()
    for seed in range(20):
        part, (x, _, width) = crop(ramp, 128, random(seed))
        widths.add(round(256 * width))
        assert part.shape == (128, 128, 3)
        columns = 256 * x + (np.arange(128) + 0.5) * 2 * width - 0.5
        np.testing.assert_allclose(part[40, :, 1] * 255, columns, atol=0.6)
    assert 128 in widths
    assert max(widths) > 200


@pytest.mark.parametrize("change", [recoloured, spoiled])
def test_changes_stay_in_range_and_follow_from_the_generator(change):
    picture = dead_leaves(48, random(1))
    changed = [change(picture, random(seed)) for seed in (2, 2, 3)]
    assert np.array_equal(changed[0], changed[1])
    assert not np.array_equal(changed[0], changed[2])
    assert {part.shape for part in changed} == {(48, 48, 3)}
    assert all(part.min() >= 0 and part.max() <= 1 and part.dtype == np.float32 for part in changed)


def test_spoiling_leaves_colours_and_places():
    picture = dead_leaves(64, random(4))
    assert 0.001 < np.abs(spoiled(picture, random(5)) - picture).mean() < 0.05


def test_dead_leaves_have_edges_and_plain_places():
    steps = np.abs(np.diff(np.stack([dead_leaves(64, random(seed)) for seed in range(8)]), axis=2)).max(-1)
    assert (steps > 0.1).mean() > 0.002
    assert (steps < 0.02).mean() > 0.3


def test_batches_follow_from_the_step(parts):
    config = load_settings(TrainingConfig, MICRO, [f"clips={parts / 'clips'}"])
    source, again = (PictureSource(ClipStore(config.clips), config) for _ in range(2))
    first, same, other = source.batch(3), again.batch(3), source.batch(4)
    assert first.inputs.shape == first.targets.shape == (4, 3, 48, 48)
    assert torch.equal(first.inputs, same.inputs)
    assert not torch.equal(first.inputs, other.inputs)
    assert first.mouths[-1].sum() == 0  # one of four is dead leaves
    assert torch.equal(first.inputs[-1], first.targets[-1])
    assert config.resolution == SIDE
    hole = (first.targets[0].abs().amax(0) < 1e-6).float().mean()  # grey, as the U-Net's condition has it
    assert hole > 0.05


def test_noise_is_in_units_of_each_channel_and_the_last_channels_are_missing_often():
    config = load_settings(TrainingConfig, MICRO, ["vae.latent_noise=0.5", "vae.fewest_channels=2"]).vae
    scales = torch.tensor([1.0, 10.0, 0.1, 5.0])[:, None, None]
    latents = torch.randn(64, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * scales
    met = disturbed(latents, config, torch.Generator().manual_seed(1))
    noise = (met - latents)[32:].std((0, 2, 3)) / scales.flatten()
    assert noise.numpy() == pytest.approx(np.full(4, 0.5), rel=0.05)
    kept = met.abs().amax((2, 3)) > 0
    assert kept[32:].all()
    assert sorted(set(kept[:32].sum(1).tolist())) == [2, 3, 4]
    assert all(row.tolist() == sorted(row.tolist(), reverse=True) for row in kept)
