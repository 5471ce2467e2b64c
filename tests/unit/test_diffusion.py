"""Noise, schedule, guidance and the denoising loop, with a small real U-Net."""

import math

import pytest
import torch

from latentsync.errors import Cancelled, OptionError
from latentsync.model.diffusion import (
    PREDICTION_TYPES,
    NoisePredictor,
    ddim_scheduler,
    denoise,
    mixed_noise,
    one_step_clean,
    shared_noise,
)
from latentsync.model.unet import LatentSyncUNet


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return LatentSyncUNet(
        block_out_channels=(32,), layers_per_block=1, norm_num_groups=16, num_attention_heads=2, attention_levels=[True]
    ).eval()


def clip(clips: int = 1, frames: int = 2):
    generator = torch.Generator().manual_seed(3)
    latents = shared_noise((clips, 4, frames, 8, 8), generator)
    conditioning = torch.randn(clips, 9, frames, 8, 8, generator=generator)
    return latents, conditioning, torch.randn(clips * frames, 50, 384, generator=generator)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (20, list(range(951, 0, -50))),
        (25, list(range(961, 0, -40))),
        (30, list(range(958, 0, -33))),
        (40, list(range(976, 0, -25))),
        (50, list(range(981, 0, -20))),
    ],
)
def test_timesteps_are_the_references(steps, expected):
    scheduler = ddim_scheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == expected


def test_schedule_values():
    scheduler = ddim_scheduler()
    for step, alpha in ((0, 0.99915), (500, 0.27633), (951, 0.0081550), (999, 0.0046601)):
        assert float(scheduler.alphas_cumprod[step]) == pytest.approx(alpha, rel=2e-5)
    assert float(scheduler.final_alpha_cumprod) == float(scheduler.alphas_cumprod[0])
    assert scheduler.init_noise_sigma == 1


