"""The losses of the U-Net's training: the reference's arithmetic, and what our options weigh."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file

from latentsync.errors import OptionError
from latentsync.model.vae import decode, load_vae
from latentsync.sync.syncnet import stack_frames
from training_scripts.batches import UNetClips, collate, to_pixels
from training_scripts.clip_store import ClipStore
from training_scripts.config import NoiseConfig
from training_scripts.losses import UNetLosses, draw_noise

from .small_parts import FRAMES, small_config

GOLDEN = Path(__file__).parents[1] / "golden" / "mini"
CPU = torch.device("cpu")


def losses_of(parts, *overrides, meaning="epsilon") -> UNetLosses:
    config = small_config(parts, parts / "out", *overrides)
    return UNetLosses(config, meaning, load_vae(parts / "vae"), CPU)


def batch_of(parts, losses, step=0, size=2, positions=None):
    store = ClipStore(parts / "clips")
    clips = UNetClips(store, list(range(5)), losses.config, needs_mel=True, needs_frames=True)
    return collate([clips[step, position, position] for position in positions or range(size)])


def test_noise_and_timesteps_are_the_references():
    """Same draws in the same order: exact."""
    data = load_file(GOLDEN / "training.safetensors")
    generator = torch.Generator().manual_seed(int(data["seed"]))
    noise, timesteps = draw_noise(data["latents"].shape, NoiseConfig(alpha=float(data["alpha"])), [generator])
    assert torch.equal(noise, data["noise"])
    assert torch.equal(timesteps, data["timesteps"])


def test_noise_that_matches_inference_is_the_same_in_all_frames():
    noise, _ = draw_noise((2, 4, 3, 8, 8), NoiseConfig(kind="shared"), generators(1, 2))
    assert torch.equal(noise[:, :, :1].expand_as(noise), noise)
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize(("kind", "correlation"), [("mixed", 0.5), ("shared", 1), ("independent", 0)])
def test_kinds_of_noise(kind, correlation):
    noise, _ = draw_noise((4, 4, 2, 64, 64), NoiseConfig(kind=kind), generators(1, 2, 3, 4))
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert (noise[:, :, 0] * noise[:, :, 1]).mean().item() == pytest.approx(correlation, abs=0.02)


def test_what_a_clip_draws_does_not_depend_on_its_neighbours():
    both, times = draw_noise((2, 4, 3, 8, 8), NoiseConfig(), generators(1, 2))
    alone, time = draw_noise((1, 4, 3, 8, 8), NoiseConfig(), generators(2))
    assert torch.equal(both[1:], alone)
    assert torch.equal(times[1:], time)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_the_input_of_the_unet(parts):
    losses = losses_of(parts)
    batch = batch_of(parts, losses)
    sample, timesteps, noisy, clean, noise = losses.prepare(batch)
    alpha = losses.alphas[timesteps].view(2, 1, 1, 1, 1)
    assert torch.allclose(noisy, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, atol=1e-6)
    assert torch.equal(sample[:, :4], noisy)
    assert torch.equal(sample[1, 4, 2], losses.hole)
    mean = losses.vae.encode(to_pixels(batch.frames[1])).latent_dist
    spread = (rearrange(clean[1], "c f h w -> f c h w") / 0.7 - mean.mean) / mean.std
    assert spread.std().item() == pytest.approx(1, abs=0.1)  # samples of the posterior
    again = losses.prepare(batch)
    assert torch.equal(again[0], sample)
    means = losses_of(parts, "data.posterior=mean").prepare(batch)[3]
    assert torch.allclose(rearrange(means[1], "c f h w -> f c h w") / 0.7, mean.mean, atol=1e-5)


def test_the_reference_computes_in_half_precision(parts):
    """Latents, schedule and estimate as float16, where near t = 0 a share of 0.00085 becomes 0.000977."""
    exact = ["reference=true", "mixed_precision=fp16", "optimizer.ema_decay=0", "noise.audio_dropout=0"]
    weights = [f"loss.{name}_weight=0" for name in ("sync", "perceptual", "temporal")]
    losses = losses_of(parts, *exact, *weights)
    batch = batch_of(parts, losses)
    sample, timesteps, noisy, clean, noise = losses.prepare(batch)
    assert {tensor.dtype for tensor in (sample, noisy, clean, noise)} == {torch.float16}
    alphas = losses.alphas.half()
    expected = torch.stack(
        [alphas[t] ** 0.5 * clean[i] + (1 - alphas[t]) ** 0.5 * noise[i] for i, t in enumerate(timesteps)]
    )
    assert torch.equal(noisy, expected)
    assert (1 - losses.alphas.half()[0]).item() == pytest.approx(0.000977, rel=1e-3)
    total, found = losses(batch, noise.float() + 0.5, timesteps, noisy, clean, noise)
    assert total.item() == found["recon"].item() == pytest.approx(0.25, rel=1e-3)


def test_true_noise_leaves_only_what_the_vae_loses(parts):
    """With the true noise the estimate is the clean latents; losses of pixels compare what they decode to."""
    losses = losses_of(parts, "noise.audio_dropout=0")
    batch = batch_of(parts, losses)
    _, timesteps, noisy, clean, noise = losses.prepare(batch)
    timesteps = timesteps.clamp(max=500)  # where little is amplified
    noisy = losses.scheduler.add_noise(clean, noise, timesteps)
    total, found = losses(batch, noise, timesteps, noisy, clean, noise)
    frames = decode(losses.vae, rearrange(clean, "b c f h w -> (b f) c h w"))
    target = rearrange(to_pixels(batch.frames), "b f c h w -> (b f) c h w")
    expected = losses.perceptual(frames[:, :, 32:], target[:, :, 32:])  # the lower half
    assert found["recon"].item() == 0
    assert found["perceptual"].item() == pytest.approx(expected.item(), rel=1e-3)
    clips = (rearrange(x, "(b f) c h w -> b c f h w", b=2) for x in (frames, target))
    predicted, true = clips
    assert found["temporal"].item() == pytest.approx(losses.temporal(predicted, true).item(), rel=1e-2, abs=1e-7)
    vision = losses.syncnet.embed_frames(stack_frames(predicted, losses.syncnet.config))
    cosine = (vision * losses.syncnet.embed_audio(batch.mel)).sum(1)
    assert found["sync"].item() == pytest.approx(-cosine.log().mean().item(), rel=1e-3)
    weighted = 0.05 * found["sync"] + 0.1 * found["perceptual"] + 10 * found["temporal"] + found["recon"]
    assert total.item() == pytest.approx(weighted.item(), rel=1e-6)


def predictions(losses, batch):
    """Parts for a prediction that is off by some noise."""
    _, timesteps, noisy, clean, noise = losses.prepare(batch)
    error = torch.randn(noise.shape, generator=torch.Generator().manual_seed(9))
    predicted = (noise + 0.1 * error).requires_grad_()
    total, found = losses(batch, predicted, timesteps, noisy, clean, noise)
    return total, found, predicted, timesteps


@pytest.mark.parametrize("kind", ["sync", "perceptual", "temporal"])
def test_gradients_reach_the_unet_and_no_frozen_network(parts, kind):
    weights = {name: 0 for name in ("recon", "sync", "perceptual", "temporal")} | {kind: 1}
    losses = losses_of(parts, "noise.audio_dropout=0", *(f"loss.{name}_weight={w}" for name, w in weights.items()))
    total, found, predicted, _ = predictions(losses, batch_of(parts, losses))
    assert found.keys() == {"recon", kind}  # what has no weight is not computed
    total.backward()
    assert predicted.grad.abs().flatten(1).sum(1).min() > 0
    for network in (losses.vae, losses.syncnet, losses.perceptual, losses.temporal):
        if network is not None:
            assert not any(parameter.requires_grad for parameter in network.parameters())


def test_recomputing_the_decoder_changes_nothing(parts):
    gradients = []
    for setting in ("false", "true"):
        losses = losses_of(parts, f"gradient_checkpointing={setting}")
        total, _, predicted, _ = predictions(losses, batch_of(parts, losses))
        total.backward()
        gradients.append(predicted.grad)
    assert torch.equal(*gradients)


def test_every_nth_clip_counts_n_times(parts):
    every = losses_of(parts, "noise.audio_dropout=0")
    second = losses_of(parts, "noise.audio_dropout=0", "loss.pixel_every=2")
    batch = batch_of(parts, every, size=4)
    _, found, _, _ = predictions(second, batch)
    singles = [predictions_of_one(every, batch, i) for i in (0, 2)]
    for kind in ("sync", "perceptual", "temporal"):
        mean = sum(single[kind].item() for single in singles) / 2
        assert found[kind].item() == pytest.approx(mean, rel=1e-4)


def predictions_of_one(losses, batch, i):
    """The parts of one clip of `predictions`, counted alone."""
    _, timesteps, noisy, clean, noise = losses.prepare(batch)
    error = torch.randn(noise.shape, generator=torch.Generator().manual_seed(9))
    one = slice(i, i + 1)
    tensors = {name: value[one] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    predicted = (noise + 0.1 * error)[one]
    return losses(replace(batch, **tensors), predicted, timesteps[one], noisy[one], clean[one], noise[one])[1]


def test_two_halves_of_a_batch_weigh_what_the_whole_does(parts):
    """Also where the clips that are decoded all lie in one half."""
    losses = losses_of(parts, "loss.pixel_every=2", "noise.audio_dropout=0.3")
    whole = predictions(losses, batch_of(parts, losses, positions=[0, 1]))[1]
    batch = batch_of(parts, losses, positions=[0, 1])
    halves = [predictions_of_one(losses, batch, i) for i in range(2)]
    for kind, value in whole.items():
        assert value.item() == pytest.approx(sum(half[kind].item() for half in halves) / 2, rel=1e-5)


def test_estimates_that_are_guesses_count_little(parts):
    plain = losses_of(parts, "noise.audio_dropout=0")
    weighted = losses_of(parts, "noise.audio_dropout=0", "loss.pixel_timestep_weight=signal")
    batch = batch_of(parts, plain, positions=[1])
    _, before, _, timesteps = predictions(plain, batch)
    _, after, _, _ = predictions(weighted, batch)
    weight = (plain.alphas[timesteps[0]] / plain.alphas.mean()).item()
    for kind in ("sync", "perceptual", "temporal"):
        assert after[kind].item() == pytest.approx(weight * before[kind].item(), rel=1e-4)
    assert after["recon"] == before["recon"]


def test_of_clips_without_sound_the_lips_are_not_judged(parts):
    losses = losses_of(parts, "noise.audio_dropout=1")
    _, found, _, _ = predictions(losses, batch_of(parts, losses))
    assert found["sync"].item() == 0
    assert found["perceptual"].item() > 0


def test_frames_in_the_middle_where_no_loss_needs_all(parts):
    losses = losses_of(parts, "loss.sync_weight=0", "loss.temporal_weight=0", "loss.pixel_frames=2")
    batch = batch_of(parts, losses)
    prepared = losses.prepare(batch)
    found = []
    for blackened in ([], [0, FRAMES - 1], [1]):
        batch.frames[:, blackened] = 0  # of what the estimates are compared with
        found.append(losses(batch, 0.9 * prepared[4], *prepared[1:])[1]["perceptual"].item())
    assert found[0] == found[1] != found[2]


def test_the_velocity_of_a_clip_that_is_known(parts):
    losses = losses_of(parts, meaning="v_prediction")
    batch = batch_of(parts, losses)
    _, timesteps, noisy, clean, noise = losses.prepare(batch)
    alpha = losses.alphas[timesteps].view(2, 1, 1, 1, 1)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    _, found = losses(batch, velocity, timesteps, noisy, clean, noise)
    assert found["recon"].item() < 1e-12


def test_the_clean_latents_of_a_clip_that_is_known(parts):
    losses = losses_of(parts, meaning="sample")
    batch = batch_of(parts, losses)
    _, timesteps, noisy, clean, noise = losses.prepare(batch)
    _, found = losses(batch, clean, timesteps, noisy, clean, noise)
    assert found["recon"].item() == 0
    _, found = losses(batch, clean + 0.5, timesteps, noisy, clean, noise)
    assert found["recon"].item() == pytest.approx(0.25 * losses.region.mean().item(), rel=1e-4)


def test_networks_of_another_length_are_refused(parts):
    with pytest.raises(OptionError, match=r"SyncNet looks at 4 frames.*data\.num_frames=4"):
        losses_of(parts, "data.num_frames=6")
