"""The small video encoder: masks, training that resumes exactly, and the scale of its features."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentsync.errors import OptionError
from latentsync.videomae import load_videomae
from training_scripts.config import VideoEncoderTraining, load_settings
from training_scripts.train_video_encoder import (
    build_masked_autoencoder,
    draw_clips,
    draw_masks,
    reconstruction_loss,
    train_video_encoder,
)
from training_scripts.training_run import save_points

SMALL = [
    "encoder.image_size=16",
    "encoder.num_frames=4",
    "encoder.width=16",
    "encoder.depth=1",
    "encoder.num_heads=2",
    "encoder.mlp_width=32",
    "decoder_width=16",
    "decoder_heads=2",
    "mask_ratio=0.5",
    "batch_size=4",
    "steps=6",
    "feature_clips=48",
    "save_every=3",
    "held_out=0.25",
]


class DrawnClips:
    """Moving gradients; the interface of ClipStore."""

    def __init__(self):
        rng = np.random.default_rng(0)
        rows = np.arange(32)[None, None, :, None, None] * rng.uniform(2, 6, (8, 1, 1, 1, 3))
        shift = np.arange(9)[None, :, None, None, None] * rng.uniform(3, 9, (8, 1, 1, 1, 1))
        self.pixels = np.broadcast_to(rows + shift, (8, 9, 32, 32, 3)).astype(np.uint8)

    def __len__(self):
        return len(self.pixels)

    def num_frames(self, index):
        return self.pixels.shape[1]

    def frames(self, index, start, count):
        assert start + count <= self.num_frames(index)
        return self.pixels[index, start : start + count]

    def split(self, held_out):
        cut = round(len(self) * (1 - held_out))
        return list(range(cut)), list(range(cut, len(self)))


def config(tmp_path, *overrides):
    return load_settings(
        VideoEncoderTraining, overrides=[*SMALL, f"output={tmp_path / 'encoder.safetensors'}", *overrides]
    )


def test_masks_hide_the_same_places_in_all_frames_and_equally_many(tmp_path):
    settings = load_settings(VideoEncoderTraining)
    masks = draw_masks(5, settings, np.random.default_rng(0)).view(5, 8, 64)
    assert (masks == masks[:, :1]).all()
    assert (masks[:, 0].sum(1) == round(settings.mask_ratio * 64)).all()
    assert not torch.equal(masks[0], masks[1])


def test_clips_are_at_the_encoders_size_and_in_range(tmp_path):
    frames = draw_clips(DrawnClips(), [0, 1, 2], 3, config(tmp_path), np.random.default_rng(1))
    assert frames.shape == (3, 3, 4, 16, 16)
    assert frames.abs().max() <= 1


def test_the_loss_is_that_of_the_hidden_patches(tmp_path):
    """By hand: the prediction against the patches of zero mean and unit deviation in each channel."""
    settings = config(tmp_path)
    torch.manual_seed(0)
    model = build_masked_autoencoder(settings).eval()
    frames = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    hidden = draw_masks(2, settings, np.random.default_rng(0))
    loss = reconstruction_loss(model, frames, hidden)
    patches = (frames / 2 + 0.5).unfold(2, 2, 2).unfold(3, 8, 8).unfold(4, 8, 8)  # B C T H W 2 8 8
    patches = patches.permute(0, 2, 3, 4, 5, 6, 7, 1).reshape(2, 8, 128, 3)
    wanted = (patches - patches.mean(2, keepdim=True)) / (patches.std(2, keepdim=True) + 1e-6)
    model.decoder.head.weight.data.zero_()
    model.decoder.head.bias.data.zero_()
    nothing = reconstruction_loss(model, frames, hidden)
    assert nothing.item() == pytest.approx(wanted.flatten(2)[hidden].square().mean().item(), rel=1e-4)
    assert loss.item() != nothing.item()


def test_a_cut_run_ends_as_the_whole_one(tmp_path):
    clips = DrawnClips()
    whole = train_video_encoder(config(tmp_path / "whole"), clips)
    settings = config(tmp_path / "cut")

    class CutError(Exception):
        pass

    class Cut(DrawnClips):
        reads = 0

        def frames(self, *stretch):
            self.reads += 1
            if self.reads > 4 * settings.batch_size:
                raise CutError
            return super().frames(*stretch)

    with pytest.raises(CutError):
        train_video_encoder(settings, Cut())
    assert not settings.output.exists()
    assert [path.name for path in save_points(tmp_path / "cut" / "encoder_training")] == ["step-00000003"]
    resumed = train_video_encoder(settings, clips)
    once, twice = load_file(whole), load_file(resumed)
    assert once.keys() == twice.keys()
    assert all(torch.equal(tensor, twice[key]) for key, tensor in once.items())


def test_features_have_zero_mean_and_unit_deviation_over_clips(tmp_path):
    clips, settings = DrawnClips(), config(tmp_path)
    encoder = load_videomae(train_video_encoder(settings, clips))
    assert encoder.config == settings.encoder
    frames = draw_clips(clips, clips.split(0.25)[0], 200, settings, np.random.default_rng(9))
    features = encoder.features(frames)
    assert features.mean(0).abs().max() < 0.5
    assert 0.5 < features.std(0).median() < 1.5


def test_a_finished_encoder_is_not_trained_again(tmp_path):
    target = train_video_encoder(config(tmp_path), DrawnClips())
    before = target.stat().st_mtime_ns
    assert train_video_encoder(config(tmp_path), None) == target
    assert target.stat().st_mtime_ns == before


def test_unknown_settings_are_refused():
    with pytest.raises(OptionError, match="mask_ration"):
        load_settings(VideoEncoderTraining, overrides=["mask_ration=0.5"])
