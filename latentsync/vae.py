"""The image autoencoder: frames to latents and back.

Released models use Stable Diffusion's VAE (sd-vae-ft-mse), latents scaled by 0.18215, and the reference samples of the
posterior rather than means. Shapes below: (F, C, h, w) are latents as `latent_space.LatentSpace` of the VAE tells.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from .cpu_threads import threads_of
from .errors import (
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
    is_out_of_memory,
)
from .face_autoencoder import FaceAutoencoder
from .files import read_json, shown
from .latent_space import SCALING_FACTOR, LatentSpace
from .weight_files import building, read_weights

FOLDER_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
)
ORIGINAL_PREFIXES = ("first_stage_model.", "vae.")  # in whole Stable Diffusion checkpoints
# Attention names in files written by old diffusers, sd-vae-ft-mse among them.
OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
NAMES_SHOWN = 5
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
    wrong = sorted(set(expected) ^ set(tensors))
    wrong += [key for key in expected if key in tensors and expected[key].shape != tensors[key].shape]
    if wrong:
        raise IncompleteCheckpointError(
            f"{file} does not fit its VAE configuration: {len(wrong)} tensors are missing, unknown or of another shape "
            f"({', '.join(wrong[:NAMES_SHOWN])}). Download it again, together with its config.json."
        )
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
