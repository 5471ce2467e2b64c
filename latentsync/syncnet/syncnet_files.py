"""SyncNet files: telling what a file is, building the network it holds, and writing one.

Widths, attention and the number of frames are read from tensor names and shapes. Strides are not to be seen there, nor
heads, norm groups, resolution and half: they come from metadata written by `save_syncnet`, from a JSON file beside the
weights in the layout of the reference's YAML, or else are those of the released network with as many levels.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from ..errors import ForeignCheckpointError, IncompleteCheckpointError, OptionError
from ..faces.facemesh import checked_framing
from ..files import parse_json
from ..model.weights import building, read_sidecar, read_weights, write_weights
from ..model_files import ASSETS
from .stable_syncnet import NUM_GROUPS, NUM_HEADS, EncoderConfig, Factor, StableSyncNet, SyncNetConfig

BUNDLED_SYNCNET = ASSETS / "syncnet" / "tiny.safetensors"
ENCODERS = ("audio_encoder", "visual_encoder")
RELEASED_RESOLUTION = 256
# Of the reference's configurations, by encoder and by which levels shrink the picture.
_TWO_FROM_WIDE = ((1, 2), 2, 2, 2, 2, 2, 2, 2)
RELEASED_FACTORS: dict[tuple[str, tuple[bool, ...]], tuple[Factor, ...]] = {
    (encoder, tuple(factor != 1 for factor in factors)): factors
    for encoder, factors in (
        ("visual_encoder", _TWO_FROM_WIDE),  # 16 and 25 frames of pixels
        ("audio_encoder", ((2, 1), 2, 2, 1, 2, 2, (2, 3))),  # 16 frames, beside pixels
        ("visual_encoder", (2, 2, 2, 1, 2, 2)),  # latents
        ("audio_encoder", ((2, 1), 2, 2, 2, 2, (2, 3))),  # 16 frames, beside latents
    )
}
AUDIO_FACTORS_25 = (2, 2, 2, 2, 2, 2)  # 25 frames; shrinks at the same levels as the one beside latents
SETTINGS = {"num_frames": int, "resolution": int, "lower_half": bool, "latent_space": bool, "latent_ratio": int}
SETTINGS |= {"num_heads": int, "norm_num_groups": int}
NAMES_SHOWN = 4


def load_syncnet(
    path: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = torch.float32
) -> StableSyncNet:
    """Load a StableSyncNet, released, exported or small, in eval mode and frozen; `dtype` None keeps the file's.

    Takes `.safetensors` and torch files, those with or without the trainer's wrapping `{"state_dict": ...}`. Raises
    ModelNotFoundError, DamagedCheckpointError, UnsafeCheckpointError, ForeignCheckpointError, IncompleteCheckpointError
    and OptionError.
    """
    path = Path(path)
    content, metadata = read_weights(path)
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if kind := _foreign_kind(content):
        raise ForeignCheckpointError(
            f"{path} is {kind}, not a StableSyncNet. Choose stable_syncnet.pt (or latentsync_syncnet.pt of 1.0)."
        )
    if "config" in metadata:
        described = parse_json(metadata["config"], told=f"the metadata of {path}")
    else:
        described = read_sidecar(path)
    with building(path, "a SyncNet"):
        config = syncnet_config_from_state_dict(tensors, described)
        with torch.device("meta"):
            syncnet = StableSyncNet(config)
    _check(tensors, syncnet.state_dict(), path)
    tensors = {key: tensor.to(device=device, dtype=dtype) for key, tensor in tensors.items()}
    with building(path, "a SyncNet"):
        syncnet.load_state_dict(tensors, strict=True, assign=True)
    # Files that `save_syncnet` wrote before it noted the framing were trained with the mesh's.
    framing = metadata.get("framing") or described.get("framing")
    syncnet.framing = checked_framing(framing or ("mesh" if "config" in metadata else "insightface"), path)
    return syncnet.eval().requires_grad_(False)


def save_syncnet(
    syncnet: StableSyncNet,
    path: str | Path,
    *,
    global_step: int | None = None,
    dtype: torch.dtype | None = None,
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write a SyncNet under the reference's names, whole or not at all.

    `.safetensors` carries the configuration and `facts` as metadata; any other suffix gives a torch file
    `{"global_step", "state_dict"}`, which the reference loads. `dtype` None keeps the network's. Raises OutputError.
    """
    tensors = {
        key: value.detach().to(device="cpu", dtype=dtype or value.dtype) for key, value in syncnet.state_dict().items()
    }
    if Path(path).suffix == ".safetensors":
        noted = {"global_step": global_step, "framing": syncnet.framing, **(facts or {})}
        metadata = {key: str(value) for key, value in noted.items() if value is not None}
        write_weights(path, tensors, {**metadata, "config": json.dumps(describe_syncnet(syncnet.config))})
    else:
        write_weights(path, {"global_step": global_step or 0, "state_dict": tensors})


