"""Make the small bundled model from nothing: data, VAE, U-Net. Every step is skipped when its result is there."""

import logging

from .config import TrainingConfig, parse_config
from .encode_speech import encode_speech
from .make_synthetic_dataset import make_dataset
from .train_unet import train_unet
from .train_vae import train_vae


def train_tiny(config: TrainingConfig) -> None:
    make_dataset(config)
    encode_speech(config)
    train_vae(config)
    train_unet(config)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    train_tiny(parse_config(__doc__))
