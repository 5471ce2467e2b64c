"""Configurations: YAML over dataclasses, unknown keys refused; and that of the small model's data, VAE and restorer."""

import argparse
import types
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from latentsync.errors import OptionError
from latentsync.given_paths import given_path
from latentsync.model_files import Framing

TINY = Path(__file__).parent / "configs" / "tiny.yaml"


@dataclass
class DataConfig:
    num_clips: int
    num_voices: int
    duration: float
    frame_size: int
    num_workers: int
    first_clip: int = 0


@dataclass
class VAEConfig:
    """Of a FaceAutoencoder (face_autoencoder.py)."""

    block_out_channels: list[int]
    encoder_layers: list[int]
    decoder_layers: list[int]
    patch_size: int
    pixel_width: int
    latent_channels: int
    batch_size: int
    frames_per_clip: int
    crop: int | None
    steps: int
    learning_rate: float
    masked_fraction: float
    leaves_fraction: float
    spoiled_fraction: float
    latent_noise: float
    fewest_channels: int
    gradient_weight: float
    colour_weight: float
    mouth_weight: float
    train_encoder: bool
    initial: Path | None


@dataclass
class RestorerConfig:
    num_clips: int
    frames_per_clip: int
    variants: int
    latent_noise: float
    blur: float
    noise: float
    width: int
    depth: int
    crop: int
    batch_size: int
    steps: int
    learning_rate: float
    gradient_weight: float


@dataclass
class TrainingConfig:
    seed: int
    run_dir: Path
    resolution: int
    mask: str
    blend_mask: str
    data: DataConfig | None  # of drawn avatars; null: the clips are made by another command
    vae: VAEConfig
    stage1: Path  # configurations of the U-Net's two stages, see unet_config.py; beside the file that names them
    stage2: Path
    restorer: RestorerConfig | None
    ema_decay: float
    max_grad_norm: float
    warmup_fraction: float
    mixed_precision: str
    log_every: int
    save_every: int
    recipe: list[str]
    export: Path | None = None  # folder of the finished model; null: the bundled one's
    clips: Path | None = None  # the store of clips; null: run_dir/clips
    faces: Literal["drawn", "real"] = "drawn"  # what the model is for: drawn avatars or people
    framing: Framing = "mesh"  # of the faces, see latentsync/faces/detect.py


def read_values(path: str | Path, overrides: list[str] | None = None) -> dict:
    """The content of a YAML file; ``overrides`` such as "vae.steps=10" change single values. Raises OptionError."""
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for override in overrides or []:
        name, equals, text = override.partition("=")
        if not equals:
            raise OptionError(f"--set {override}: expected name=value, for example vae.steps=10")
        *parents, leaf = name.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = yaml.safe_load(text)
    if isinstance(values, dict) and values.get("mixed_precision") is False:
        values["mixed_precision"] = "no"  # which YAML takes for false where it has no quotes
    return values


Config = TypeVar("Config")


def _build(cls: type[Config], values: dict, where: str) -> Config:
    """A dataclass of ``values``; ``where`` is the prefix of names in errors. Raises OptionError."""
    names = {f.name for f in fields(cls)}
    if not isinstance(values, dict):
        raise OptionError(
            f"setting {where.rstrip('.')} is {values!r}; expected a section with {', '.join(sorted(names))}"
        )
    if unknown := set(values) - names:
        raise OptionError(f"unknown setting {where}{sorted(unknown)[0]}; known there: {', '.join(sorted(names))}")
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
    if missing := needed - set(values):
        raise OptionError(f"setting {where}{sorted(missing)[0]} is missing in the configuration")
    hints = get_type_hints(cls)
    return cls(**{name: _converted(hints[name], value, f"{where}{name}") for name, value in values.items()})


def _converted(kind: Any, value: Any, name: str) -> Any:
    """``value`` as the field's type has it: YAML reads 1e-5 as a string."""
    if isinstance(kind, types.UnionType):  # X | None
        if value is None:
            return None
        kind = next(part for part in get_args(kind) if part is not type(None))
    if is_dataclass(kind):
        return _build(kind, value, f"{name}.")
    if get_origin(kind) is list and isinstance(value, list):
        return [_converted(get_args(kind)[0], part, name) for part in value]
    if get_origin(kind) is Literal and value not in get_args(kind):
        raise OptionError(f"setting {name} is {value!r}; expected {', '.join(map(str, get_args(kind)))}")
    if kind is bool and not isinstance(value, bool):
        raise OptionError(f"setting {name} is {value!r}; expected true or false")
    if kind in (int, float, str, Path):
        try:
            return given_path(value) if kind is Path else kind(value)
        except (TypeError, ValueError) as error:
            raise OptionError(f"setting {name} is {value!r}; expected {kind.__name__}") from error
    return value


def load_config(path: str | Path = TINY, overrides: list[str] | None = None) -> TrainingConfig:
    """Read a YAML file; ``overrides`` such as "vae.steps=10" change single values.

    Raises OptionError for unknown or missing settings.
    """
    config = _build(TrainingConfig, read_values(path, overrides), "")
    config.stage1, config.stage2 = (Path(path).parent / stage for stage in (config.stage1, config.stage2))
    return config


def parse_config(description: str) -> TrainingConfig:
    """Read ``--config`` and ``--set`` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=given_path, default=TINY, help="YAML file (default: the small bundled model)")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="change one setting, e.g. vae.steps=10")
    arguments = parser.parse_args()
    return load_config(arguments.config, arguments.set)
