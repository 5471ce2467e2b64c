"""The configuration of SyncNet's training: one YAML file over one dataclass, unknown keys refused."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import yaml

from latentsync.errors import OptionError
from latentsync.given_paths import given_path
from latentsync.sync.syncnet import SyncNetConfig, syncnet_from_description

from .config import _build

TINY = Path(__file__).parent / "configs" / "syncnet_tiny.yaml"
PAIRINGS = ("labels", "all")


@dataclass
class AugmentationConfig:
    """Of the pictures and sounds trained with; zeros for none. See syncnet_tiny.yaml."""

    mirrored: float
    brightness: float
    contrast: float
    shift: int
    blur: float
    noise: float
    mel_gain: float


@dataclass
class SyncNetTraining:
    """See configs/syncnet_tiny.yaml for what each means; the other files hold the reference's values."""

    seed: int
    data: Path
    run_dir: Path
    held_out: float
    initial: Path | None
    vae: Path | None
    model: dict
    reference: bool
    pairing: str
    windows_per_clip: int
    min_negative_distance: int
    contrastive_weight: float
    temperature: float
    augmentation: AugmentationConfig
    batch_size: int
    gradient_accumulation_steps: int
    steps: int
    learning_rate: float
    weight_decay: float
    schedule: str
    warmup_fraction: float
    max_grad_norm: float
    ema_decay: float
    mixed_precision: str
    channels_last: bool
    num_workers: int
    num_validation_pairs: int
    validate_every: int
    log_every: int
    save_every: int
    export_dtype: str
    export_pt: bool

    def network(self) -> SyncNetConfig:
        """Raises OptionError for a model that does not fit together."""
        return syncnet_from_description(self.model)

    @property
    def negative_distance(self) -> int:
        """Frames at least between a picture and a sound of one clip that are called a negative pair."""
        return 1 if self.reference else self.min_negative_distance


def load_syncnet_config(path: str | Path = TINY, overrides: list[str] | None = None) -> SyncNetTraining:
    """Read a YAML file; ``overrides`` such as "steps=10" or "augmentation.blur=0" change single values.

    Raises OptionError for unknown, missing or contradicting settings.
    """
    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in TINY.parent.glob("syncnet_*.yaml")))
        raise OptionError(f"There is no configuration {path}. Give a YAML file, as one of configs/: {known}.")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for override in overrides or []:
        name, equals, text = override.partition("=")
        if not equals:
            raise OptionError(f"--set {override}: expected name=value, for example steps=10")
        *parents, leaf = name.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = yaml.safe_load(text)
    config = _build(SyncNetTraining, values, "")
    _check(config)
    return config


def _check(config: SyncNetTraining) -> None:
    network = config.network()
    if config.pairing not in PAIRINGS:
        raise OptionError(f"setting pairing is {config.pairing!r}; expected {' or '.join(PAIRINGS)}")
    if config.schedule not in ("constant", "one_cycle"):
        raise OptionError(f"setting schedule is {config.schedule!r}; expected constant or one_cycle")
    if config.reference and config.pairing != "labels":
        raise OptionError("reference: true trains with the reference's pairs; set pairing: labels")
    if config.negative_distance < 1:
        raise OptionError(f"setting min_negative_distance is {config.min_negative_distance}; expected 1 frame or more")
    if network.latent and config.vae is None:
        raise OptionError("a latent SyncNet looks at latents; set vae to the folder of the VAE that makes them")
    if config.pairing == "all" and (
        config.windows_per_clip < 1
        or config.batch_size % config.windows_per_clip
        or config.batch_size <= config.windows_per_clip
    ):
        raise OptionError(
            f"settings batch_size {config.batch_size} and windows_per_clip {config.windows_per_clip} do not go "
            "together; expected a batch of two or more clips with that many windows each"
        )


def parse_syncnet_config(description: str) -> SyncNetTraining:
    """Read ``--config`` and ``--set`` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=given_path, default=TINY, help="YAML file (default: the small SyncNet)")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="change one setting, e.g. steps=10")
    arguments = parser.parse_args()
    return load_syncnet_config(arguments.config, arguments.set)
