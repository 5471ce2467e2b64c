"""The training step's arithmetic on latents against the reference's: noise exactly, the rest within rounding."""

import torch
from safetensors.torch import load_file

from latentsync.model.diffusion import ddim_scheduler, mixed_noise, one_step_clean


def test_noise_and_one_step_estimate(golden, largest_error):
    data = load_file(golden / "training.safetensors")
    latents, timesteps = data["latents"], data["timesteps"]
    generator = torch.Generator().manual_seed(int(data["seed"]))
    noise = mixed_noise(latents.shape, float(data["alpha"]), generator)
    assert largest_error("noise", noise, data["noise"]) == 0
    assert torch.equal(torch.randint(0, 1000, (len(latents),), generator=generator), timesteps)

    scheduler = ddim_scheduler()
    assert largest_error("alphas_cumprod", scheduler.alphas_cumprod, data["alphas_cumprod"]) <= 1e-6
    noisy = scheduler.add_noise(latents, noise, timesteps)
    assert largest_error("noisy", noisy, data["noisy"]) <= 1e-6
    clean = one_step_clean(noisy, data["pred_noise"], scheduler.alphas_cumprod, timesteps)
    assert largest_error("x0", clean, data["x0"]) <= 1e-5
    true = one_step_clean(noisy, noise, scheduler.alphas_cumprod, timesteps)
    assert largest_error("x0_from_true_noise", true, data["x0_from_true_noise"]) <= 1e-5
    assert largest_error("x0 of the true noise", true, latents) <= 1e-4
    mse = torch.nn.functional.mse_loss(data["pred_noise"], noise)
    assert largest_error("mse", mse, data["mse"]) <= 1e-6
