"""Every setting of training: what a configuration file may hold, and how it is read.

A file is YAML over one of the dataclasses below; ``--set a.b=c`` changes single values. pydantic converts types and
refuses unknown keys; whatever is wrong is raised as an OptionError, which names the setting.
"""

import argparse
import difflib
import types
from collections.abc import Sequence
from dataclasses import field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.dataclasses import dataclass

from latentsync.errors import OptionError
from latentsync.given_paths import given_path
from latentsync.model_files import Framing
from latentsync.sync.syncnet import SyncNetConfig, syncnet_from_description
from latentsync.videomae import VideoEncoderConfig

CONFIGS = Path(__file__).parent / "configs"
STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


def _beside(path: Path, info: ValidationInfo) -> Path:
    """A path of a file that is read, relative to that file's folder."""
    return info.context["folder"] / path if info.context else path


GivenPath = Annotated[Path, BeforeValidator(lambda value: given_path(value) if isinstance(value, str) else value)]
PathBeside = Annotated[GivenPath, AfterValidator(_beside)]
Count = Annotated[int, Field(ge=1)]
Precision = Literal["no", "fp16", "bf16", "auto"]  # "auto": bf16 where the device multiplies it, else "no"
Schedule = Literal["constant", "one_cycle"]


# Data, autoencoder and restorer of a small model


@dataclass(config=STRICT)
class AvatarsConfig:
    """Clips of drawn avatars, see make_synthetic_dataset.py."""

    num_clips: int
    num_voices: int
    duration: float
    frame_size: int
    num_workers: int
    first_clip: int = 0


@dataclass(config=STRICT)
class VAEConfig:
    """Of a FaceAutoencoder (face_autoencoder.py); configs/tiny.yaml says what each means."""

    block_out_channels: list[int]
    encoder_layers: list[int]
    decoder_layers: list[int]
    patch_size: int
    pixel_width: int
    latent_channels: int
    batch_size: Count
    frames_per_clip: Count
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
    initial: GivenPath | None


@dataclass(config=STRICT)
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
    batch_size: Count
    steps: int
    learning_rate: float
    gradient_weight: float


@dataclass(config=STRICT)
class TrainingConfig:
    FILE: ClassVar[Path] = CONFIGS / "tiny.yaml"

    seed: int
    run_dir: GivenPath
    resolution: int
    mask: str
    blend_mask: str
    data: AvatarsConfig | None  # null: the clips are made by another command
    vae: VAEConfig
    stage1: PathBeside  # configurations of the U-Net's two stages; beside the file that names them
    stage2: PathBeside
    restorer: RestorerConfig | None
    ema_decay: float
    max_grad_norm: float
    warmup_fraction: float
    mixed_precision: Precision
    log_every: Count
    save_every: Count
    recipe: list[str]
    export: GivenPath | None = None  # folder of the finished model; null: the bundled one's
    clips: GivenPath | None = None  # the store of clips; null: run_dir/clips
    faces: Literal["drawn", "real"] = "drawn"  # what the model is for: drawn avatars or people
    framing: Framing = "mesh"  # of the faces, see latentsync/faces/detect.py

    @property
    def clip_folder(self) -> Path:
        """Where the store of clips lies."""
        return self.clips or self.run_dir / "clips"


# The U-Net. Values that a file leaves out are the reference's where it has such a thing, else "off"


@dataclass(config=STRICT)
class ModelConfig:
    initial: GivenPath | None = None  # any LatentSync U-Net file; null: from nothing, with the sizes below
    new_latents: bool = False  # of another VAE than the initial file's: the layers that meet them start anew
    motion: Literal["off", "all", "decoder"] = "off"  # motion modules: in down and up blocks, or in up blocks only
    trainable: list[str] = field(default_factory=lambda: ["all"])  # parts of the reference's tensor names
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None  # null: the initial file's, or epsilon
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    layers_per_block: int = 2
    norm_num_groups: int = 32
    num_attention_heads: int = 8
    motion_num_attention_heads: int | None = None  # null: as many
    cross_attention_dim: int = 384
    vae: GivenPath = Path("checkpoints/vae")


@dataclass(config=STRICT)
class LoRAConfig:
    """An adapter in place of the U-Net's own weights."""

    rank: Annotated[int, Field(ge=0)] = 0  # 0: none
    alpha: Annotated[float, Field(gt=0)] = 16.0  # the change is alpha / rank * B A
    layers: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])  # ends of their names
    within: str = "all"  # part of the reference's names, as attn2. for what hears only


