"""Latents of any number of channels, compression and scale, as the VAE's configuration has them, through the whole."""

import json

import pytest
import torch
from diffusers import AutoencoderTiny

from latentsync.errors import CheckpointError, OptionError
from latentsync.media.video_reader import read_frames
from latentsync.model.checkpoints import save_unet
from latentsync.model.loading import described_model, load_model
from latentsync.model.vae import STABLE_DIFFUSION, LatentSpace, decode, encode
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from tests.small_model import small_unet, small_vae, write_small_model

F16 = {
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "block_out_channels": (8, 8, 8, 16, 16),
}
PER_CHANNEL = {"latents_mean": [0.5, -1.0, 2.0, 0.0] * 2, "latents_std": [0.5, 1.0, 2.0, 4.0] * 2}
KINDS = {
    "f8c4": ({}, LatentSpace(4, 8)),
    "f8c16": ({"latent_channels": 16, "scaling_factor": 0.5, "shift_factor": 0.1}, LatentSpace(16, 8, 0.5, 0.1)),
    "f16c8": (
        {**F16, "latent_channels": 8, "scaling_factor": 2.0, **PER_CHANNEL},
        LatentSpace(8, 16, (4.0, 2.0, 1.0, 0.5) * 2, tuple(PER_CHANNEL["latents_mean"])),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_with_such_latents_runs(kind, tmp_path, avatar_video, speech):
    options, expected = KINDS[kind]
    model = load_model(described_model(write_small_model(tmp_path / "model", **options)))
    assert model.latents == expected
    settings = LipSyncOptions(num_inference_steps=2, seed=3)
    lip_sync(avatar_video, speech(0.48), tmp_path / "out.mp4", model=model, options=settings)
    assert len(list(read_frames(tmp_path / "out.mp4"))) == 12


@torch.no_grad()
def test_scale_and_shift_of_each_channel():
    vae = small_vae(**KINDS["f16c8"][0])
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    raw, scaled = vae.encode(pixels).latent_dist.mean, encode(vae, pixels, sample=False)
    mean, deviation = (torch.tensor(PER_CHANNEL[name]) for name in ("latents_mean", "latents_std"))
    assert scaled.shape == (2, 8, 4, 4)
    torch.testing.assert_close(scaled.movedim(1, -1), (raw.movedim(1, -1) - mean) / deviation * 2)
    torch.testing.assert_close(decode(vae, scaled), vae.decode(raw).sample)


def test_stable_diffusions_is_the_rule():
    config = small_vae(scaling_factor=0.18215).config
    assert LatentSpace.of(config) == STABLE_DIFFUSION
    assert STABLE_DIFFUSION.conditioned_channels == 13


@pytest.mark.parametrize(
    "change",
    [
        {"latents_mean": [0.0] * 3},
        {"latents_mean": 1.0},
        {"latents_std": [1.0, 1.0, 0.0, 1.0]},
        {"latents_std": [1.0, 1.0, float("nan"), 1.0]},
        {"latents_std": ["1"] * 4},
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(change):
    with pytest.raises(CheckpointError, match="the VAE's description has"):
        LatentSpace.of(dict(small_vae().config) | change)


def test_a_unet_of_other_latents_is_refused(tmp_path):
    folder = write_small_model(tmp_path / "model", **{**F16, "latent_channels": 4})
    save_unet(small_unet(), folder / "unet.safetensors", resolution=64)  # of as many channels, at 1/8
    with pytest.raises(CheckpointError, match=r"4 channels at 1/16 .*; the U-Net .* works on 4 channels at 1/8"):
        load_model(described_model(folder))
    save_unet(small_unet(in_channels=12), folder / "unet.safetensors", resolution=64, latent_ratio=16)
    with pytest.raises(CheckpointError, match="with 12 channels in"):
        load_model(described_model(folder))
    save_unet(small_unet(), folder / "unet.safetensors", resolution=72, latent_ratio=16)
    with pytest.raises(OptionError, match="a multiple of 16, the px"):
        load_model(described_model(folder))


def test_a_draft_decoder_of_other_latents_is_refused(tmp_path):
    folder = write_small_model(tmp_path / "model", latent_channels=16)
    widths = (8, 8, 8, 8)
    draft = AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths)
    draft.save_pretrained(folder / "draft")
    described = json.loads((folder / "config.json").read_text()) | {"draft_decoder": "draft"}
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="decodes 4 channels at 1/8 of the side; the model small has 16"):
        load_model(described_model(folder), decoder="draft")
