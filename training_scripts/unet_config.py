"""The configuration of the U-Net's training: configs/stage1.yaml and its siblings, all over this one dataclass.

Values that a file leaves out are the reference's where it has such a thing, else "off".
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from latentsync.errors import OptionError
from latentsync.given_paths import given_path
from latentsync.model.diffusion import PREDICTION_TYPES

from .config import _build, read_values

MOTION = ("off", "all", "decoder")
NOISES = ("mixed", "shared", "independent")
PERCEPTUAL, TEMPORAL = ("lpips", "vae", "none"), ("videomae", "encoder", "none")
CHOICES = {
    "model.motion": MOTION,
    "noise.kind": NOISES,
    "loss.perceptual": PERCEPTUAL,
    "loss.temporal": TEMPORAL,
    "loss.pixel_timestep_weight": ("none", "signal"),
    "data.latents": ("cached", "encoded"),
    "data.posterior": ("sample", "mean"),
    "data.broken": ("replace", "stop"),
    "optimizer.schedule": ("constant", "one_cycle"),
    "mixed_precision": ("no", "fp16", "bf16", "auto"),
}


@dataclass
class ModelConfig:
    initial: Path | None = None  # any LatentSync U-Net file; null: from nothing, with the sizes below
    new_latents: bool = False  # of another VAE than the initial file's: the layers that meet them start anew
    motion: str = "off"  # motion modules: "off", "all" (down and up blocks) or "decoder" (up blocks)
    trainable: list[str] = field(default_factory=lambda: ["all"])  # parts of the reference's tensor names
    prediction_type: str | None = None  # null: what the initial file says, else epsilon
    block_out_channels: list[int] = field(default_factory=lambda: [320, 640, 1280, 1280])
    layers_per_block: int = 2
    norm_num_groups: int = 32
    num_attention_heads: int = 8
    motion_num_attention_heads: int | None = None  # null: as many
    cross_attention_dim: int = 384
    vae: Path = Path("checkpoints/vae")


@dataclass
class LoRAConfig:
    """An adapter in place of the U-Net's own weights; see lora_adapter.py."""

    rank: int = 0  # 0: none
    alpha: float = 16.0  # the change is alpha / rank * B A
    layers: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])  # ends of their names
    within: str = "all"  # part of the reference's names, as attn2. for what hears only


@dataclass
class DataConfig:
    clips: Path = Path("data/clips")  # prepared clips, see clip_store.py
    resolution: int = 256
    mask: str = "mask"
    num_frames: int = 16
    batch_size: int = 1  # clips of one process at once
    held_out: float = 0.0  # share of the clips, whole identities, that only validate
    num_workers: int = 12
    latents: str = "encoded"  # every step anew, or "cached" on disk (posterior means; for small data)
    posterior: str = "sample"
    broken: str = "replace"  # a clip that cannot be read: take the next one in its place, or "stop"


@dataclass
class NoiseConfig:
    kind: str = "mixed"  # a part shared by a clip's frames and a part of each; "shared" is what inference starts from
    alpha: float = 1.0  # of mixed noise: the shared part's variance is alpha^2 / (1 + alpha^2)
    audio_dropout: float = 0.0  # clips whose audio is zeroed, so that guidance has a trained null branch


@dataclass
class UNetLossConfig:
    recon_weight: float = 1.0
    sync_weight: float = 0.0
    perceptual_weight: float = 0.0
    temporal_weight: float = 0.0
    lip_weight: float = 0.0  # of the lip reader; only for people who were drawn, whose lips are known
    perceptual: str = "none"  # "lpips": LPIPS (VGG); "vae": features of the VAE's own encoder, which is no LPIPS
    temporal: str = "none"  # "videomae": VideoMAE-v2; "encoder": a small encoder of train_video_encoder.py
    syncnet: Path | None = None
    vgg: Path | None = None  # of LPIPS; null: torch's cache
    lin: Path | None = None
    video_encoder: Path | None = None
    lip_reader: Path | None = None  # made there where it is not
    # Which clips and frames are decoded for the losses of pixels
    pixel_every: int = 1  # only of each n-th clip of the batch, weighted n times
    pixel_frames: int | None = None  # only so many, in the middle, where neither sync nor temporal loss needs them all
    pixel_timestep_weight: str = "none"  # "signal": weighted by alphas_cumprod: little where estimates are guesses
    # Where and when the error of the noise counts more; 1 everywhere in the reference
    max_timestep_weight: float = 1.0  # the square is weighted by 1 / alphas_cumprod, at most this
    mask_weight: float = 1.0  # of latents inside the hole
    paste_weight: float = 1.0  # of latents where inference pastes (paste_mask)
    paste_mask: str = "mask3"

    @property
    def decodes(self) -> bool:
        """Whether any loss looks at pixels (a sync loss of latents does not, which only its file tells)."""
        return self.sync_weight > 0 or self.perceptual_weight > 0 or self.temporal_weight > 0