@dataclass(config=STRICT)
class DataConfig:
    clips: GivenPath = Path("data/clips")  # prepared clips, see clip_store.py
    resolution: int = 256
    mask: str = "mask"
    num_frames: Count = 16
    batch_size: Count = 1  # clips of one process at once
    held_out: float = 0.0  # share of the clips, whole identities, that only validate
    num_workers: int = 12
    latents: Literal["cached", "encoded"] = "encoded"  # every step, or cached on disk (posterior means; for small data)
    posterior: Literal["sample", "mean"] = "sample"
    broken: Literal["replace", "stop"] = "replace"  # of a clip that cannot be read: take the next one in its place


@dataclass(config=STRICT)
class NoiseConfig:
    # "mixed": a part shared by a clip's frames and a part of each; "shared" is what inference starts from
    kind: Literal["mixed", "shared", "independent"] = "mixed"
    alpha: float = 1.0  # of mixed noise: the shared part's variance is alpha^2 / (1 + alpha^2)
    audio_dropout: float = 0.0  # clips whose audio is zeroed, so that guidance has a trained null branch


@dataclass(config=STRICT)
class UNetLossConfig:
    recon_weight: float = 1.0
    sync_weight: float = 0.0
    perceptual_weight: float = 0.0
    temporal_weight: float = 0.0
    lip_weight: float = 0.0  # of the lip reader; only for people who were drawn, whose lips are known
    # "lpips": LPIPS (VGG); "vae": features of the VAE's own encoder, which is no LPIPS
    perceptual: Literal["lpips", "vae", "none"] = "none"
    # "videomae": VideoMAE-v2; "encoder": a small encoder of train_video_encoder.py
    temporal: Literal["videomae", "encoder", "none"] = "none"
    syncnet: GivenPath | None = None
    vgg: GivenPath | None = None  # of LPIPS; null: torch's cache
    lin: GivenPath | None = None
    video_encoder: GivenPath | None = None
    lip_reader: GivenPath | None = None  # made there where it is not
    # Which clips and frames are decoded for the losses of pixels
    pixel_every: Count = 1  # only of each n-th clip of the batch, weighted n times
    pixel_frames: int | None = None  # only so many, in the middle, where neither sync nor temporal loss needs them all
    # "signal": weighted by alphas_cumprod: little where estimates are guesses
    pixel_timestep_weight: Literal["none", "signal"] = "none"
    # Where and when the error of the noise counts more; 1 everywhere in the reference
    max_timestep_weight: float = 1.0  # the square is weighted by 1 / alphas_cumprod, at most this
    mask_weight: float = 1.0  # of latents inside the hole
    paste_weight: float = 1.0  # of latents where inference pastes (paste_mask)
    paste_mask: str = "mask3"

    @property
    def decodes(self) -> bool:
        """Whether any loss looks at pixels (a sync loss of latents does not, which only its file tells)."""
        return self.sync_weight > 0 or self.perceptual_weight > 0 or self.temporal_weight > 0


@dataclass(config=STRICT)
class OptimizerConfig:
    steps: Count = 10_000_000
    learning_rate: float = 1e-5
    schedule: Schedule = "constant"
    warmup_fraction: float = 0.0  # of the steps
    weight_decay: float = 0.01
    gradient_accumulation_steps: Count = 1
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0: none


@dataclass(config=STRICT)
class LipReaderConfig:
    width: int = 32
    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3


@dataclass(config=STRICT)
class ValidationConfig:
    every: int = 0  # steps; 0: never
    clips: int = 2
    chunks: int = 3  # of data.num_frames frames each, at most
    num_inference_steps: int = 20
    guidance_scale: float = 1.5
    syncnet: GivenPath | None = None  # null: the one of the loss; without either no score