def describe_syncnet(config: SyncNetConfig) -> dict:
    """The configuration in the layout of the reference's YAML, with what is ours beside it; for JSON and YAML."""
    names = {"in_channels": "in_channels", "block_out_channels": "block_out_channels"}
    names |= {"downsample_factors": "downsample_factors", "attention": "attn_blocks"}
    description: dict = {}
    for encoder, fields in zip(ENCODERS, (asdict(config.audio), asdict(config.visual)), strict=True):
        description[encoder] = {names[name]: value for name, value in fields.items()}
        description[encoder]["attn_blocks"] = [int(attends) for attends in fields["attention"]]
    settings = {name: getattr(config, "latent" if name == "latent_space" else name) for name in SETTINGS}
    return description | settings


def syncnet_from_description(description: Mapping) -> SyncNetConfig:
    """The configuration that `describe_syncnet`, or the reference's YAML with its data section's settings, tells.

    Attention flags that are not there mean none (the reference's 25-frame file has none and breaks it). Raises
    OptionError.
    """
    try:
        encoders = {}
        for encoder in ENCODERS:
            given = description[encoder]
            widths = tuple(int(width) for width in given["block_out_channels"])
            flags = tuple(bool(flag) for flag in given.get("attn_blocks") or [0] * len(widths))
            factors = _factors(given["downsample_factors"])
            encoders[encoder] = EncoderConfig(int(given["in_channels"]), widths, factors, flags)
        settings = {name: kind(description[name]) for name, kind in SETTINGS.items() if name in description}
    except (KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"The description of a SyncNet cannot be used ({error!r}). Expected audio_encoder and visual_encoder, each "
            "with in_channels, block_out_channels, downsample_factors and attn_blocks."
        ) from error
    latent = settings.pop("latent_space", False)
    settings.setdefault("lower_half", not latent)  # as in the reference's configurations
    return SyncNetConfig(encoders["audio_encoder"], encoders["visual_encoder"], latent=latent, **settings)


