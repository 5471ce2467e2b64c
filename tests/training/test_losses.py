"""The losses: what they weigh, in figures worked out by hand."""

import pytest
import torch

from latentsync.model.diffusion import ddim_scheduler
from training_scripts.losses import lip_loss, noise_loss, region_weights, vae_loss

TABLE = ddim_scheduler().alphas_cumprod
VAE_WEIGHTS = {
    "gradient_weight": 0.0,
    "colour_weight": 0.0,
    "mouth_weight": 0.0,
}
MOUTHS = torch.zeros(2, 1, 16, 16)
MOUTHS[:, :, 8:12, 4:12] = 1


def noise_error(error, timesteps, region_weight=1.0, max_timestep_weight=20.0):
    noise = torch.randn(len(timesteps), 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    weight, timesteps = torch.full((4, 4), region_weight), torch.tensor(timesteps)
    return noise_loss(noise + error, noise, weight, TABLE, timesteps, max_timestep_weight=max_timestep_weight).item()


def test_true_noise_costs_nothing():
    assert noise_error(0.0, [0, 500, 999]) == 0


def test_the_weight_averages_to_one_over_the_schedule():
    assert noise_error(0.5, list(range(1000))) == pytest.approx(0.25, rel=1e-4)


def test_an_error_counts_as_it_shows_in_the_clean_latents():
    early, late = noise_error(0.1, [100]), noise_error(0.1, [600])
    assert late / early == pytest.approx((TABLE[100] / TABLE[600]).item(), rel=1e-4)


def test_the_weight_of_the_noisiest_steps_is_capped():
    assert 1 / TABLE[990] > 20
    assert noise_error(0.1, [990]) == pytest.approx(noise_error(0.1, [999]), rel=1e-5)
    assert noise_error(0.1, [999]) / noise_error(0.1, [0]) == pytest.approx(20 * TABLE[0].item(), rel=1e-4)


def test_without_the_cap_at_one_all_steps_weigh_the_same():
    assert noise_error(0.5, [3], max_timestep_weight=1.0) == pytest.approx(0.25, rel=1e-5)
    assert noise_error(0.5, [997], max_timestep_weight=1.0) == pytest.approx(0.25, rel=1e-5)


def test_an_error_counts_with_the_weight_of_its_place():
    noise, timesteps = torch.zeros(1, 4, 2, 4, 4), torch.tensor([300])
    weight = torch.ones(4, 4)
    weight[2:] = 3.0
    losses = []
    for rows in (slice(0, 2), slice(2, 4)):
        predicted = noise.clone()
        predicted[..., rows, :] = 1.0
        losses.append(noise_loss(predicted, noise, weight, TABLE, timesteps, max_timestep_weight=20.0).item())
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)


def test_what_is_pasted_weighs_most_then_the_rest_of_the_hole():
    keep_mask, paste_mask = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    weights = region_weights(keep_mask, paste_mask, mask_weight=3.0, paste_weight=8.0)
    assert weights.tolist() == [[1.0, 3.0, 8.0]]


def vae_error(error, mouths=MOUTHS, **weights):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    loss, parts = vae_loss(pixels + error, pixels, mouths, **{**VAE_WEIGHTS, **weights})
    return loss, {name: part.item() for name, part in parts.items()}


def test_a_perfect_vae_costs_nothing():
    loss, parts = vae_error(0.0, **dict.fromkeys(VAE_WEIGHTS, 1.0))
    assert loss.item() == 0
    assert set(parts.values()) == {0.0}


def test_a_constant_error_is_no_error_of_gradients():
    loss, parts = vae_error(0.25, gradient_weight=5.0)
    assert loss.item() == pytest.approx(0.25, rel=1e-5)
    assert parts["gradient"] == pytest.approx(0, abs=1e-6)
    assert (parts["l1"], parts["colour"]) == pytest.approx((0.25, 0.25), rel=1e-4)


def test_the_mouth_counts_by_itself():
    error = torch.zeros(2, 3, 16, 16)
    error[:, :, 8:12, 4:12] = 0.5
    loss, parts = vae_error(error, mouth_weight=2.0)
    edges = 0.5 * (1 / 4 + 1 / 8)  # of the mouth's pixels, those whose upper or left neighbour has no error
    assert parts["mouth"] == pytest.approx(0.5 + edges, rel=1e-4)
    assert loss.item() == pytest.approx(0.5 / 8 + 2 * (0.5 + edges), rel=1e-4)
    one = MOUTHS.clone()
    one[1] = 0  # a picture without a mouth, such as dead leaves
    assert vae_error(error, one)[1]["mouth"] == pytest.approx(parts["mouth"], rel=1e-4)
    assert vae_error(error, torch.zeros_like(one))[1]["mouth"] == 0


def test_fine_errors_are_gradients_and_no_colour():
    row = torch.tensor([0.5, -0.5]).repeat(8)
    loss, parts = vae_error(row.expand(2, 3, 16, 16), gradient_weight=1.0, colour_weight=1.0)
    assert parts["gradient"] == pytest.approx(0.5, rel=1e-4)  # 1 along x, 0 along y
    assert parts["colour"] == pytest.approx(0, abs=1e-6)
    assert loss.item() == pytest.approx(0.5 + 2 * 0.5, rel=1e-4)


def test_lips_count_squared_and_of_who_heard_something():
    lips = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0))
    unit = torch.tensor([1.0, 0.5])  # of which errors of 0.5 are a half and one
    for heard, expected in (([1.0, 1.0], 0.625), ([0.0, 1.0], 0.3125), ([0.0, 0.0], 0)):
        assert lip_loss(lips + 0.5, lips, torch.tensor(heard), unit).item() == pytest.approx(expected, rel=1e-5)
