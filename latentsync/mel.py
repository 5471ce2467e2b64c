"""Whisper's log-mel spectrogram, of a whole waveform or of a stream in constant memory.

Follows openai-whisper: periodic Hann window of 25 ms every 10 ms, reflected edges, last frame dropped, power, 80 Slaney
filters, log10, floor 8 decades below the loudest value of the *whole* file, then (x + 4) / 4. The floor is why a stream
is read twice.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from .errors import AudioError

SAMPLE_RATE = 16_000
HOP = 160  # samples between mel frames: 10 ms
FFT_SIZE = 400  # samples in a frame: 25 ms
NUM_MELS = 80
MIN_SAMPLES = 2 * HOP  # shorter audio is padded with silence so that there is one feature, and enough to reflect
BLOCK_SAMPLES = 30 * SAMPLE_RATE  # larger blocks are cut, to bound memory
POWER_FLOOR = 1e-10
DECADES = 8.0


def count_mel_frames(num_samples: int) -> int:
    """Mel frames of a waveform with that many samples."""
    return max(num_samples, MIN_SAMPLES) // HOP


def log_mel(waveform: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Normalised log-mel of a whole waveform (T,), float, 16 kHz mono in [-1, 1] -> (80, max(T, 320) // 160) float32.

    Raises AudioError when the waveform is empty or has samples that are not finite.
    """
    raw = torch.cat(list(raw_log_mel([waveform])), dim=1)
    return normalise(raw, raw.max())


def normalise(raw: torch.Tensor, peak: torch.Tensor | float) -> torch.Tensor:
    """Raw log10 mel (80, N) -> Whisper's range, with the loudest raw value of the whole file."""
    return (raw.clamp(min=float(peak) - DECADES) + 4.0) / 4.0


def raw_log_mel(blocks: Iterable[np.ndarray | torch.Tensor]) -> Iterator[torch.Tensor]:
    """log10 mel power, not yet floored and scaled, of consecutive blocks of a waveform.

    Args:
        blocks: any number of (T_i,) float arrays, 16 kHz mono, of any lengths.

    Yields (80, n) float32 tensors that together have `count_mel_frames(sum T_i)` columns, equal to those of the whole
    waveform whatever the blocks are. Raises AudioError when there are no samples or some are not finite.
    """
    filters = torch.from_numpy(
        mel_filter_bank(
            FFT_SIZE // 2 + 1, NUM_MELS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        ).T
    ).float()
    window = torch.hann_window(FFT_SIZE)
    half = FFT_SIZE // 2

    def spectrum(samples: torch.Tensor) -> torch.Tensor:
        stft = torch.stft(samples, FFT_SIZE, HOP, window=window, center=False, return_complex=True)
        return (filters @ stft.abs().square()).clamp(min=POWER_FLOOR).log10()

    pending = torch.empty(0)  # samples not yet behind every frame that needs them, reflected edge included
    received = emitted = 0
    for block in _finite_pieces(blocks):
        pending = torch.cat((pending, block))
        received += len(block)
        if emitted == 0:
            if received < SAMPLE_RATE:
                continue  # a second gives enough to reflect and makes small blocks cheap
            pending = torch.cat((pending[1 : half + 1].flip(0), pending))
        elif len(pending) < SAMPLE_RATE:
            continue
        ready = (len(pending) - FFT_SIZE) // HOP + 1
        yield spectrum(pending[: (ready - 1) * HOP + FFT_SIZE])
        emitted += ready
        pending = pending[ready * HOP :]

    if received == 0:
        raise AudioError("The audio has no samples. Give audio that is at least a few frames long.")
    if received < MIN_SAMPLES:
        pending = torch.cat((pending, torch.zeros(MIN_SAMPLES - received)))
    if emitted == 0:
        pending = torch.cat((pending[1 : half + 1].flip(0), pending))
    remaining = count_mel_frames(received) - emitted
    if remaining:
        pending = torch.cat((pending, pending[-half - 1 : -1].flip(0)))
        yield spectrum(pending[: (remaining - 1) * HOP + FFT_SIZE])


def _finite_pieces(blocks: Iterable[np.ndarray | torch.Tensor]) -> Iterator[torch.Tensor]:
    position = 0
    for block in blocks:
        samples = torch.as_tensor(block)
        if samples.ndim != 1 or not samples.is_floating_point():
            raise AudioError(
                f"Expected mono float samples of shape (T,), got {tuple(samples.shape)} of type {samples.dtype}."
            )
        for piece in samples.to("cpu", torch.float32).split(BLOCK_SAMPLES):
            finite = piece.isfinite()
            if not finite.all():
                second = (position + int(finite.logical_not().nonzero()[0])) / SAMPLE_RATE
                raise AudioError(f"The audio has a sample that is not a finite number, at {second:.3f} s. Repair it.")
            position += len(piece)
            if len(piece):
                yield piece