@dataclass
class OptimizerConfig:
    steps: int = 10_000_000
    learning_rate: float = 1e-5
    schedule: str = "constant"
    warmup_fraction: float = 0.0  # of the steps
    weight_decay: float = 0.01
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # 0: none


@dataclass
class LipReaderConfig:
    width: int = 32
    steps: int = 5000
    batch_size: int = 64
    learning_rate: float = 1e-3


@dataclass
class ValidationConfig:
    every: int = 0  # steps; 0: never
    clips: int = 2
    chunks: int = 3  # of data.num_frames frames each, at most
    num_inference_steps: int = 20
    guidance_scale: float = 1.5
    syncnet: Path | None = None  # null: the one of the loss; without either no score


@dataclass
class UNetTrainingConfig:
    output: Path = Path("runs/unet")
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
    mixed_precision: str = "fp16"  # "auto": bf16 where the device multiplies it, else "no"
    gradient_checkpointing: bool = True
    log_every: int = 50
    save_every: int = 10_000
    keep: int = 2  # save points; older ones are removed
    export: str = "safetensors"  # or "pt", the reference's torch file
    tensorboard: bool = False


def load_unet_config(path: str | Path, overrides: list[str] | None = None) -> UNetTrainingConfig:
    """Read a YAML file; ``overrides`` such as "optimizer.steps=10" change single values. Raises OptionError."""
    config = _build(UNetTrainingConfig, read_values(path, overrides), "")
    check(config)
    return config


def parse_unet_config(description: str) -> UNetTrainingConfig:
    """Read ``--config`` and ``--set`` from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=given_path, required=True, help="YAML file, as training_scripts/configs/stage2.yaml"
    )
    parser.add_argument(
        "--set", action="append", metavar="NAME=VALUE", help="change one setting, e.g. data.clips=clips"
    )
    arguments = parser.parse_args()
    return load_unet_config(arguments.config, arguments.set)


def check(config: UNetTrainingConfig) -> None:
    """Raises OptionError for a value out of its range, or settings that contradict each other."""
    for name, known in CHOICES.items():
        value = _setting(config, name)
        if value not in known:
            raise OptionError(f"setting {name} is {value!r}; expected {', '.join(known)}")
    if config.model.prediction_type not in (None, *PREDICTION_TYPES):
        raise OptionError(
            f"setting model.prediction_type is {config.model.prediction_type!r}; expected {', '.join(PREDICTION_TYPES)}"
        )
    if config.export not in ("safetensors", "pt"):
        raise OptionError(f"setting export is {config.export!r}; expected safetensors or pt")
    for name in (
        "data.batch_size", "data.num_frames", "optimizer.gradient_accumulation_steps", "optimizer.steps",
        "loss.pixel_every", "log_every", "save_every", "keep",
    ):  # fmt: skip
        if _setting(config, name) < 1:
            raise OptionError(f"setting {name} is {_setting(config, name)}; expected at least 1")
    loss = config.loss
    needs = {
        "loss.syncnet": (loss.sync_weight > 0, loss.syncnet),
        "loss.perceptual": (loss.perceptual_weight > 0, None if loss.perceptual == "none" else loss.perceptual),
        "loss.temporal": (loss.temporal_weight > 0, None if loss.temporal == "none" else loss.temporal),
        "loss.video_encoder": (loss.temporal_weight > 0, loss.video_encoder),
    }
    for name, (needed, value) in needs.items():
        if needed and value is None:
            raise OptionError(f"the loss that {name} belongs to has a weight above 0, but {name} is not given")
    if config.data.latents == "cached" and config.data.posterior == "sample":
        raise OptionError("data.latents is cached, of which only posterior means exist; set data.posterior=mean")
    if config.lora.rank < 0 or config.lora.alpha <= 0:
        raise OptionError(
            f"settings lora.rank {config.lora.rank} and lora.alpha {config.lora.alpha:g}: expected a rank from 1 on "
            "(0: no adapter) and an alpha above 0"
        )
    if config.lora.rank and config.model.initial is None:
        raise OptionError("an adapter needs a U-Net to adapt; set model.initial to its file")
    if config.reference:
        _check_reference(config)


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


def _check_reference(config: UNetTrainingConfig) -> None:
    for name, value in REFERENCE.items():
        if _setting(config, name) != value:
            raise OptionError(
                f"reference is true, which means {name}: {value}; it is {_setting(config, name)}. Leave that setting "
                "out, or set reference=false"
            )


def _setting(config: UNetTrainingConfig, name: str):
    value = config
    for part in name.split("."):
        value = getattr(value, part)
    return value