@dataclass(config=STRICT)
class UNetTrainingConfig:
    FILE: ClassVar[None] = None  # there is no usual one

    output: GivenPath = Path("runs/unet")
    seed: int = 1247
    reference: bool = False  # the reference's exact arithmetic; options that contradict it are refused
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    loss: UNetLossConfig = field(default_factory=UNetLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    lip_reader: LipReaderConfig = field(default_factory=LipReaderConfig)
    mixed_precision: Precision = "fp16"
    gradient_checkpointing: bool = True
    log_every: Count = 50
    save_every: Count = 10_000
    keep: Count = 2  # save points; older ones are removed
    export: Literal["safetensors", "pt"] = "safetensors"  # "pt": the reference's torch file
    tensorboard: bool = False

    @model_validator(mode="after")
    def _check(self):
        """Raise OptionError for settings that contradict each other."""
        loss = self.loss
        needs = {
            "loss.syncnet": (loss.sync_weight > 0, loss.syncnet),
            "loss.perceptual": (loss.perceptual_weight > 0, None if loss.perceptual == "none" else loss.perceptual),
            "loss.temporal": (loss.temporal_weight > 0, None if loss.temporal == "none" else loss.temporal),
            "loss.video_encoder": (loss.temporal_weight > 0, loss.video_encoder),
        }
        for name, (needed, value) in needs.items():
            if needed and value is None:
                raise OptionError(f"the loss that {name} belongs to has a weight above 0, but {name} is not given")
        if self.data.latents == "cached" and self.data.posterior == "sample":
            raise OptionError("data.latents is cached, of which only posterior means exist; set data.posterior=mean")
        if self.lora.rank and self.model.initial is None:
            raise OptionError("an adapter needs a U-Net to adapt; set model.initial to its file")
        if not self.reference:
            return self
        for name, value in REFERENCE.items():
            section, leaf = name.split(".")
            if (given := getattr(getattr(self, section), leaf)) != value:
                raise OptionError(
                    f"reference is true, which means {name}: {value}; it is {given}. Leave that setting out, or set "
                    "reference=false"
                )
        return self


# What the reference does, and what `reference: true` therefore insists on.
REFERENCE = {
    "noise.kind": "mixed",
    "noise.alpha": 1.0,
    "noise.audio_dropout": 0.0,
    "data.posterior": "sample",
    "loss.max_timestep_weight": 1.0,
    "loss.mask_weight": 1.0,
    "loss.paste_weight": 1.0,
    "loss.lip_weight": 0.0,
    "loss.pixel_timestep_weight": "none",
    "loss.pixel_every": 1,
    "optimizer.schedule": "constant",
    "optimizer.warmup_fraction": 0.0,
    "optimizer.ema_decay": 0.0,
}


# SyncNet


@dataclass(config=STRICT)
class AugmentationConfig:
    """Of the pictures and sounds trained with; zeros for none. See configs/syncnet_tiny.yaml."""

    mirrored: float
    brightness: float
    contrast: float
    shift: int
    blur: float
    noise: float
    mel_gain: float


@dataclass(config=STRICT)
class SyncNetTraining:
    """See configs/syncnet_tiny.yaml for what each means; the other files hold the reference's values."""

    FILE: ClassVar[Path] = CONFIGS / "syncnet_tiny.yaml"

    seed: int
    data: GivenPath
    run_dir: GivenPath
    held_out: float
    initial: GivenPath | None
    vae: GivenPath | None
    model: dict
    reference: bool
    pairing: Literal["labels", "all"]
    windows_per_clip: int
    min_negative_distance: int
    contrastive_weight: float
    temperature: float
    augmentation: AugmentationConfig
    batch_size: Count
    gradient_accumulation_steps: Count
    steps: Count
    learning_rate: float
    weight_decay: float
    schedule: Schedule
    warmup_fraction: float
    max_grad_norm: float
    ema_decay: float
    mixed_precision: Precision
    channels_last: bool
    num_workers: int
    num_validation_pairs: int
    validate_every: Count
    log_every: Count
    save_every: Count
    export_dtype: Literal["float32", "float16", "bfloat16"]
    export_pt: bool

    def network(self) -> SyncNetConfig:
        """Raises OptionError for a model that does not fit together."""
        return syncnet_from_description(self.model)

    @property
    def negative_distance(self) -> int:
        """Frames at least between a picture and a sound of one clip that are called a negative pair."""
        return 1 if self.reference else self.min_negative_distance

    @model_validator(mode="after")
    def _check(self):
        """Raise OptionError for settings that contradict each other."""
        network = self.network()
        if self.reference and self.pairing != "labels":
            raise OptionError("reference: true trains with the reference's pairs; set pairing: labels")
        if self.negative_distance < 1:
            raise OptionError(
                f"setting min_negative_distance is {self.min_negative_distance}; expected 1 frame or more"
            )
        if network.latent and self.vae is None:
            raise OptionError("a latent SyncNet looks at latents; set vae to the folder of the VAE that makes them")
        windows = self.windows_per_clip
        if self.pairing == "all" and (windows < 1 or self.batch_size % windows or self.batch_size <= windows):
            raise OptionError(
                f"settings batch_size {self.batch_size} and windows_per_clip {windows} do not go together; expected a "
                "batch of two or more clips with that many windows each"
            )
        return self


# The small video encoder


@dataclass(config=STRICT)
class VideoEncoderTraining:
    """See configs/video_encoder.yaml."""

    FILE: ClassVar[Path] = CONFIGS / "video_encoder.yaml"

    seed: int
    data: GivenPath
    output: GivenPath
    held_out: float
    encoder: VideoEncoderConfig
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    mask_ratio: float
    batch_size: Count
    steps: Count
    learning_rate: float
    warmup_fraction: float
    weight_decay: float
    max_grad_norm: float
    feature_clips: int
    log_every: Count
    save_every: Count


# Reading


Config = TypeVar("Config")


def load_settings(kind: type[Config], path: str | Path | None = None, overrides: Sequence[str] | None = None) -> Config:
    """Read a YAML file as `kind`; ``overrides`` such as "vae.steps=10" change single values.

    path: None for the usual file of that kind. Raises OptionError, naming the setting, for what cannot be.
    """
    path = Path(path or kind.FILE)
    values = _read(path)
    for override in overrides or ():
        _set(values, override)
    if isinstance(values, dict) and values.get("mixed_precision") is False:
        values["mixed_precision"] = "no"  # which YAML takes for false where it has no quotes
    try:
        return TypeAdapter(kind).validate_python(values, context={"folder": path.parent})
    except ValidationError as error:
        found = error.errors()
        unknown = [one for one in found if one["type"] == "unexpected_keyword_argument"]
        raise OptionError(_message(kind, (unknown or found)[0])) from error


def parse_settings(
    kind: type[Config], description: str, example: str = "vae.steps=10", arguments: Sequence[str] | None = None
) -> Config:
    """Read ``--config`` and ``--set`` from the command line; what cannot be ends the program with code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser, kind, example)
    parsed = parser.parse_args(arguments)
    try:
        return load_settings(kind, parsed.config, parsed.set)
    except OptionError as error:
        parser.error(str(error))


def add_settings(parser: argparse.ArgumentParser, kind: type, example: str) -> None:
    """Add the options ``--config`` and ``--set``."""
    usual = "as configs/stage2.yaml" if kind.FILE is None else f"default: configs/{kind.FILE.name}"
    parser.add_argument(
        "--config", type=given_path, default=kind.FILE, required=kind.FILE is None, help=f"YAML file ({usual})"
    )
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help=f"change one setting, e.g. {example}")


def _read(path: Path) -> Any:
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise OptionError(f"There is no configuration {path}. Give a YAML file, as one of configs/: {known}.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{path} is no YAML: {error}") from error


def _set(values: Any, override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise OptionError(f"--set {override}: expected name=value, for example vae.steps=10")
    *above, leaf = name.split(".")
    section = values
    for part in above:
        if isinstance(section, dict) and section.get(part) is None:
            section[part] = {}
        section = section[part] if isinstance(section, dict) else section
    if not isinstance(section, dict):
        raise OptionError(f"--set {override}: {'.'.join(above)} is {section!r}, which has no settings of its own")
    try:
        section[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(f"--set {override}: {text!r} is no value as YAML has it ({error})") from error


# What is expected where pydantic reports an error of that kind.
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list, as [1, 2]",
    "path": "a path",
    "string": "text",
    "dict": "a section",
}


def _message(kind: type, error: dict) -> str:
    """One of pydantic's errors as a sentence: what was given, what was expected."""
    place, value = error["loc"], error["input"]
    name = ".".join(map(str, place))
    if error["type"] == "unexpected_keyword_argument":
        known = _settings_of(kind, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        question = f". Did you mean {'.'.join([*map(str, place[:-1]), near[0]])}?" if near else ""
        return f"unknown setting {name}; known there: {', '.join(known)}{question}"
    if error["type"] == "missing":
        return f"setting {name} is missing in the configuration"
    if error["type"] == "dataclass_type":
        of = f"setting {name}" if name else "the configuration"
        return f"{of} is {value!r}; expected a section with {', '.join(_settings_of(kind, place))}"
    if error["type"] == "value_error":
        return f"setting {name}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    limits = error.get("ctx", {})
    if error["type"] == "literal_error":
        expected = limits["expected"].replace("'", "")
    elif "ge" in limits:
        expected = f"at least {limits['ge']}"
    elif "gt" in limits:
        expected = f"more than {limits['gt']:g}"
    else:
        expected = EXPECTED.get(error["type"].split("_")[0], error["msg"])
    if isinstance(value, bool) and error["type"] in ("literal_error", "string_type"):
        expected += "; on, off, yes and no are true or false in YAML: put quotes around them"
    return f"setting {name} is {value!r}; expected {expected}"


def _settings_of(kind: Any, place: Sequence[str | int]) -> list[str]:
    """Names of the settings of a section."""
    for part in place:
        kind = get_type_hints(kind)[part]
        if isinstance(kind, types.UnionType):  # X | None
            kind = next(one for one in get_args(kind) if is_dataclass(one))
    return sorted(one.name for one in fields(kind))
