"""A model of the released sizes with random weights: costs what they cost, without a download."""

import math
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL
from torch import nn

from latentsync.model.checkpoints import build_unet
from latentsync.model.device import suit_to_device
from latentsync.model.loading import BUNDLED_WHISPER, LipSyncModel
from latentsync.model.unet import LatentSyncUNet
from latentsync.model.vae import SCALING_FACTOR
from latentsync.model.whisper import load_whisper


def full_size_model(
    resolution: int = 256,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    with_unet: bool = True,
    small: bool = False,
) -> LipSyncModel:
    """U-Net of 1,267 M parameters and Stable Diffusion's VAE; made in `dtype`, without a detour of more memory.

    Weights are normal with a variance of 1 / inputs, as new layers have: values stay near 1 on their way. They are
    drawn on the device; another kind of device has others. with_unet: False leaves a tiny one in its place, where only
    the VAE is looked at. small: both networks with all their parts, only narrow, to try out what measures them.
    """
    config = {} if with_unet else {"block_out_channels": (32,), "attention_levels": (True,)}
    config = {"block_out_channels": (32, 64), "layers_per_block": 1} if small else config
    unet = build_unet(config, random_tensors(lambda: LatentSyncUNet(**config), dtype, device))
    nn.Module.to(unet, device, dtype)  # diffusers' own warns of parts to keep in float32; there are none
    widths = (32,) * 4 if small else (128, 256, 512, 512)
    with torch.device("meta"):
        vae = full_size_vae(widths)
    vae.load_state_dict(random_tensors(lambda: full_size_vae(widths), dtype, device), assign=True)
    vae.to(device).eval().requires_grad_(False)
    for network in (unet, vae):
        suit_to_device(network, device, dtype)
    whisper = load_whisper(BUNDLED_WHISPER, device=device, dtype=torch.float32)
    parts = (unet, vae, whisper, resolution, torch.device(device), dtype)
    return LipSyncModel("small" if small else "full size, random weights", *parts, is_trained=False)


def full_size_vae(widths: tuple[int, ...] = (128, 256, 512, 512)) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=4,
        scaling_factor=SCALING_FACTOR,
    )


def random_tensors(
    build: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    """Parameters by name for what `build` makes, drawn with a fixed seed."""
    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in build().named_parameters()}
    generator = torch.Generator(device).manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            std = 1 / math.sqrt(math.prod(shape[1:]))
            tensors[name] = torch.randn(shape, generator=generator, dtype=dtype, device=device) * std
        else:
            tensors[name] = torch.full(
                shape, float(name.endswith("weight")), dtype=dtype, device=device
            )  # of norms; biases are 0
    return tensors
