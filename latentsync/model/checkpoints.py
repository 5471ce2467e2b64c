"""U-Net checkpoints: telling what a file is, building the U-Net it holds, and writing one.

A model is known by its tensor names and shapes alone. What they do not show, the numbers of attention heads and of norm
groups, the resolution, what the output means and how faces are framed, comes from the arguments, from metadata written
by `save_unet`, from a JSON file beside the weights, or else has the released models' values. That file may be
in the reference's terms, as the `model` section of its configurations is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers.models.embeddings import SinusoidalPositionalEmbedding

from ..errors import ForeignCheckpointError, IncompleteCheckpointError, OptionError
from ..files import sha256_of, shown
from ..model_files import Framing, checked_framing
from .diffusion import PREDICTION_TYPES
from .unet import (
    MAX_FRAMES,
    MOTION_NORM_GROUPS,
    LatentSyncUNet,
    from_reference_keys,
    motion_placement,
    to_reference_key,
    to_reference_keys,
)
from .weights import building, check_fit, read_sidecar, read_weights, some_names, write_weights

NUM_ATTENTION_HEADS, NUM_NORM_GROUPS = 8, 32
RESOLUTION_1_0, RESOLUTION_1_6 = 256, 512
# Resolution by SHA-256 of a released file. Only hashes taken from a file in hand, or published with one, belong here.
KNOWN_RESOLUTIONS: dict[str, int] = {}
# Of the U-Net, not in shapes; heads of motion modules that are not told are as many as the others.
UNSEEN_FIELDS = ("num_attention_heads", "motion_num_attention_heads", "norm_num_groups", "motion_norm_num_groups")
NUMBER_FIELDS = (*UNSEEN_FIELDS, "resolution", "global_step", "latent_ratio")
DESCRIPTION_FIELDS = (*NUMBER_FIELDS, "prediction_type", "framing")
MAX_POSITIONS = 4096  # frames a motion module could tell apart; released ones tell 24
SIDES = 8, 4096  # px, of faces that a model may work at


@dataclass(frozen=True)
class UNetFacts:
    """What a checkpoint tells about itself."""

    version: str  # "1.0", "1.5 or 1.6", "decoder motion" (stage2_efficient), "no motion" (stage 1) or "custom motion"
    motion: str | list[str]  # as `LatentSyncUNet.motion`
    cross_attention_dim: int
    num_parameters: int  # without position tables
    global_step: int | None
    resolution: int | None  # face side in pixels, where the file or its description says
    prediction_type: str = (
        "epsilon"  # what the output means, see model/diffusion.py; all released ones predict the noise
    )
    framing: Framing | None = None  # of the faces it was trained with, see faces/detect.py; None where nothing tells
    latent_ratio: int = 8  # px of the face per latent, see model/vae.py


class Resolution(NamedTuple):
    """Face side in pixels, why, and what a user should check (None when it is certain)."""

    value: int
    reason: str
    warning: str | None


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a LatentSync U-Net file, under the file's own names.

    Accepts `.safetensors`, and torch files with or without the trainer's `{"global_step", "state_dict"}` wrapping.
    Raises ModelNotFoundError, DamagedCheckpointError, UnsafeCheckpointError and ForeignCheckpointError.
    """
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, int | str]]:
    content, metadata = read_weights(path)
    sidecar = read_sidecar(path)
    if sidecar.get("_class_name", LatentSyncUNet.__name__) != LatentSyncUNet.__name__:
        sidecar = {}  # diffusers' description of another model in the same folder
    described = from_reference_config(sidecar)
    described |= {field: value for field, value in sidecar.items() if field in DESCRIPTION_FIELDS}
    described |= {field: value for field, value in metadata.items() if field in DESCRIPTION_FIELDS}
    if isinstance(content.get("state_dict"), Mapping):
        described |= {"global_step": content["global_step"]} if "global_step" in content else {}
        content = content["state_dict"]
    tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}
    kind = foreign_kind(content)
    if kind:
        raise ForeignCheckpointError(
            f"{path} is {kind}, not a LatentSync U-Net. Choose the file latentsync_unet.pt (or its .safetensors form)."
        )
    try:
        numbers = {field: int(described[field]) for field in NUMBER_FIELDS if described.get(field) is not None}
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(
            f"The description of {path} has a value that is not a whole number: {shown(described)}."
        ) from error
    if any(numbers.get(field, 1) < 1 for field in UNSEEN_FIELDS):
        raise OptionError(f"The description of {path} has heads or groups below 1: {shown(described)}.")
    meaning = described.get("prediction_type") or "epsilon"
    if not isinstance(meaning, str) or meaning not in PREDICTION_TYPES:
        raise OptionError(
            f"The description of {path} has prediction_type {shown(meaning)}; expected {' or '.join(PREDICTION_TYPES)}."
        )
    framing = described.get("framing")
    if framing is None and "prediction_type" in metadata:  # written by `save_unet` when there was no other
        framing = "mesh"
    facts = {**numbers, "prediction_type": meaning}
    return tensors, facts if framing is None else {**facts, "framing": checked_framing(framing, path)}


