"""The lip reader: it learns what is in the latents, is trained once, and the U-Net's gradient passes through it."""

import numpy as np
import pytest
import torch

from latentsync.errors import OptionError
from training_scripts.config import LipReaderConfig
from training_scripts.lip_reader import LipReader, train_lip_reader

SETTINGS = LipReaderConfig(width=8, steps=300, batch_size=32, learning_rate=1e-3)


class KnownLatents:
    """20 clips of 10 frames, whose "lips" are the mean of a corner and of another; as `ClipLatents` and its store."""

    def __init__(self):
        self.clean = torch.randn(20, 10, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        self.true = torch.rand(20, 10, 2, generator=torch.Generator().manual_seed(2))
        self.clean[..., :4, :4] += 3 * self.true[..., 0, None, None, None]
        self.clean[..., 4:, 4:] += 3 * self.true[..., 1, None, None, None]
        self.store, self.keys = self, [f"clip{i}" for i in range(20)]

    def of(self, i):
        return np.stack([self.clean[i].numpy()] * 2).astype(np.float16)

    def lips(self, i):
        return self.true[i].numpy()


@pytest.fixture(scope="module")
def latents():
    return KnownLatents()


@pytest.fixture(scope="module")
def trained(latents, tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "lip_reader.safetensors"
    return train_lip_reader(SETTINGS, latents, list(range(20)), path, seed=3), path


def test_it_learns_to_read(latents, trained):
    error = (trained[0](latents.clean[-1]) - latents.true[-1]).pow(2).mean()  # a clip it was not trained with
    assert error < 0.5 * latents.true.var()


def test_a_finished_one_is_loaded(latents, trained):
    first, path = trained
    written = path.stat().st_mtime_ns
    second = train_lip_reader(SETTINGS, latents, list(range(20)), path, seed=3)
    assert path.stat().st_mtime_ns == written
    assert torch.equal(first(latents.clean[0]), second(latents.clean[0]))


def test_gradients_reach_the_latents_and_not_the_reader(latents, trained):
    clean = latents.clean[0].clone().requires_grad_()
    trained[0](clean).sum().backward()
    assert clean.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in trained[0].parameters())


def test_clips_whose_lips_nobody_knows_are_refused(tmp_path):
    latents = KnownLatents()
    latents.lips = lambda i: None
    with pytest.raises(OptionError, match=r"lips of clip .* are not known"):
        train_lip_reader(SETTINGS, latents, list(range(20)), tmp_path / "reader.safetensors", seed=3)


def test_it_fits_any_size_of_latents():
    reader_settings = LipReaderConfig(width=4, steps=1, batch_size=1, learning_rate=0.1)
    reader = LipReader(reader_settings, 4, 12)
    assert reader(torch.zeros(3, 4, 12, 12)).shape == (3, 2)
    assert LipReader(reader_settings, 4, 6, num_values=3)(torch.zeros(3, 4, 6, 6)).shape == (3, 3)


def test_values_of_any_size_are_learned_alike(tmp_path):
    """Rounding is a tenth of the opening and lies around 5: in units of its own deviation it counts as much."""
    latents = KnownLatents()
    latents.true = torch.cat([latents.true, 5 + 0.1 * torch.rand(20, 10, 1)], 2)
    latents.clean[..., :4, 4:] += 30 * (latents.true[..., 2, None, None, None] - 5)
    reader = train_lip_reader(SETTINGS, latents, list(range(20)), tmp_path / "reader.safetensors", seed=3)
    error = (reader(latents.clean[-1]) - latents.true[-1]).pow(2).mean(0) / latents.true.flatten(0, 1).var(0)
    assert error.tolist() == pytest.approx([0.25] * 3, abs=0.25)
    with pytest.raises(OptionError, match="reads other latents or other lips"):
        train_lip_reader(SETTINGS, KnownLatents(), list(range(20)), tmp_path / "reader.safetensors", seed=3)
