"""Make the small bundled model from nothing: data, VAE, U-Net. Every step is skipped when its result is there."""

import logging

from .config import TrainingConfig, UNetTrainingConfig, load_settings, parse_settings
from .make_synthetic_dataset import make_dataset
from .train_unet import train_unet
from .train_vae import train_vae


def stage_config(config: TrainingConfig, stage: str) -> UNetTrainingConfig:
    """Of "stage1" or "stage2", with all that it reads and writes in ``run_dir``."""
    run_dir = config.run_dir
    places = {
        "output": run_dir / stage,
        "data.clips": run_dir / "clips",
        "model.vae": run_dir / "vae",
        "loss.lip_reader": run_dir / "lip_reader.safetensors",
    }
    if stage == "stage2":
        places["model.initial"] = run_dir / "stage1" / "unet.safetensors"
    return load_settings(
        UNetTrainingConfig, getattr(config, stage), [f"{name}={path}" for name, path in places.items()]
    )


def train_tiny(config: TrainingConfig) -> None:
    make_dataset(config)
    train_vae(config)
    for stage in ("stage1", "stage2"):
        train_unet(stage_config(config, stage))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_tiny(parse_settings(TrainingConfig, __doc__))