def from_reference_config(config: Mapping) -> dict:
    """What a description in the reference's terms says of what shapes do not show; nothing of one in other terms."""
    motion = config.get("motion_module_kwargs")
    if not isinstance(motion, Mapping):
        return {}
    described = {
        "num_attention_heads": config.get("attention_head_dim"),
        "motion_num_attention_heads": motion.get("num_attention_heads"),
        "norm_num_groups": config.get("norm_num_groups"),
    }
    return {field: value for field, value in described.items() if value is not None}


def foreign_kind(content: Mapping) -> str | None:
    """What kind of model that is not a LatentSync U-Net these names and shapes belong to; None for a U-Net of ours."""
    keys = [key for key in content if isinstance(key, str)]

    def starts(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in keys)

    if ("model_state_dict" in content and "dims" in content) or "encoder.positional_embedding" in content:
        return "a Whisper audio model"
    if starts("model.encoder.embed_positions", "encoder.embed_positions"):
        return "a Whisper audio model in transformers' layout"
    if (starts("audio_encoder.") and starts("visual_encoder.")) or starts("netcnnaud", "netcnnlip", "face_encoder"):
        return "a SyncNet"
    if starts("model.diffusion_model."):
        return "a whole Stable Diffusion checkpoint in its original layout"
    if starts("input_blocks."):
        return "a Stable Diffusion U-Net in its original layout"
    if starts("first_stage_model.") or (starts("encoder.conv_in.", "encoder.down") and starts("decoder.")):
        return "a VAE"
    if any(".lora_" in key or "lora_up" in key for key in keys):
        return "a LoRA"
    conv_in = content.get("conv_in.weight")
    if not isinstance(conv_in, torch.Tensor) or conv_in.ndim != 4:
        if any("motion_modules." in key for key in keys):
            return "a set of motion modules without a U-Net"
        return f"something without the U-Net's first layer (its first names are {some_names(keys)})"
    if conv_in.shape[1] in (4, 8, 9):
        width = next((value.shape[-1] for key, value in content.items() if key.endswith(".attn2.to_k.weight")), None)
        return (
            f"a Stable Diffusion U-Net for text and images ({conv_in.shape[1]} input channels, context width {width}; "
            "LatentSync has 13 channels, width 384)"
        )
    return None


