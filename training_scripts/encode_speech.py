"""Speech as training reads it: Whisper's features and SyncNet's mel of one clip in several voices."""

from collections.abc import Sequence

import numpy as np

from latentsync.model.whisper import AudioEncoder, encode_audio
from latentsync.sync.syncnet import SAMPLE_RATE, sync_mel

WINDOW = 30.0  # s, Whisper's


def encode_voices(
    waveforms: Sequence[np.ndarray], encoder: AudioEncoder, *, first_alone: bool = True
) -> dict[str, np.ndarray]:
    """Features (V, L, layers + 1, D) float16, mel (V, 80, M) and audio (V, T) float32 of waveforms (T,) at 16 kHz.

    The first voice, the clip's own, is encoded by itself, unless `first_alone` is false; of the others as many as fit
    go through Whisper's window of 30 s together, which is cheaper and what long speech looks like. T is a multiple of
    320.
    """
    together = max(1, int(WINDOW * SAMPLE_RATE / len(waveforms[0])))
    alone = int(first_alone)
    rest = (waveforms[i : i + together] for i in range(alone, len(waveforms), together))
    groups = [*([waveforms[:1]] if first_alone else []), *rest]
    features = []
    for group in groups:
        encoded = encode_audio(np.concatenate(group), encoder, sample_rate=SAMPLE_RATE).numpy().astype(np.float16)
        features.extend(np.split(encoded, len(group)))
    return {
        "features": np.stack(features),
        "mel": np.stack([sync_mel(waveform) for waveform in waveforms]),
        "audio": np.stack(waveforms).astype(np.float32),
    }
