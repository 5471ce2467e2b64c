"""Generation masks against the reference's."""

import numpy as np
import pytest

from latentsync.model.masks import generation_mask, latent_mask


@pytest.mark.parametrize("resolution", [256, 512])
def test_mask_equals_the_reference(golden, resolution):
    with np.load(golden / "mask.npz") as arrays:
        if f"mask_{resolution}_u8" not in arrays:
            pytest.skip(f"this golden set has no mask at {resolution}")
        expected = arrays[f"mask_{resolution}_u8"]
        expected_latent = arrays[f"mask_latent_{resolution // 8}"]
    mask = generation_mask(resolution)
    assert all(np.array_equal(channel, expected[0]) for channel in expected)
    assert np.array_equal(np.rint(mask.numpy() * 255).astype(np.uint8), expected[0])
    np.testing.assert_allclose(latent_mask(mask, resolution // 8).numpy(), expected_latent, rtol=0, atol=1e-6)
