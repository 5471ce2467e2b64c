"""The mel spectrogram SyncNet hears: Wav2Lip's, 80 columns a second. Not Whisper's, which is model/whisper.py."""

from functools import cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from ..errors import AudioError

SAMPLE_RATE = 16_000
COLUMNS_PER_SECOND = 80
NUM_MELS = 80
FPS = 25  # of the video whose windows are taken
_FFT, _HOP = 800, 200  # samples
_PRE_EMPHASIS = 0.97
_LOWEST, _HIGHEST = 55.0, 7600.0  # Hz
_FLOOR, _REFERENCE_DB, _RANGE_DB, _LARGEST = 1e-5, 20.0, 100.0, 4.0


def sync_mel(waveform: np.ndarray | torch.Tensor) -> np.ndarray:
    """Spectrogram of a waveform (T,), float, 16 kHz mono in [-1, 1] -> (80, T // 200 + 1) float32 in [-4, 4].

    Pre-emphasis, magnitude of a centred STFT with zeros beyond the ends, Slaney filters of 55 to 7600 Hz, decibels,
    -120..-20 dB to -4..4. Raises AudioError when the waveform is empty, not mono or not finite.
    """
    samples = torch.as_tensor(waveform)
    if samples.ndim != 1 or not samples.is_floating_point() or not len(samples):
        raise AudioError(
            f"Expected mono float samples of shape (T,), T > 0, got {tuple(samples.shape)} of {samples.dtype}."
        )
    samples = samples.to("cpu", torch.float64)
    if not samples.isfinite().all():
        raise AudioError("The audio has a sample that is not a finite number. Repair it.")
    samples = torch.cat((samples[:1], samples[1:] - _PRE_EMPHASIS * samples[:-1]))
    window = torch.hann_window(_FFT, dtype=samples.dtype)
    spectrum = torch.stft(samples, _FFT, _HOP, window=window, pad_mode="constant", return_complex=True).abs()
    level = 20 * torch.log10((_filters() @ spectrum).clamp(min=_FLOOR)) - _REFERENCE_DB
    scaled = 2 * _LARGEST * (level + _RANGE_DB) / _RANGE_DB - _LARGEST
    return scaled.clamp(-_LARGEST, _LARGEST).float().numpy()


@cache
def _filters() -> torch.Tensor:
    """(80, 401) float64."""
    bins = _FFT // 2 + 1
    bank = mel_filter_bank(bins, NUM_MELS, _LOWEST, _HIGHEST, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank.T)


def mel_length(num_frames: int) -> int:
    """Columns heard with that many frames at 25 fps: 52 with 16, 80 with 25."""
    return -(-num_frames * COLUMNS_PER_SECOND // FPS)


def mel_start(start_frame: int) -> int:
    """The column at which the window of the clip from `start_frame` on begins."""
    return COLUMNS_PER_SECOND * start_frame // FPS


def count_windows(num_frames: int, num_columns: int, window_frames: int = 16) -> int:
    """How many start frames have a whole window, both of pictures and of sound."""
    last = (FPS * (num_columns - mel_length(window_frames) + 1) - 1) // COLUMNS_PER_SECOND
    return max(0, min(num_frames - window_frames, last) + 1)


def mel_window(mel: np.ndarray, start_frame: int, num_frames: int = 16) -> np.ndarray:
    """What is heard with frames `start_frame` to `start_frame + num_frames - 1` of a 25 fps video.

    mel: (80, M) -> a view (80, 52) for 16 frames. Raises AudioError when the spectrogram does not reach that far.
    """
    start, length = mel_start(start_frame), mel_length(num_frames)
    if start_frame < 0 or start + length > mel.shape[1]:
        raise AudioError(
            f"The sound has {mel.shape[1]} mel columns; frames {start_frame} to {start_frame + num_frames - 1} need "
            f"columns {start} to {start + length - 1}. Give longer audio or an earlier frame."
        )
    return mel[:, start : start + length]
