"""Generation masks at any size."""

import numpy as np
import pytest
import torch

from latentsync.errors import OptionError
from latentsync.model.masks import MASK_NAMES, generation_mask, latent_mask

BLACK_SHARE = {"mask": 0.407, "mask2": 0.338, "mask3": 0.193, "mask4": 0.584}


@pytest.mark.parametrize("name", MASK_NAMES)
def test_generated_share_is_the_one_of_the_reference(name):
    mask = generation_mask(256, name)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert 1 - float(mask.mean()) == pytest.approx(BLACK_SHARE[name], abs=6e-4)


@pytest.mark.parametrize("resolution", [64, 128, 200, 384, 512])
def test_same_shape_at_every_resolution(resolution):
    mask = generation_mask(resolution)
    assert mask.shape == (resolution, resolution)
    assert mask.dtype == torch.float32
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    assert 1 - float(mask.mean()) == pytest.approx(BLACK_SHARE["mask"], abs=4e-3)
    third = resolution // 4
    assert float(mask[:third].min()) == 1  # forehead kept
    assert float(mask[resolution * 5 // 8, resolution // 2]) == 0  # mouth generated


def test_nose_is_kept_and_cheeks_are_not():
    mask = generation_mask(256).numpy()
    assert mask[110, 128] == 1
    assert mask[110, 40] == mask[110, 215] == 0


def test_soft_values_at_512_reach_the_latents():
    mask = generation_mask(512)
    assert int(((mask > 0) & (mask < 1)).sum()) == 9186
    latents = latent_mask(mask, 64)
    assert int(((latents > 0) & (latents < 1)).sum()) == 133
    assert np.array_equal(latents.numpy(), mask[::8, ::8].numpy())


def test_unknown_name_and_size_are_refused():
    with pytest.raises(OptionError, match="mask9"):
        generation_mask(256, "mask9")
    with pytest.raises(OptionError, match="positive"):
        generation_mask(0)
