"""Encode the speech of the synthetic clips by Whisper: ``run_dir/data/features.npy`` (N, V, L, layers + 1, D) float16.

V voices say the words of each clip, with the same lips. The first is the clip's own, encoded by itself; of the others
as many clips as fit go through Whisper's window of 30 s together, which is cheaper and what long speech looks like.
"""

import logging
from pathlib import Path

import numpy as np
import torch

from latentsync.audio_tokens import encode_audio
from latentsync.models import BUNDLED_WHISPER
from latentsync.synthetic.speech import SAMPLE_RATE
from latentsync.whisper import AudioEncoder, load_whisper

from .config import TrainingConfig, parse_config
from .make_synthetic_dataset import training_clip

log = logging.getLogger(__name__)
WINDOW = 30.0  # s, Whisper's


def encode_speech(config: TrainingConfig) -> Path:
    """Make the file unless it is there; returns its path."""
    folder = Path(config.run_dir) / "data"
    target = folder / "features.npy"
    if target.exists():
        return target
    encoder = load_whisper(BUNDLED_WHISPER, device="cpu", dtype=torch.float32)
    seeds = np.load(folder / "seeds.npy").tolist()
    voices = [encode_voice(config, encoder, seeds, voice) for voice in range(config.data.num_voices)]
    part = target.with_name(target.name + ".part")
    with part.open("wb") as file:
        np.save(file, np.stack(voices, 1))
    part.replace(target)
    return target


def encode_voice(config: TrainingConfig, encoder: AudioEncoder, seeds: list[int], voice: int) -> np.ndarray:
    """(N, L, layers + 1, D) float16 of all clips in one of their voices."""
    together = max(1, int(WINDOW / config.data.duration)) if voice else 1
    features = []
    for start in range(0, len(seeds), together):
        clips = [training_clip(seed, config).speech_by(voice).waveform for seed in seeds[start : start + together]]
        encoded = encode_audio(np.concatenate(clips), encoder, sample_rate=SAMPLE_RATE)
        features.extend(encoded.cpu().numpy().astype(np.float16).reshape(len(clips), -1, *encoded.shape[1:]))
        log.info("voice %d: %d of %d clips", voice, start + len(clips), len(seeds))
    return np.stack(features)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    encode_speech(parse_config(__doc__))
