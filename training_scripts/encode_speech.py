"""Encode the speech of the synthetic clips: ``run_dir/data/features.npy`` (N, L, layers + 1, D) float16, by Whisper."""

import logging
from pathlib import Path

import numpy as np
import torch

from latentsync.audio_tokens import encode_audio
from latentsync.models import BUNDLED_WHISPER
from latentsync.synthetic.speech import SAMPLE_RATE
from latentsync.whisper import load_whisper

from .config import TrainingConfig, parse_config
from .make_synthetic_dataset import training_clip


def encode_speech(config: TrainingConfig) -> Path:
    """Make the file unless it is there; returns its path."""
    folder = Path(config.run_dir) / "data"
    target = folder / "features.npy"
    if target.exists():
        return target
    encoder = load_whisper(BUNDLED_WHISPER, device="cpu", dtype=torch.float32)
    features = []
    for seed in np.load(folder / "seeds.npy"):
        waveform = torch.from_numpy(training_clip(int(seed), config).speech.waveform)
        features.append(encode_audio(waveform, encoder, sample_rate=SAMPLE_RATE).cpu().numpy().astype(np.float16))
    part = target.with_name(target.name + ".part")
    with part.open("wb") as file:
        np.save(file, np.stack(features))
    part.replace(target)
    return target


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    encode_speech(parse_config(__doc__))
