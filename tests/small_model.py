"""A model with random weights: every part is real, only small, so that tests of the whole take no time."""

import json
import os
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from latentsync.model.checkpoints import save_unet
from latentsync.model.loading import BUNDLED_WHISPER
from latentsync.model.unet import LatentSyncUNet
from latentsync.model.vae import LatentSpace


def small_unet(**options) -> LatentSyncUNet:
    """Two levels, 32 and 64 wide; motion modules that do something, which new ones do not."""
    torch.manual_seed(0)
    arguments = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "num_attention_heads": 2}
    unet = LatentSyncUNet(**arguments | options)
    for name, parameter in unet.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return unet.eval()


def small_vae(gain: float = 0.4, **options) -> AutoencoderKL:
    """Eight times smaller latents, as released ones; `gain` keeps its pictures within their range."""
    torch.manual_seed(1)
    arguments = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    }
    vae = AutoencoderKL(**arguments | options)
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(gain)
    return vae.eval()


def write_small_model(folder: Path, resolution: int = 64, **vae_options) -> Path:
    """The folder of a described model: config.json, unet.safetensors for the VAE, vae/, and the bundled Whisper."""
    folder.mkdir(parents=True, exist_ok=True)
    vae = small_vae(**vae_options)
    latents = LatentSpace.of(vae.config)
    unet = small_unet(in_channels=latents.conditioned_channels, out_channels=latents.channels)
    save_unet(unet, folder / "unet.safetensors", resolution=resolution, latent_ratio=latents.ratio)
    vae.save_pretrained(folder / "vae")
    described = {
        "name": "small",
        "unet": "unet.safetensors",
        "vae": "vae",
        "whisper": os.path.relpath(BUNDLED_WHISPER, folder),
        "resolution": resolution,
        "trained": False,
    }
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def write_whisper(path: Path, multilingual: bool = True, width: int = 384) -> Path:
    """An openai-whisper file of one block with random weights, such as a released layout needs."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.02

    tensors = {
        "conv1.weight": normal(width, 80, 3),
        "conv1.bias": normal(width),
        "conv2.weight": normal(width, width, 3),
        "conv2.bias": normal(width),
        "positional_embedding": normal(1500, width),
    }
    for name in ("query", "key", "value", "out"):
        tensors[f"blocks.0.attn.{name}.weight"] = normal(width, width)
        if name != "key":
            tensors[f"blocks.0.attn.{name}.bias"] = normal(width)
    for name in ("attn_ln", "mlp_ln"):
        tensors |= {f"blocks.0.{name}.weight": 1 + normal(width), f"blocks.0.{name}.bias": normal(width)}
    tensors |= {"blocks.0.mlp.0.weight": normal(4 * width, width), "blocks.0.mlp.0.bias": normal(4 * width)}
    tensors |= {"blocks.0.mlp.2.weight": normal(width, 4 * width), "blocks.0.mlp.2.bias": normal(width)}
    path.parent.mkdir(parents=True, exist_ok=True)
    dims = {"n_vocab": 51865 if multilingual else 51864, "n_audio_head": width // 64}
    torch.save({"dims": dims, "model_state_dict": {f"encoder.{k}": v for k, v in tensors.items()}}, path)
    return path