def unet_config_from_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    num_attention_heads: int = NUM_ATTENTION_HEADS,
    norm_num_groups: int = NUM_NORM_GROUPS,
    motion_norm_num_groups: int = MOTION_NORM_GROUPS,
    motion_num_attention_heads: int | None = None,
) -> dict:
    """Arguments of `LatentSyncUNet` for these tensors, under reference or converted names.

    Raises IncompleteCheckpointError when tensors that tell the shape are not there.
    """
    tensors = from_reference_keys(state_dict)

    def shape(key: str) -> torch.Size:
        if key not in tensors:
            raise IncompleteCheckpointError(f"The U-Net checkpoint has no tensor {key!r}. Download it again.")
        return tensors[key].shape

    def count(pattern: str) -> int:
        found = {int(match[1]) for key in tensors if (match := re.match(pattern, key))}
        number = max(found, default=-1) + 1
        if number > len(tensors):
            raise IncompleteCheckpointError(
                f"The U-Net checkpoint counts {number} layers with {len(tensors)} tensors. Download it again."
            )
        return number

    levels = count(r"down_blocks\.(\d+)\.")
    channels = tuple(shape(f"down_blocks.{level}.resnets.0.conv1.weight")[0] for level in range(levels))
    attention = [any(key.startswith(f"down_blocks.{level}.attentions.") for key in tensors) for level in range(levels)]
    motion = {match[1] for key in tensors if (match := re.match(r"((?:down|up)_blocks\.\d+)\.motion_modules\.", key))}
    table = next((tensor for key, tensor in tensors.items() if key.endswith("pos_embed.pe")), None)
    positions = MAX_FRAMES if table is None else table.shape[1]
    if positions > MAX_POSITIONS:
        raise IncompleteCheckpointError(
            f"The U-Net checkpoint has a table of {positions} positions; expected {MAX_FRAMES}. Download it again."
        )
    return {
        "in_channels": shape("conv_in.weight")[1],
        "out_channels": shape("conv_out.weight")[0],
        "block_out_channels": channels,
        "layers_per_block": count(r"down_blocks\.0\.resnets\.(\d+)\."),
        "attention_levels": attention,
        "motion_blocks": motion_placement(motion, levels),
        "motion_max_seq_length": positions,
        "norm_num_groups": norm_num_groups,
        "motion_norm_num_groups": motion_norm_num_groups,
        "num_attention_heads": num_attention_heads,
        "motion_num_attention_heads": motion_num_attention_heads,
        "cross_attention_dim": shape("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")[1],
    }


def build_unet(config: Mapping, state_dict: Mapping[str, torch.Tensor], name: str = "The checkpoint") -> LatentSyncUNet:
    """A U-Net holding exactly these tensors (reference or converted names), without copying them.

    Position tables may be absent: they are fixed. Raises IncompleteCheckpointError, naming missing, unknown and
    misshapen tensors.
    """
    tensors = from_reference_keys(state_dict)
    with torch.device("meta"):
        unet = LatentSyncUNet(**config)
    expected = unet.state_dict()
    for key, table in expected.items():
        if key.endswith("pos_embed.pe") and key not in tensors:
            tensors[key] = SinusoidalPositionalEmbedding(table.shape[2], table.shape[1]).pe
    told = f"{name} does not fit the U-Net that its layers describe"
    check_fit(tensors, expected, told, shown=to_reference_key)
    unet.load_state_dict(tensors, strict=True, assign=True)
    return unet


def load_unet(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    num_attention_heads: int | None = None,
    motion_num_attention_heads: int | None = None,
    norm_num_groups: int | None = None,
) -> tuple[LatentSyncUNet, UNetFacts]:
    """Load any LatentSync U-Net (1.0, 1.5, 1.6, stage 1, stage2_efficient, or a small one of the same kind).

    `dtype` None keeps the file's. `num_attention_heads`, those of the motion modules and `norm_num_groups` None mean:
    as described by the file or beside it, else 8, as many, and 32. The U-Net is in eval mode. Raises ModelNotFoundError
    and CheckpointError's subclasses.
    """
    path = Path(path)
    state_dict, described = _read(path)
    given = {
        "num_attention_heads": num_attention_heads,
        "motion_num_attention_heads": motion_num_attention_heads,
        "norm_num_groups": norm_num_groups,
    }
    unseen = {field: described[field] for field in UNSEEN_FIELDS if field in described}
    unseen |= {field: value for field, value in given.items() if value is not None}
    with building(path, "a U-Net"):
        config = unet_config_from_state_dict(state_dict, **unseen)
    # Before they go into the U-Net: its `.to(dtype=...)` logs a warning of diffusers about nothing.
    state_dict = {key: tensor.to(device=device, dtype=dtype) for key, tensor in state_dict.items()}
    with building(path, "a U-Net"):
        return build_unet(config, state_dict, str(path)).eval(), _facts(state_dict, config, described)