def syncnet_config_from_state_dict(
    tensors: Mapping[str, torch.Tensor], described: Mapping | None = None
) -> SyncNetConfig:
    """The configuration these tensors fit; `described` tells what they do not show. See `syncnet_from_description`.

    Raises IncompleteCheckpointError when tensors that tell the shape are not there, OptionError where the strides
    are neither described nor those of a released network.
    """
    described = described if described and all(encoder in described for encoder in ENCODERS) else {}
    shapes = {encoder: _encoder_shape(tensors, encoder) for encoder in ENCODERS}
    visual_channels = shapes["visual_encoder"][0]
    latent = bool(described.get("latent_space", visual_channels % 3 != 0))
    num_frames = int(described.get("num_frames", visual_channels // (4 if latent else 3)))
    description = {
        "resolution": RELEASED_RESOLUTION,
        "num_heads": NUM_HEADS,
        "norm_num_groups": NUM_GROUPS,
        **{name: value for name, value in described.items() if name in SETTINGS},
        "latent_space": latent,
        "num_frames": num_frames,
    }
    for encoder, (in_channels, widths, attention, shrinks) in shapes.items():
        if described:
            factors = described[encoder].get("downsample_factors", ())
        elif encoder == "audio_encoder" and num_frames == 25 and shrinks == (True,) * len(AUDIO_FACTORS_25):
            factors = AUDIO_FACTORS_25
        else:
            factors = RELEASED_FACTORS.get((encoder, shrinks), ())
        if tuple(factor != 1 for factor in _factors(factors)) != shrinks:
            raise OptionError(
                f"The SyncNet's {encoder} shrinks its input at levels {_levels(shrinks)} of {len(shrinks)}; "
                + (f"its description gives the factors {list(factors)}." if described else "no released one does.")
                + " Put a JSON file with the fitting downsample_factors beside the weights, as save_syncnet's metadata."
            )
        description[encoder] = {
            "in_channels": in_channels,
            "block_out_channels": widths,
            "downsample_factors": factors,
            "attn_blocks": attention,
        }
    return syncnet_from_description(description)


def _encoder_shape(
    tensors: Mapping[str, torch.Tensor], encoder: str
) -> tuple[int, tuple[int, ...], tuple[bool, ...], tuple[bool, ...]]:
    """Input channels, and of each level its width, whether attention follows and whether it shrinks the picture."""

    def shape(key: str) -> torch.Size:
        if key not in tensors:
            raise IncompleteCheckpointError(f"The SyncNet has no tensor {key!r}. Download it again.")
        return tensors[key].shape

    pattern = re.compile(re.escape(encoder) + r"\.down_blocks\.(\d+)\.")
    entries = sorted({int(match[1]) for key in tensors if (match := pattern.match(key))})
    widths, attention, shrinks = [], [], []
    for entry in entries:
        prefix = f"{encoder}.down_blocks.{entry}."
        if f"{prefix}attn.to_q.weight" in tensors and attention:
            attention[-1] = True
            continue
        widths.append(int(shape(f"{prefix}conv1.weight")[0]))
        attention.append(False)
        shrinks.append(f"{prefix}downsample_conv.weight" in tensors)
    return int(shape(f"{encoder}.conv_in.weight")[1]), tuple(widths), tuple(attention), tuple(shrinks)


def _foreign_kind(content: Mapping) -> str | None:
    """What kind of model that is not a StableSyncNet these names belong to."""
    keys = [key for key in content if isinstance(key, str)]

    def starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if starts("netcnnaud.", "netcnnlip.", "netfcaud.", "netfclip."):
        return "syncnet_v2, the network of the LSE scores (eval/eval_quality loads it)"
    if starts("face_encoder") and starts("audio_encoder"):
        return "Wav2Lip's SyncNet"
    if starts("audio_encoder.conv_in.") and starts("visual_encoder.conv_in."):
        return None
    if starts("time_embedding.", "motion_modules.") or (starts("conv_in.") and starts("up_blocks.")):
        return "a U-Net"
    if starts("first_stage_model.", "encoder.conv_in.", "decoder.conv_in."):
        return "a VAE"
    if ("model_state_dict" in content and "dims" in content) or starts("encoder.positional_embedding"):
        return "a Whisper audio model"
    return f"something without the two encoders (its first names are {', '.join(keys[:NAMES_SHOWN])})"


def _check(tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: Path) -> None:
    faults = {
        "missing": [key for key in expected if key not in tensors],
        "unknown": [key for key in tensors if key not in expected],
        "of another shape": [key for key in expected if key in tensors and tensors[key].shape != expected[key].shape],
    }
    if told := [f"{len(keys)} are {name}: {', '.join(keys[:NAMES_SHOWN])}" for name, keys in faults.items() if keys]:
        raise IncompleteCheckpointError(
            f"{path} does not fit the SyncNet that its layers describe; of its tensors {'; '.join(told)}. "
            "Download it again."
        )


def _factors(given) -> tuple[Factor, ...]:
    return tuple(int(f) if isinstance(f, int | float) else (int(f[0]), int(f[1])) for f in given)


def _levels(flags: tuple[bool, ...]) -> str:
    return ", ".join(str(level) for level, flag in enumerate(flags) if flag)
