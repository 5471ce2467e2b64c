"""The lip reader: it learns what is in the latents, is trained once, and the U-Net's gradient passes through it."""

import numpy as np
import pytest
import torch

from training_scripts.config import LipReaderConfig, load_config
from training_scripts.lip_reader import LipReader, train_lip_reader


@pytest.fixture
def configuration(tmp_path):
    (tmp_path / "data").mkdir()
    changes = [f"run_dir={tmp_path}", "lip_reader.steps=300", "lip_reader.width=8", "lip_reader.batch_size=32"]
    return load_config(overrides=changes)


def latents_with_lips(folder):
    """Clips whose "lips" are the mean of a corner and of another."""
    clean = torch.randn(20, 10, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    lips = torch.rand(20, 10, 2, generator=torch.Generator().manual_seed(2))
    clean[..., :4, :4] += 3 * lips[..., 0, None, None, None]
    clean[..., 4:, 4:] += 3 * lips[..., 1, None, None, None]
    np.save(folder / "data" / "lips.npy", lips.numpy())
    return clean, lips


def test_it_learns_to_read(configuration):
    clean, lips = latents_with_lips(configuration.run_dir)
    reader = train_lip_reader(configuration, clean)
    error = (reader(clean[-1]) - lips[-1]).pow(2).mean()  # a clip it was not trained with
    assert error < 0.5 * lips.var()


def test_a_finished_one_is_loaded(configuration):
    clean, _ = latents_with_lips(configuration.run_dir)
    first = train_lip_reader(configuration, clean)
    written = (configuration.run_dir / "lip_reader.safetensors").stat().st_mtime_ns
    second = train_lip_reader(configuration, clean)
    assert (configuration.run_dir / "lip_reader.safetensors").stat().st_mtime_ns == written
    assert torch.equal(first(clean[0]), second(clean[0]))


def test_gradients_reach_the_latents_and_not_the_reader(configuration):
    clean, _ = latents_with_lips(configuration.run_dir)
    reader = train_lip_reader(configuration, clean)
    latents = clean[0].clone().requires_grad_()
    reader(latents).sum().backward()
    assert latents.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in reader.parameters())


def test_it_fits_any_size_of_latents():
    reader = LipReader(LipReaderConfig(width=4, steps=1, batch_size=1, learning_rate=0.1), 4, 12)
    assert reader(torch.zeros(3, 4, 12, 12)).shape == (3, 2)
