"""LoRA adapters of the U-Net: low-rank changes of its attention layers, learned for one speaker.

An adapter is one `.safetensors` file in peft's layout (`base_model.model.<layer>.lora_A.weight`), with peft's
configuration in its metadata or in `adapter_config.json` beside it. It is merged into the weights, so that it costs
nothing at inference: W + strength * alpha / r * B A.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from .errors import CheckpointError, ForeignCheckpointError, IncompleteCheckpointError, OptionError
from .files import parse_json, read_json, shown
from .weight_files import read_weights, write_weights

PREFIX = "base_model.model."  # of peft's names
CONFIG_FIELD, BASE_FIELD = "lora_adapter_config", "base_sha256"  # of the metadata
CONFIG_FILE = "adapter_config.json"
KEY = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.default)?\.weight$")
# Settings of peft that change what the tensors mean, and the values that leave them alone.
PLAIN = {"use_dora": (False, None), "bias": ("none", None), "modules_to_save": (None, []), "lora_bias": (False, None)}
PLAIN_NAME = re.compile(r"[\w.]+")
MAX_ALPHA = 1e6
NAMES_SHOWN = 5


@dataclass(frozen=True)
class LoRA:
    """layers: name in the U-Net -> A (r, inputs) and B (outputs, r); scales: alpha / r of each, or alpha / sqrt(r)."""

    name: str
    layers: dict[str, tuple[Tensor, Tensor]]
    scales: dict[str, float]
    base_sha256: str | None = None  # of the U-Net file it was trained on, where known


def read_lora(path: str | Path) -> LoRA:
    """Read an adapter. Raises ModelNotFoundError and CheckpointError's subclasses."""
    path = Path(path)
    content, metadata = read_weights(path)
    matches = {key: KEY.match(key) for key in content}
    unknown = [key for key, match in matches.items() if match is None]
    if unknown or not content:
        raise ForeignCheckpointError(
            f"{path} is not an adapter in peft's layout: {len(unknown)} of its {len(content)} names are not "
            f"<layer>.lora_A.weight or lora_B.weight ({', '.join(unknown[:NAMES_SHOWN])}). Expected one of train_lora."
        )
    halves: dict[str, dict[str, Tensor]] = {}
    for key, match in matches.items():
        if not isinstance(content[key], Tensor):
            raise ForeignCheckpointError(f"{path}: {key} is no tensor. Expected an adapter of train_lora.")
        halves.setdefault(match[1], {})[match[2]] = content[key]
    layers = {}
    for layer, pair in halves.items():
        if (
            set(pair) != {"A", "B"}
            or pair["A"].ndim != 2
            or pair["B"].ndim != 2
            or len(pair["A"]) != pair["B"].shape[1]
            or not len(pair["A"])
        ):
            raise IncompleteCheckpointError(
                f"{path}: the layer {layer} has {' and '.join(f'lora_{k} {tuple(v.shape)}' for k, v in pair.items())}; "
                "expected lora_A (r, inputs) and lora_B (outputs, r) of a linear layer. Make the adapter again."
            )
        layers[layer] = pair["A"], pair["B"]
    config = _read_config(path, metadata)
    scales = {layer: _scale(config, layer, len(pair[0]), path) for layer, pair in layers.items()}
    return LoRA(path.name, layers, scales, metadata.get(BASE_FIELD))


def merge_lora(unet: nn.Module, lora: LoRA, strength: float = 1.0) -> None:
    """Add the adapter to the U-Net's weights, in place. strength: 0, which changes no bit, to 1, as it was trained.

    Raises OptionError for another strength, IncompleteCheckpointError where a layer is not in the U-Net or has another
    shape; the U-Net is then as it was.
    """
    if not 0 <= strength <= 1:
        raise OptionError(f"the strength of the adapter is {strength:g}; expected 0, which is without it, to 1")
    modules = dict(unet.named_modules())
    faults = []
    for layer, (a, b) in lora.layers.items():
        module = modules.get(layer)
        if not isinstance(module, nn.Linear):
            faults.append(f"{layer} (not a linear layer of the U-Net)")
        elif module.weight.shape != (len(b), a.shape[1]):
            faults.append(f"{layer} {(len(b), a.shape[1])} instead of {tuple(module.weight.shape)}")
    if faults:
        raise IncompleteCheckpointError(
            f"{lora.name} does not fit this U-Net: {len(faults)} of its {len(lora.layers)} layers are not there or of "
            f"another size: {', '.join(faults[:NAMES_SHOWN])}. Choose the model that the adapter was trained on."
        )
    if strength == 0:
        return
    for layer, (a, b) in lora.layers.items():
        weight = modules[layer].weight
        change = strength * lora.scales[layer] * (b.float() @ a.float())
        weight.data = (weight.data.float() + change.to(weight.device)).to(weight.dtype)  # not in place: may be mapped


def save_lora(path: str | Path, tensors: Mapping[str, Tensor], config: Mapping, base_sha256: str | None = None) -> None:
    """Write peft's tensors, with or without its prefix, and its configuration. Whole or not at all; OutputError."""
    named = {key if key.startswith(PREFIX) else PREFIX + key: tensor for key, tensor in tensors.items()}
    metadata = {CONFIG_FIELD: json.dumps(config, sort_keys=True)}
    write_weights(path, named, metadata | ({BASE_FIELD: base_sha256} if base_sha256 else {}))


def _read_config(path: Path, metadata: Mapping[str, str]) -> dict:
    beside = path.with_name(CONFIG_FILE)
    if CONFIG_FIELD in metadata:
        where = f"the metadata of {path}"
        config = parse_json(metadata[CONFIG_FIELD], told=where)
    elif beside.is_file():
        where, config = str(beside), read_json(beside, what=f"describes {path.name}")
    else:
        raise CheckpointError(
            f"{path} does not say its rank and alpha: neither its metadata nor {CONFIG_FILE} beside it has them. Keep "
            f"peft's {CONFIG_FILE} in the same folder."
        )
    if not isinstance(config, dict):
        raise CheckpointError(f"{where} is no configuration of peft. Make the adapter again.")
    odd = [f"{field} {shown(config[field])}" for field, plain in PLAIN.items() if config.get(field) not in plain]
    kind = config.get("peft_type", "LORA")
    if odd or kind != "LORA":
        raise ForeignCheckpointError(
            f"{path} is {shown(kind)} with {', '.join(odd) or 'other arithmetic'}; expected a "
            "plain LoRA of linear layers, as train_lora makes it."
        )
    return config


def _scale(config: Mapping, layer: str, rank: int, path: Path) -> float:
    """What peft multiplies B A by."""
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(PLAIN_NAME.fullmatch(name) for name in patterns):
        # peft takes them for regular expressions, which a file could make to run for years
        raise ForeignCheckpointError(f"{path} has alpha_pattern {shown(patterns)}; expected names of layers.")
    named = (value for name, value in patterns.items() if layer == name or layer.endswith(f".{name}"))
    alpha = next(named, config.get("lora_alpha"))
    if not isinstance(alpha, int | float) or not abs(alpha) <= MAX_ALPHA:
        raise CheckpointError(
            f"{path} has lora_alpha {shown(alpha)}; expected a number up to {MAX_ALPHA:g}. Make the adapter again."
        )
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
