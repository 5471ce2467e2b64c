"""Train a small video encoder by masked reconstruction; resumable, writes one file for `latentsync.videomae`.

    python -m training_scripts.train_video_encoder --set data=runs/tiny/clips

VideoMAE's way: most places of the picture are hidden in all 16 frames, and the pixels there (of zero mean and unit
deviation in each patch) are predicted from what is left. The temporal loss compares the normalised mean of the tokens,
as of VideoMAE-v2. Masked training leaves that last normalisation open: it is set so that over the training clips each
feature has zero mean and unit deviation, without which all clips would look nearly alike.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers.models.videomae.modeling_videomae import VideoMAEForPreTraining

from latentsync.videomae import MEAN, STD, VideoEncoder, resize_frames, save_videomae

from .clip_store import ClipStore
from .config import VideoEncoderTraining, parse_settings
from .training_run import Losses, TrainingRun, make_accelerator, one_cycle

log = logging.getLogger(__name__)


def build_masked_autoencoder(config: VideoEncoderTraining) -> VideoMAEForPreTraining:
    return VideoMAEForPreTraining(
        config.encoder.for_transformers(
            decoder_hidden_size=config.decoder_width,
            decoder_num_hidden_layers=config.decoder_depth,
            decoder_num_attention_heads=config.decoder_heads,
            decoder_intermediate_size=4 * config.decoder_width,
        )
    )


def draw_clips(clips: ClipStore, among: list[int], count: int, config: VideoEncoderTraining, rng) -> Tensor:
    """(count, 3, F, S, S) float32 in [-1, 1]: random stretches of random clips, at the encoder's size."""
    chosen = []
    for index in rng.choice(among, count):
        start = int(rng.integers(0, clips.num_frames(index) - config.encoder.num_frames + 1))
        chosen.append(clips.frames(index, start, config.encoder.num_frames))
    frames = torch.from_numpy(np.stack(chosen)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    return resize_frames(frames, config.encoder.image_size).clamp(-1, 1)


def draw_masks(count: int, config: VideoEncoderTraining, rng) -> Tensor:
    """(count, tokens) bool, True = hidden: the same places in all frames, equally many in each clip."""
    places = (config.encoder.image_size // config.encoder.patch_size) ** 2
    hidden = rng.permuted(np.tile(np.arange(places) < round(config.mask_ratio * places), (count, 1)), axis=1)
    return torch.from_numpy(np.tile(hidden, (1, config.encoder.num_frames // config.encoder.tubelet_size)))


def reconstruction_loss(model: VideoMAEForPreTraining, frames: Tensor, hidden: Tensor) -> Tensor:
    """Squared error of the hidden patches; 1 is what predicting nothing but their mean costs."""
    device = next(model.parameters()).device
    mean, std = (torch.tensor(values)[None, :, None, None, None] for values in (MEAN, STD))
    pixels = (frames / 2 + 0.5 - mean) / std
    return model(pixels.transpose(1, 2).to(device), bool_masked_pos=hidden.to(device)).loss


def train_video_encoder(config: VideoEncoderTraining, clips: ClipStore) -> Path:
    """Train, or finish training; returns the encoder's file."""
    if config.output.exists():
        return config.output
    accelerator = make_accelerator("no")
    torch.manual_seed(config.seed)
    model = build_masked_autoencoder(config)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    known, measured = clips.split(config.held_out)
    run = TrainingRun(
        config.output.with_name(f"{config.output.stem}_training"),
        accelerator,
        model,
        model.parameters(),
        optimizer,
        max_grad_norm=config.max_grad_norm,
        log_every=config.log_every,
        save_every=config.save_every,
    )
    run.resume(earlier=config.output.with_suffix(".state.pt"))

    def loss_of(step: int) -> Losses:
        rng = np.random.default_rng([config.seed, step])
        frames = draw_clips(clips, known, config.batch_size, config, rng)
        return reconstruction_loss(run.model, frames, draw_masks(config.batch_size, config, rng)), {}

    def rate(step: int) -> float:
        return one_cycle(step, config.steps, config.learning_rate, config.warmup_fraction)

    run.train(config.steps, range(run.step, config.steps), loss_of, rate)
    log.info("held-out clips: loss %.4f", held_out_loss(model.eval(), clips, measured, config))
    encoder = normalised_encoder(model, clips, known, config)
    save_videomae(encoder, config.output)
    return config.output


@torch.inference_mode()
def held_out_loss(model: VideoMAEForPreTraining, clips: ClipStore, measured: list[int], config: VideoEncoderTraining):
    """Mean over four batches of clips that training has not seen."""
    losses = []
    for batch in range(4):
        rng = np.random.default_rng([config.seed + 1, batch])
        frames = draw_clips(clips, measured, config.batch_size, config, rng)
        losses.append(reconstruction_loss(model, frames, draw_masks(config.batch_size, config, rng)).item())
    return float(np.mean(losses))


@torch.inference_mode()
def normalised_encoder(
    model: VideoMAEForPreTraining, clips: ClipStore, known: list[int], config: VideoEncoderTraining
) -> VideoEncoder:
    """The trained encoder, its last normalisation set by the features of `feature_clips` clips."""
    encoder = VideoEncoder(config.encoder).eval()
    encoder.backbone.load_state_dict(model.videomae.state_dict())
    rng, features = np.random.default_rng([config.seed + 2]), []
    for count in _batches(config.feature_clips, config.batch_size):
        features.append(encoder.features(draw_clips(clips, known, count, config, rng)))
    mean, std = torch.cat(features).mean(0), torch.cat(features).std(0)
    encoder.fc_norm.weight.copy_(1 / std.clamp(min=1e-3))
    encoder.fc_norm.bias.copy_(-mean / std.clamp(min=1e-3))
    return encoder


def _batches(total: int, size: int) -> Iterable[int]:
    return (min(size, total - start) for start in range(0, total, size))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    configuration = parse_settings(VideoEncoderTraining, __doc__, "steps=10")
    train_video_encoder(configuration, ClipStore(configuration.data))
