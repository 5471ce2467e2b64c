"""A whole speech as the model hears it, kept in memory: for a staged run, and for a second take on the same faces."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .errors import AudioError, OptionError
from .model.device import own_threads
from .model.loading import LipSyncModel
from .model.whisper import SAMPLE_RATE, AudioFeatureStream, audio_tokens, resample_mono, window_centre_at
from .voice_activity import VoiceGate, WaveformPeaks, gated_blocks, speech_activity


@dataclass(frozen=True)
class SpeechFeatures:
    """A speech, encoded.

    features  (L, n, D) float32 on the CPU: n hidden states of Whisper, 50 rows a second; 77 kB a second with tiny
    fps       frame rate of the frames that are to speak it
    duration  s
    peaks     the largest |sample| in each fiftieth of a second, 0..1
    gate      opens and closes with the voice, see voice_activity.py
    notices   what a person should know of the sound, a line each
    """

    features: torch.Tensor
    fps: float
    duration: float
    gate: VoiceGate
    peaks: tuple[float, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        """As many frames as the speech lasts, at least 1."""
        return frames_in(self.duration, self.fps)

    def voice(self, times: np.ndarray) -> np.ndarray:
        """0..1 at these times (s), any shape: 1 while somebody speaks, 0 in a pause."""
        return self.gate.at(times)

    def tokens(self, times: Sequence[float]) -> torch.Tensor:
        """What frames at these times (s) hear: (F, 50, D); times after the end hear the end."""
        return audio_tokens(self.features, [window_centre_at(time) for time in times])


def frames_in(duration: float, fps: float) -> int:
    """Frames that cover so many seconds, at least 1."""
    return max(1, math.ceil(duration * fps - 1e-6))


@own_threads()
def encode_speech(
    model: LipSyncModel,
    waveform: np.ndarray | torch.Tensor,
    sample_rate: int,
    fps: float,
    windows: str = "overlap",
    silence: str = "close",
) -> SpeechFeatures:
    """Encode a speech with the model's Whisper.

    waveform: (T,) or (C, T) float in [-1, 1] at `sample_rate` Hz; mixed by `resample_mono`. fps: of the frames that are
    to speak it, 1 to 240. windows: see whisper.encoder_windows. silence: with "close" the model hears digital
    silence in the pauses, whatever sounds there. Raises AudioError where there are no samples or some are not finite,
    OptionError for an impossible rate.
    """
    if not 1 <= fps <= 240:  # nan is neither
        raise OptionError(f"fps is {fps:g}; expected the frame rate of the video, 1 to 240")
    if not 1000 <= sample_rate <= 384_000:
        raise AudioError(f"the sample rate is {sample_rate}; expected 1000 to 384000 Hz")
    notices: list[str] = []
    mono = resample_mono(waveform, sample_rate, notices.append)
    outline = WaveformPeaks(SAMPLE_RATE)
    outline.add(mono)
    with torch.inference_mode():
        gate = VoiceGate(speech_activity([mono]))
        heard = list(gated_blocks([mono], gate)) if silence == "close" else [mono]
        stream = AudioFeatureStream(lambda: heard, model.whisper, windows)
        features = torch.cat([block.float().cpu() for block in stream])
    seconds = waveform.shape[-1] / sample_rate
    return SpeechFeatures(features, float(fps), seconds, gate, outline.peaks(), tuple(notices))