def test_shared_noise_is_one_frame():
    noise = shared_noise((2, 4, 5, 6, 7), torch.Generator().manual_seed(1))
    drawn = torch.randn(2, 4, 1, 6, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(noise, drawn.expand(2, 4, 5, 6, 7))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_mixed_noise_has_unit_variance_and_the_wanted_correlation(alpha):
    noise = mixed_noise((50, 4, 2, 32, 32), alpha, torch.Generator().manual_seed(1))
    assert float(noise.std()) == pytest.approx(1, abs=0.01)
    correlation = float((noise[:, :, 0] * noise[:, :, 1]).mean())
    assert correlation == pytest.approx(alpha**2 / (1 + alpha**2), abs=0.01)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_one_step_clean_inverts_the_noising(prediction_type):
    scheduler = ddim_scheduler()
    clean, noise = torch.randn(3, 4, 2, 8, 8), torch.randn(3, 4, 2, 8, 8)
    timesteps = torch.tensor([0, 500, 999])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    velocity = scheduler.get_velocity(clean, noise, timesteps)
    output = {"epsilon": noise, "v_prediction": velocity, "sample": clean}[prediction_type]
    got = one_step_clean(noisy, output, scheduler.alphas_cumprod, timesteps, prediction_type)
    assert (got - clean).abs().max() < 2e-5
    alone = one_step_clean(noisy[1:2], output[1:2], scheduler.alphas_cumprod, torch.tensor(500), prediction_type)
    assert torch.equal(alone, got[1:2])


class KnowingUNet(torch.nn.Module):
    """Always right: answers with the noise or the velocity that leads to the clean latents it knows, or with these."""

    dtype = torch.float32

    def __init__(self, clean, prediction_type):
        super().__init__()
        self.clean, self.prediction_type, self.alphas = clean, prediction_type, ddim_scheduler().alphas_cumprod

    def forward(self, sample, timestep, tokens, return_dict):
        alpha = self.alphas[timestep]
        noise = (sample[:, :4] - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean
        return ({"epsilon": noise, "v_prediction": velocity, "sample": self.clean}[self.prediction_type],)


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_denoising_follows_what_the_output_means(prediction_type):
    latents, conditioning, tokens = clip()
    clean, estimates = torch.randn_like(latents), []
    unet = KnowingUNet(clean, prediction_type)
    got = denoise(
        unet, ddim_scheduler(prediction_type), latents, conditioning, tokens, 8, 1.0, on_estimate=estimates.append
    )
    assert max((estimate - clean).abs().max() for estimate in estimates) < 1e-4
    assert (got - clean).abs().max() < 0.2  # the last step ends at the least noise, not at none


@torch.no_grad()
def test_guidance_moves_from_silence_to_audio(unet):
    latents, conditioning, tokens = clip(clips=2)
    timestep = torch.tensor([900, 100])
    audio = NoisePredictor(unet, conditioning, tokens, 1.0)(latents, timestep)
    silent = NoisePredictor(unet, conditioning, torch.zeros_like(tokens), 1.0)(latents, timestep)
    guided = NoisePredictor(unet, conditioning, tokens, 2.5)(latents, timestep)
    assert (audio - silent).abs().max() > 1e-4
    assert (guided - (silent + 2.5 * (audio - silent))).abs().max() < 1e-5


@torch.no_grad()
def test_no_guidance_costs_one_evaluation(unet):
    sizes = []
    hook = unet.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    latents, conditioning, tokens = clip()
    for scale in (1.0, 0.0, 1.5):
        NoisePredictor(unet, conditioning, tokens, scale)(latents, 10)
    hook.remove()
    assert sizes == [1, 1, 2]


@torch.no_grad()
def test_denoise_is_ddim(unet):
    """Against the update written out: x0 from the noise, then the next level's mixture."""
    latents, conditioning, tokens = clip()
    estimates: list[torch.Tensor] = []
    got = denoise(unet, ddim_scheduler(), latents, conditioning, tokens, 5, 1.5, on_estimate=estimates.append)
    assert torch.equal(got, denoise(unet, ddim_scheduler(), latents, conditioning, tokens, 5, 1.5))
    alphas, x = ddim_scheduler().alphas_cumprod.tolist(), latents
    for t, estimate in zip((801, 601, 401, 201, 1), estimates, strict=True):
        noise = NoisePredictor(unet, conditioning, tokens, 1.5)(x, t)
        clean = (x - math.sqrt(1 - alphas[t]) * noise) / math.sqrt(alphas[t])
        assert (estimate - clean).abs().max() < 1e-3 * clean.abs().max()
        after = alphas[max(t - 200, 0)]
        x = math.sqrt(after) * clean + math.sqrt(1 - after) * noise
    assert (got - x).abs().max() < 1e-4


@torch.no_grad()
def test_steps_are_told_and_can_be_stopped(unet):
    told = []
    latents, conditioning, tokens = clip()

    def on_step(index, total, current):
        told.append((index, total, tuple(current.shape)))
        if index == 1:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        denoise(unet, ddim_scheduler(), latents, conditioning, tokens, 4, 1.0, on_step)
    assert told == [(0, 4, (1, 4, 2, 8, 8)), (1, 4, (1, 4, 2, 8, 8))]


@torch.no_grad()
def test_half_precision_net_keeps_the_latents_precision(unet):
    latents, conditioning, tokens = clip()
    half = LatentSyncUNet.from_config(unet.config).eval()
    half.load_state_dict(unet.state_dict())
    half.to(torch.bfloat16)
    got = denoise(half, ddim_scheduler(), latents, conditioning, tokens, 2, 1.5)
    assert got.dtype == torch.float32
    assert (got - denoise(unet, ddim_scheduler(), latents, conditioning, tokens, 2, 1.5)).abs().mean() < 0.2


@pytest.mark.parametrize(("steps", "scale"), [(0, 1.5), (1000, 1.5), (20, math.nan), (20, math.inf)])
def test_impossible_options_are_refused(unet, steps, scale):
    with pytest.raises(OptionError):
        denoise(unet, ddim_scheduler(), *clip(), num_inference_steps=steps, guidance_scale=scale)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 999])
def test_extreme_steps_stay_on_the_schedule(steps):
    scheduler = ddim_scheduler()
    scheduler.set_timesteps(steps)
    assert int(scheduler.timesteps.max()) <= 999
    assert int(scheduler.timesteps.min()) == 1
