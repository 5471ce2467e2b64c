"""The image autoencoder: frames to latents and back.

Released models use Stable Diffusion's VAE (sd-vae-ft-mse), latents scaled by 0.18215, and the reference samples of the
posterior rather than means. Shapes below: (F, C, h, w) are latents as the `LatentSpace` of the VAE tells.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from einops import rearrange
from torch import Tensor

from ..errors import (
    CheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
    is_out_of_memory,
)
from ..files import read_json, shown
from .device import threads_of
from .face_autoencoder import FaceAutoencoder
from .weights import DAMAGE, building, check_fit, read_weights, refuse_misfits

# What a VAE's latents are: how many channels, how much smaller than the picture, how they are scaled.
#
# Released models have four channels at 1/8 of the side, scaled by 0.18215; others say theirs in the VAE's
# configuration.

SCALING_FACTOR = 0.18215


@dataclass(frozen=True)
class LatentSpace:
    """What the U-Net knows is ``(raw - shift) * scale`` of what the encoder gives; each a number, or one a channel."""

    channels: int = 4
    ratio: int = 8  # px of the picture's side per latent
    scale: float | tuple[float, ...] = SCALING_FACTOR
    shift: float | tuple[float, ...] = 0.0

    @classmethod
    def of(cls, config: Mapping) -> "LatentSpace":
        """Of a VAE's configuration as diffusers has it. Raises CheckpointError for numbers that cannot be meant.

        ``latents_mean`` and ``latents_std``, one number a channel, go with shift_factor and scaling_factor.
        """
        channels, factor, shift = config["latent_channels"], config["scaling_factor"], config.get("shift_factor") or 0.0
        widths = config.get("block_out_channels") or config["encoder_block_out_channels"]
        means, deviations = config.get("latents_mean"), config.get("latents_std")
        lists = [[0.0] * channels if means is None else means, [1.0] * channels if deviations is None else deviations]
        one_each = all(isinstance(values, list | tuple) and len(values) == channels for values in lists)
        numbers = [factor, shift, *(lists[0] + lists[1] if one_each else [])]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers) or not factor > 0:
            raise CheckpointError(
                f"the VAE's description has scaling_factor {shown(factor)} and shift_factor {shown(shift)}; expected "
                f"{SCALING_FACTOR} and 0. Repair its config.json."
            )
        if not one_each or min(lists[1]) <= 0:
            raise CheckpointError(
                f"the VAE's description has latents_mean {shown(means)} and latents_std {shown(deviations)}; expected "
                f"{channels} numbers each, those of the second above 0, or null. Repair its config.json."
            )
        if means is not None or deviations is not None:
            factor, shift = (
                tuple(factor / deviation for deviation in lists[1]),
                tuple(shift + mean for mean in lists[0]),
            )
        return cls(channels, config.get("patch_size", 1) * 2 ** (len(widths) - 1), factor, shift)

    def __str__(self) -> str:
        return f"{self.channels} channels at 1/{self.ratio} of the side"

    @property
    def conditioned_channels(self) -> int:
        """Of the U-Net's input: noisy latents, mask, masked latents, reference latents."""
        return 3 * self.channels + 1

    def scaled(self, raw: Tensor) -> Tensor:
        """(F, C, h, w) of the encoder, as the U-Net knows them."""
        return (raw - _per_channel(self.shift, raw)) * _per_channel(self.scale, raw)

    def raw(self, scaled: Tensor) -> Tensor:
        """(F, C, h, w) of the U-Net, as the decoder knows them."""
        return scaled / _per_channel(self.scale, scaled) + _per_channel(self.shift, scaled)


STABLE_DIFFUSION = LatentSpace()


def _per_channel(value: float | tuple[float, ...], latents: Tensor) -> float | Tensor:
    return value if isinstance(value, float | int) else torch.tensor(value).to(latents)[:, None, None]


# The autoencoder

FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
ORIGINAL_PREFIXES = ("first_stage_model.", "vae.")  # in whole Stable Diffusion checkpoints
# Attention names in files written by old diffusers, sd-vae-ft-mse among them.
OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
PIXELS_AT_ONCE = 2**20  # of faces in the VAE: 4 of 512 x 512, 16 of 256 x 256; bounds its memory, changes no result
Autoencoder = AutoencoderKL | FaceAutoencoder


