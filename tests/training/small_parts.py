"""Small real parts for tests of the U-Net's training: a store of clips of noise, a VAE, a SyncNet, a video encoder."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from latentsync.sync.syncnet import EncoderConfig, StableSyncNet, SyncNetConfig, save_syncnet
from latentsync.videomae import VideoEncoder, VideoEncoderConfig, save_videomae
from training_scripts.clip_store import ClipStoreWriter
from training_scripts.config import UNetTrainingConfig, load_settings

CONFIG = Path(__file__).parent / "small_unet.yaml"
SIDE, FRAMES, CLIP_FRAMES = 64, 4, 24


def make_store(folder: Path, num_clips: int = 5, voices: int = 2) -> Path:
    rng, writer, keys = np.random.default_rng(3), ClipStoreWriter(folder), []
    for number in range(num_clips):
        keys.append(f"clip{number}")
        writer.add_clip(
            keys[-1],
            faces=rng.integers(0, 256, (CLIP_FRAMES, SIDE, SIDE, 3), dtype=np.uint8),
            features=rng.standard_normal((voices, 2 * CLIP_FRAMES, 2, 32)).astype(np.float16),
            mel=rng.uniform(-4, 4, (voices, 80, 80 * CLIP_FRAMES // 25 + 1)).astype(np.float32),
            audio=rng.uniform(-1, 1, (voices, 640 * CLIP_FRAMES)).astype(np.float32),
            lips=rng.random((CLIP_FRAMES, 2), dtype=np.float32),
        )
    writer.finish(keys)
    return folder


def make_parts(folder: Path) -> Path:
    """``folder`` with clips/, vae/, syncnet.safetensors and encoder.safetensors."""
    make_store(folder / "clips")
    torch.manual_seed(11)
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8, 8, 8, 8],
        layers_per_block=1,
        norm_num_groups=2,
        mid_block_add_attention=False,
        scaling_factor=0.7,
    ).save_pretrained(folder / "vae")
    visual = EncoderConfig(3 * FRAMES, (8,) * 6, ((1, 2), 2, 2, 2, 2, 2), (False,) * 6)
    audio = EncoderConfig(1, (8,) * 6, ((2, 1), 2, 2, 2, (2, 1), (2, 1)), (False,) * 6)
    config = SyncNetConfig(audio, visual, num_frames=FRAMES, resolution=SIDE, num_heads=2, norm_num_groups=2)
    save_syncnet(StableSyncNet(config), folder / "syncnet.safetensors")
    sizes = VideoEncoderConfig(
        image_size=32, patch_size=8, num_frames=FRAMES, width=16, depth=1, num_heads=2, mlp_width=32, num_classes=0
    )
    save_videomae(VideoEncoder(sizes), folder / "encoder.safetensors")
    return folder


def places(parts: Path, output: Path) -> list[str]:
    """Settings that name what a run reads and writes."""
    named = {
        "output": output,
        "data.clips": parts / "clips",
        "model.vae": parts / "vae",
        "loss.syncnet": parts / "syncnet.safetensors",
        "loss.video_encoder": parts / "encoder.safetensors",
        "loss.lip_reader": parts / "lip_reader.safetensors",
    }
    return [f"{name}={path}" for name, path in named.items()]


def small_config(parts: Path, output: Path, *overrides: str) -> UNetTrainingConfig:
    return load_settings(UNetTrainingConfig, CONFIG, [*places(parts, output), *overrides])
