"""The stages of generation on tensors."""

import dataclasses

import pytest
import torch

from latentsync.errors import LatentSyncError
from latentsync.model.masks import generation_mask, latent_mask
from latentsync.model.vae import encode, to_pixels, vae_batch
from latentsync.options import LipSyncOptions
from latentsync.run.steps import condition, decode_faces, generate, out_of_range
from tests.small_model import small_unet, small_vae


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def faces():
    return torch.randint(0, 256, (3, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_pixels_span_minus_one_to_one():
    pixels = to_pixels(torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 1, 1, 3))
    assert pixels.shape == (1, 3, 1, 1)
    torch.testing.assert_close(pixels.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_condition_is_mask_masked_and_reference(small_model, faces):
    mask = generation_mask(64)
    given = condition(small_model, faces, mask, generator=torch.Generator())
    assert given.shape == (3, 9, 8, 8)
    assert given.dtype == torch.float32
    assert torch.equal(given[:, 0], latent_mask(mask, 8).expand(3, 1, 8, 8)[:, 0])
    pixels = to_pixels(faces)
    torch.testing.assert_close(given[:, 1:5], encode(small_model.vae, pixels * mask, sample=False))
    torch.testing.assert_close(given[:, 5:], encode(small_model.vae, pixels, sample=False))
    # what lies under the mask must not leak into the masked latents
    hidden = torch.where(mask[..., None] == 0, 255 - faces, faces)
    other = condition(small_model, hidden, mask, generator=torch.Generator())
    assert torch.equal(other[:, 1:5], given[:, 1:5])
    assert not torch.equal(other[:, 5:], given[:, 5:])


def test_posterior_samples_draw_masked_first_and_depend_on_the_generator(small_model, faces):
    mask = generation_mask(64)
    given = condition(small_model, faces, mask, generator=torch.Generator().manual_seed(3), posterior="sample")
    generator = torch.Generator().manual_seed(3)
    masked = encode(small_model.vae, to_pixels(faces) * mask, generator=generator)
    reference = encode(small_model.vae, to_pixels(faces), generator=generator)
    torch.testing.assert_close(given[:, 1:], torch.cat([masked, reference], 1))
    other = condition(small_model, faces, mask, generator=torch.Generator().manual_seed(4), posterior="sample")
    assert not torch.equal(other[:, 1:], given[:, 1:])


def test_generate_follows_tokens_guidance_and_noise(small_model):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, 1, 8, 8, generator=generator)
    conditioning = torch.randn(5, 9, 8, 8, generator=generator)
    tokens = torch.randn(5, 50, 384, generator=generator)
    steps: list[int] = []

    def latents(noise, tokens, guidance):
        options = LipSyncOptions(num_inference_steps=2, guidance_scale=guidance)
        return generate(small_model, noise, conditioning, tokens, options, lambda step, *_: steps.append(step))

    plain = latents(noise, tokens, 1.0)
    assert plain.shape == (5, 4, 8, 8)
    assert steps == [0, 1]
    assert not torch.allclose(plain, latents(noise, tokens.flip(0), 1.0), atol=1e-4)
    assert not torch.allclose(plain, latents(noise, tokens, 2.0), atol=1e-4)
    assert not torch.allclose(plain, latents(-noise, tokens, 1.0), atol=1e-4)
    assert torch.equal(plain, latents(noise, tokens, 0.5))  # no guidance below 1 either


def test_bfloat16_model_gives_float32_close_to_the_full_one(small_model):
    half = dataclasses.replace(
        small_model, unet=small_unet().bfloat16(), vae=small_vae().bfloat16(), dtype=torch.bfloat16
    )
    generator = torch.Generator().manual_seed(0)
    noise, conditioning = torch.randn(1, 4, 1, 8, 8, generator=generator), torch.randn(2, 9, 8, 8, generator=generator)
    tokens = torch.randn(2, 50, 384, generator=generator)
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
    full, low = (decode_faces(m, generate(m, noise, conditioning, tokens, options)) for m in (small_model, half))
    assert low.dtype == torch.float32
    assert 0 < (low - full).abs().mean() < 0.05


def test_values_that_are_not_finite_are_an_error(small_model):
    latents = torch.zeros(1, 4, 8, 8)
    latents[0, 0, 3, 3] = torch.inf
    with pytest.raises(LatentSyncError, match=r"not finite .* float32; check that the model file is whole"):
        decode_faces(small_model, latents)
    half = dataclasses.replace(small_model, vae=small_vae().bfloat16(), dtype=torch.bfloat16)
    with pytest.raises(LatentSyncError, match=r"not finite .* bfloat16; try float32"):
        decode_faces(half, latents)


def test_out_of_range_is_a_share_of_values():
    faces = torch.zeros(1, 3, 10, 10)
    faces[0, 0, 0] = 1.3
    faces[0, 1, 0, :5] = -2.0
    faces[0, 2, 0] = 1.2  # slight overshoot is normal
    assert out_of_range(faces) == pytest.approx(15 / 300)


def test_vae_batches_change_no_result(small_model, monkeypatch):
    assert [vae_batch(side) for side in (64, 128, 256, 512, 1024, 2048)] == [256, 64, 16, 4, 1, 1]
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    at_once = decode_faces(small_model, latents)
    monkeypatch.setattr("latentsync.model.vae.PIXELS_AT_ONCE", 2 * 64 * 64)
    torch.testing.assert_close(decode_faces(small_model, latents), at_once, atol=1e-5, rtol=0)
