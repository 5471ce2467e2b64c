"""Solvers of the trajectory: right for either kind of prediction, stateless between chunks, without reading back."""

import pytest
import torch

from latentsync.errors import OptionError
from latentsync.model.diffusion import PREDICTION_TYPES, build_scheduler, ddim_scheduler, denoise
from latentsync.model.unet import LatentSyncUNet
from latentsync.options import SCHEDULERS, LipSyncOptions
from tests.unit.test_diffusion import KnowingUNet, clip


class GaussianUNet(torch.nn.Module):
    """The exact answer where clean latents are normal with this deviation: the trajectory is then known in closed form.

    At the level (a, s) with a^2 + s^2 = 1 what is on it has the variance a^2 deviation^2 + s^2, and is only scaled.
    """

    dtype = torch.float64

    def __init__(self, prediction_type: str, deviation: float = 0.5):
        super().__init__()
        self.prediction_type, self.variance = prediction_type, deviation**2
        self.alphas = ddim_scheduler().alphas_cumprod.double()

    def forward(self, sample, timestep, tokens, return_dict):
        noisy, alpha = sample[:, :4], self.alphas[timestep]
        noise = (1 - alpha).sqrt() * noisy / (alpha * self.variance + 1 - alpha)
        clean = alpha.sqrt() * self.variance * noisy / (alpha * self.variance + 1 - alpha)
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        return ({"epsilon": noise, "v_prediction": velocity, "sample": clean}[self.prediction_type],)

    def solution(self, noise: torch.Tensor, start: int, end: int) -> torch.Tensor:
        """Where the trajectory from the noise at timestep `start` is at `end`."""
        spread = self.alphas * self.variance + 1 - self.alphas
        return noise * (spread[end] / spread[start]).sqrt()


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_follows_what_the_output_means(name, prediction_type):
    latents, conditioning, tokens = clip()
    clean = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    scheduler = build_scheduler(name, prediction_type)
    got = denoise(KnowingUNet(clean, prediction_type), scheduler, latents, conditioning, tokens, 8, 1.0)
    limit = 0.2 if name == "ddim" else 1e-4  # ddim's last step ends at the least noise, not at none
    assert (got - clean).abs().max() < limit


@torch.no_grad()
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc"])
def test_second_order_is_nearer_to_the_true_trajectory(name, prediction_type):
    """By ten times and more, before the last step, which goes to no noise at first order."""
    latents, conditioning, tokens = (value.double() for value in clip())
    unet = GaussianUNet(prediction_type)

    def error(kind: str) -> float:
        scheduler, seen = build_scheduler(kind, prediction_type), []
        denoise(unet, scheduler, latents, conditioning, tokens, 12, 1.0, lambda _, __, now: seen.append(now))
        start, *_, end = scheduler.timesteps.tolist()
        return float((seen[-2] - unet.solution(latents, start, end)).abs().max())

    assert error(name) < error("ddim") / 10


@torch.no_grad()
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_second_run_with_the_same_scheduler_is_the_same(name):
    latents, conditioning, tokens = clip()
    unet, scheduler = GaussianUNet("epsilon"), build_scheduler(name)
    first = denoise(unet, scheduler, latents, conditioning, tokens, 5, 1.0)
    assert torch.equal(first, denoise(unet, scheduler, latents, conditioning, tokens, 5, 1.0))


@torch.no_grad()
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, 999])
def test_any_number_of_steps_stays_on_the_schedule(name, steps):
    scheduler = build_scheduler(name)
    scheduler.set_timesteps(steps)
    assert len(scheduler.timesteps) == steps
    assert 0 <= int(scheduler.timesteps.min()) <= int(scheduler.timesteps.max()) <= 999
    if steps < 999:
        latents, conditioning, tokens = clip()
        assert denoise(GaussianUNet("epsilon"), scheduler, latents, conditioning, tokens, steps, 1.0).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("cache_interval", [1, 2])
def test_nothing_is_read_back_from_the_device(name, cache_interval):
    """Tensors of the meta device have no values: whoever asks for one fails."""
    latents, conditioning, tokens = (value.to("meta") for value in clip())
    with torch.device("meta"):
        unet = LatentSyncUNet(block_out_channels=(32,), layers_per_block=1, norm_num_groups=16, num_attention_heads=2)
    shown = []
    got = denoise(
        unet, build_scheduler(name), latents, conditioning, tokens, 4, 1.5, None, shown.append,
        guidance_interval=(0.0, 0.5), cache_interval=cache_interval,
    )  # fmt: skip
    assert got.device.type == "meta"
    assert got.shape == latents.shape
    assert len(shown) == 4
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(got.sum())  # or this test could not fail


def test_an_unknown_scheduler_is_named():
    message = "scheduler is 'euler'; expected one of ddim, dpmpp_2m, unipc"
    with pytest.raises(OptionError, match=message):
        build_scheduler("euler")
    with pytest.raises(OptionError, match=message):
        LipSyncOptions(scheduler="euler")