def read_unet_facts(path: str | Path) -> UNetFacts:
    """What a U-Net file is, without loading its tensors into memory. Raises as `read_state_dict`."""
    state_dict, described = _read(Path(path))
    with building(path, "a U-Net"):
        return _facts(state_dict, unet_config_from_state_dict(state_dict), described)


def _facts(state_dict: Mapping[str, torch.Tensor], config: Mapping, described: Mapping[str, int | str]) -> UNetFacts:
    motion = config["motion_blocks"]
    if any(".audio_cross_attn." in key for key in state_dict):
        version = "1.0"
    else:
        named = {"none": "no motion", "all": "1.5 or 1.6", "decoder": "decoder motion"}
        version = named.get(motion, "custom motion") if isinstance(motion, str) else "custom motion"
    return UNetFacts(
        version=version,
        motion=motion,
        cross_attention_dim=config["cross_attention_dim"],
        num_parameters=sum(tensor.numel() for key, tensor in state_dict.items() if not key.endswith(".pe")),
        global_step=described.get("global_step"),
        resolution=described.get("resolution"),
        prediction_type=described["prediction_type"],
        framing=described.get("framing"),
        latent_ratio=described.get("latent_ratio", UNetFacts.latent_ratio),
    )


def resolve_resolution(path: str | Path, override: int | None = None, facts: UNetFacts | None = None) -> Resolution:
    """The face side a checkpoint works at, which 1.5 (256) and 1.6 (512) files of equal shape do not show.

    In this order: the override, the file's description, the table of known files, version 1.0's certain 256, else 512
    with a warning. `facts` saves reading the file. Raises OptionError for an override that is not a multiple of 8.
    """
    if override is not None:
        check_resolution(override)
        return Resolution(override, "set by the user", None)
    facts = read_unet_facts(path) if facts is None else facts
    if facts.resolution is not None:
        check_resolution(facts.resolution, f"is described with {Path(path).name}")
        return Resolution(facts.resolution, "described with the checkpoint", None)
    if KNOWN_RESOLUTIONS and (known := KNOWN_RESOLUTIONS.get(sha256_of(path))):
        return Resolution(known, "a released file, known by its hash", None)
    if facts.version == "1.0":
        return Resolution(RESOLUTION_1_0, "version 1.0 exists only at 256", None)
    warning = (
        f"{Path(path).name} does not say its resolution; {RESOLUTION_1_6} (version 1.6) is assumed. "
        f"Versions 1.0 and 1.5 need {RESOLUTION_1_0}: set the resolution if this is one of them."
    )
    return Resolution(RESOLUTION_1_6, "assumed: versions 1.5 and 1.6 have the same tensors", warning)


def check_resolution(resolution: int, told: str = "was given") -> None:
    """Raises OptionError for a side of the face, in px, that no model can have."""
    if not SIDES[0] <= resolution <= SIDES[1] or resolution % 8:
        raise OptionError(f"The resolution {resolution} {told}; expected a positive multiple of 8, as 256 or 512.")


def save_unet(
    unet: LatentSyncUNet,
    path: str | Path,
    *,
    global_step: int | None = None,
    resolution: int | None = None,
    prediction_type: str = "epsilon",
    framing: Framing = "insightface",
    latent_ratio: int = UNetFacts.latent_ratio,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a U-Net under the reference's names, whole or not at all.

    `.safetensors` also carries heads, norm groups, resolution, prediction type, framing, pixels per latent and step as
    metadata; any other suffix gives the reference's torch file `{"global_step", "state_dict"}`, which it can load and
    of which all that is known again is what a JSON file beside it says. `dtype` None keeps the U-Net's. Raises
    OutputError.
    """
    state_dict = {
        key: tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype)
        for key, tensor in to_reference_keys(unet.state_dict()).items()
    }
    if Path(path).suffix == ".safetensors":
        described = {field: unet.config[field] for field in UNSEEN_FIELDS}
        described |= {"resolution": resolution, "global_step": global_step, "prediction_type": prediction_type}
        described |= {"framing": framing, "latent_ratio": latent_ratio}
        write_weights(path, state_dict, {key: str(value) for key, value in described.items() if value is not None})
    else:
        write_weights(path, {"global_step": global_step or 0, "state_dict": state_dict})