@runtime_checkable
class ImageAutoencoder(Protocol):
    """A VAE that is not diffusers', such as a host's: it takes care of its own device and dtype.

    It must be the one that the U-Net was trained with. `encode` and `decode` below take either kind.
    """

    def encode_mean(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images (F, 3, S, S) in [-1, 1], RGB -> the posterior's mean, scaled: (F, C, h, w)."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (F, C, h, w) -> images (F, 3, S, S), about [-1, 1]."""
        ...


def load_vae(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Autoencoder:
    """Load a VAE, frozen and in eval mode.

    Args:
        path: a diffusers folder (or a pipeline folder with `vae/` in it), or one file, `.safetensors` or torch, in
            diffusers' or in Stable Diffusion's original layout, also inside a whole checkpoint. A `config.json` of
            diffusers beside the file is used; otherwise the shapes tell the configuration. A FaceAutoencoder is known
            by its own.

    Never goes to the network. Raises ModelNotFoundError and CheckpointError's subclasses.
    """
    folder, file = _locate(Path(path))
    content, _ = read_weights(file)
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    for prefix in ORIGINAL_PREFIXES:
        if any(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    tensors = {key: value for key, value in tensors.items() if not key.startswith(("loss.", "model_ema."))}
    config = _read_config(folder)
    kind = FaceAutoencoder if (config or {}).get("_class_name") == FaceAutoencoder.__name__ else AutoencoderKL
    first = "encoder.conv_in.1.weight" if kind is FaceAutoencoder else "encoder.conv_in.weight"
    if "decoder.conv_in.weight" not in tensors or first not in tensors:
        raise ForeignCheckpointError(
            f"{file} is not a VAE: it has no encoder and decoder. Expected Stable Diffusion's VAE, sd-vae-ft-mse."
        )
    original = any(key.startswith("decoder.mid.") for key in tensors)
    with building(file, "a VAE"):
        config = config or _config_from_shapes(tensors, original)
        _check_config(config, len(tensors))
        if original:
            tensors = convert_ldm_vae_checkpoint(tensors, config)
        tensors = dict(map(_current_attention, tensors.items()))
        with torch.device("meta"):
            vae = kind.from_config(config)
        expected = vae.state_dict()
    advice = "Download it again, together with its config.json."
    check_fit(tensors, expected, f"{file} does not fit its VAE configuration", advice)
    tensors = {key: tensor.to(device=device, dtype=dtype) for key, tensor in tensors.items()}
    with building(file, "a VAE"):
        vae.load_state_dict(tensors, strict=True, assign=True)
    if kind is FaceAutoencoder:
        vae.to(memory_format=torch.channels_last)  # a fifth less time on a CPU, also in float32
    return vae.eval().requires_grad_(False)


def encode(
    vae: Autoencoder | ImageAutoencoder,
    pixels: torch.Tensor,
    generator: torch.Generator | None = None,
    sample: bool = True,
    batch_size: int | None = None,
) -> torch.Tensor:
    """Scaled latents (F, C, h, w) of images (F, 3, S, S) in [-1, 1], RGB, on the device of the VAE or the images.

    `sample` draws from the posterior, as the reference does, in one draw for all F; otherwise its mean is taken. A
    FaceAutoencoder has none and gives its latents.
    `batch_size` bounds how many images are encoded at once, which changes no result beyond rounding; it is halved
    where memory does not suffice. Gradients flow: use `torch.no_grad` where they are not wanted. Raises OptionError
    for a sample from an ImageAutoencoder, which gives only the mean.
    """
    if isinstance(vae, ImageAutoencoder):
        if sample:
            raise OptionError("this VAE gives only the mean of its posterior; choose posterior='mean', not 'sample'")
        with threads_of(vae):
            return in_batches(vae.encode_mean, pixels, batch_size).to(pixels.device)
    with threads_of(vae):
        parameters = in_batches(
            lambda part: _encoded(vae, part),
            pixels.to(device=vae.device, dtype=vae.dtype),
            batch_size,
        )
    latents = parameters
    if not isinstance(vae, FaceAutoencoder):
        posterior = DiagonalGaussianDistribution(parameters)
        latents = posterior.sample(generator) if sample else posterior.mode()
    return LatentSpace.of(vae.config).scaled(latents)


def decode(
    vae: Autoencoder | AutoencoderTiny | ImageAutoencoder, latents: torch.Tensor, batch_size: int | None = None
) -> torch.Tensor:
    """Images (F, 3, S, S), about [-1, 1] and not clamped, of scaled latents (F, C, h, w). Gradients flow.

    `batch_size` as in `encode`.
    """
    if isinstance(vae, ImageAutoencoder):
        with threads_of(vae):
            return in_batches(vae.decode, latents, batch_size)
    latents = LatentSpace.of(vae.config).raw(latents.to(device=vae.device, dtype=vae.dtype))
    with threads_of(vae):
        return in_batches(lambda part: vae.decode(part).sample, latents, batch_size)


def _encoded(vae: Autoencoder, pixels: torch.Tensor) -> torch.Tensor:
    """Latents, or the parameters of their posterior."""
    encoded = vae.encode(pixels)
    return encoded.latent if isinstance(vae, FaceAutoencoder) else encoded.latent_dist.parameters


def width_per_pixel(vae: Autoencoder) -> int:
    """Channels of the first level, per pixel of the picture: what the memory of its work goes by."""
    return -(-vae.config.block_out_channels[0] // vae.config.get("patch_size", 1) ** 2)


def in_batches(
    apply: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, batch_size: int | None = None
) -> torch.Tensor:
    """`apply` to batches of `inputs` (F, ...), joined; halves the batch, down to 1, each time the device is full."""
    size, outputs, done = batch_size or len(inputs), [], 0
    while done < len(inputs):
        output = None
        try:
            output = apply(inputs[done : done + size])
        except Exception as error:
            if not is_out_of_memory(error) or min(size, len(inputs) - done) == 1:
                raise
        if output is None:  # here the error, which holds on to the memory of the failed batch, is gone
            size = max(1, min(size, len(inputs) - done) // 2)
        else:
            outputs.append(output)
            done += size
    return torch.cat(outputs)


def vae_batch(resolution: int) -> int:
    """How many faces of this side (px) go through the VAE together."""
    return max(1, PIXELS_AT_ONCE // resolution**2)


def to_pixels(faces: Tensor) -> Tensor:
    """(F, S, S, 3) uint8 RGB -> (F, 3, S, S) float32 in [-1, 1]."""
    return rearrange(faces, "f h w c -> f c h w").float() / 127.5 - 1


def _locate(path: Path) -> tuple[Path, Path]:
    if path.is_file():
        return path.parent, path
    if not path.is_dir():
        raise ModelNotFoundError(f"There is no VAE at {path}. `python install.py --models vae` fetches sd-vae-ft-mse.")
    folder = path / "vae" if (path / "vae").is_dir() and not (path / "config.json").is_file() else path
    files = [folder / name for name in FOLDER_FILES if (folder / name).is_file()]
    files += sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelNotFoundError(f"The folder {folder} holds no VAE weights; expected {FOLDER_FILES[0]} in it.")
    return folder, files[0]


def _read_config(folder: Path) -> dict | None:
    file = folder / "config.json"
    if not file.is_file():
        return None
    config = read_json(file, what="describes the VAE")
    if not isinstance(config, dict) or "latent_channels" not in config:
        return None  # it describes another model in the same folder
    # The reference overrides both; files without them mean the same.
    return {"scaling_factor": SCALING_FACTOR, "shift_factor": 0.0} | config


def _check_config(config: Mapping, num_tensors: int) -> None:
    """Raises CheckpointError for what would build without end, or scale latents to nothing."""
    widths = config.get("block_out_channels", ())
    for name, rule in (("layers_per_block", 1), ("encoder_layers", [0]), ("decoder_layers", [0])):
        layers = config.get(name, rule)
        each = [layers] * len(widths) if name == "layers_per_block" else layers
        if not (isinstance(each, list) and all(isinstance(n, int) for n in each) and sum(each) <= num_tensors):
            raise IncompleteCheckpointError(
                f"the VAE's description tells of {shown(layers)} layers in {len(widths)} blocks, but the file has "
                f"{num_tensors} tensors. Download it again, together with its config.json."
            )
    LatentSpace.of(config)


def _config_from_shapes(tensors: Mapping[str, torch.Tensor], original: bool) -> dict:
    level = r"encoder\.down\.(\d+)\." if original else r"encoder\.down_blocks\.(\d+)\."
    resnet = "encoder.down.{}.block.{}" if original else "encoder.down_blocks.{}.resnets.{}"
    levels = len({int(match[1]) for key in tensors if (match := re.match(level, key))})
    layers = sum(f"{resnet.format(0, layer)}.conv1.weight" in tensors for layer in range(16))
    return {
        "in_channels": tensors["encoder.conv_in.weight"].shape[1],
        "out_channels": tensors["decoder.conv_out.weight"].shape[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": [tensors[f"{resnet.format(i, 0)}.conv1.weight"].shape[0] for i in range(levels)],
        "layers_per_block": layers,
        "latent_channels": tensors["decoder.conv_in.weight"].shape[1],
        "scaling_factor": SCALING_FACTOR,
        "shift_factor": 0.0,
    }


def _current_attention(item: tuple[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
    key, tensor = item
    match = re.fullmatch(r"(.+\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)", key)
    if match:
        key = f"{match[1]}.{OLD_ATTENTION_NAMES[match[2]]}.{match[3]}"
    if ".attentions." in key and tensor.ndim == 4:  # kept as 1x1 convolutions by some converters
        tensor = tensor.flatten(1)
    return key, tensor


# How different pictures look to a VAE's encoder: a perceptual distance that needs no other network.
#
# It is built as LPIPS is (features at several depths, normalised along the channels, squared difference), but neither
# its features nor their weights come from LPIPS, and its values are not comparable with LPIPS: it is called `vae`.

NORM_EPS = 1e-6


def vae_features(vae: Autoencoder, pixels: Tensor) -> list[Tensor]:
    """(N, 3, h, w) RGB in [-1, 1] -> (N, C, h', w') of each level of the encoder, of unit length along C.

    The sides are multiples of the compression. Computed in the VAE's dtype; gradients flow.
    """
    hidden = vae.encoder.conv_in(pixels.to(device=vae.device, dtype=vae.dtype))
    features = []
    for block in vae.encoder.down_blocks:
        hidden = block(hidden)
        features.append(hidden / (hidden.float().square().sum(1, keepdim=True).sqrt() + NORM_EPS).to(hidden.dtype))
    return features


def vae_distance(vae: Autoencoder, predicted: Tensor, target: Tensor) -> Tensor:
    """(N,) float32 >= 0: mean over levels and places of the squared difference of features; 0 for equal pictures.

    predicted, target: as for `vae_features`. Gradients flow to the predicted pictures only.
    """
    with torch.no_grad():
        wanted = vae_features(vae, target)
    levels = zip(vae_features(vae, predicted), wanted, strict=True)
    return torch.stack([(a.float() - b.float()).square().sum(1).mean((1, 2)) for a, b in levels]).mean(0)


# A small decoder in place of the VAE's, for drafts: TAESD, which decodes Stable Diffusion's latents at a fraction of
# the cost, with less detail.


MOST_LAYERS = 64  # of one level; TAESD has 3


def load_draft_decoder(
    folder: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderTiny:
    """From a folder as diffusers saves it (config.json and safetensors), in eval mode; never from the network.

    It is used with `vae.decode`, as the VAE is, and must know the same latents. Raises ModelNotFoundError and
    CheckpointError's subclasses.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"there is no draft decoder at {folder}; expected a folder with config.json and "
            "diffusion_pytorch_model.safetensors, such as that of taesd for released models. Put it there, or decode "
            "with the VAE"
        )
    _check_layers(folder / "config.json")
    try:
        decoder, found = AutoencoderTiny.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, torch_dtype=dtype, output_loading_info=True
        )
    except DAMAGE as error:
        reason = str(error)[:500]
        raise CheckpointError(f"{folder} is not a draft decoder that can be read ({reason}). Get it again.") from error
    faults = {
        "missing": found["missing_keys"],
        "unknown": found["unexpected_keys"],
        "of another shape": list(map(str, found["mismatched_keys"])),
    }
    refuse_misfits(faults, f"{folder} does not fit its config.json", "Get it again.")
    return decoder.to(device).eval().requires_grad_(False)


def _check_layers(path: Path) -> None:
    """Raises CheckpointError for a description that would build without end."""
    description = read_json(path, what="describes the draft decoder")
    fields = description if isinstance(description, dict) else {}
    for field in ("num_encoder_blocks", "num_decoder_blocks"):
        numbers = fields.get(field, [1])
        if not isinstance(numbers, list) or not all(isinstance(n, int) and 0 < n <= MOST_LAYERS for n in numbers):
            raise CheckpointError(
                f"{path} has {field} {shown(numbers)}; expected a few numbers up to {MOST_LAYERS}. Get it again."
            )
