"""Where somebody speaks: Silero VAD (version 6, 16 kHz), a small recurrent network that also knows music and noise.

The network is the Silero Team's (https://github.com/snakers4/silero-vad, MIT); its weights are the released ones, read
from its TorchScript file.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import AudioError
from ..model.weights import read_weights
from ..model_files import ASSETS

WEIGHTS = ASSETS / "voice" / "silero_vad_16k.safetensors"
SAMPLE_RATE = 16_000
WINDOW = 512  # samples, one value each
SECONDS = WINDOW / SAMPLE_RATE  # 32 ms
CONTEXT = 64  # samples before a window that the network sees too
FRAME, HOP = 256, 128  # samples of the spectra
BINS = FRAME // 2 + 1
WINDOWS_AT_ONCE = 256  # 8 s; bounds the memory
SILENT = -120.0  # dB, of digital silence


@dataclass(frozen=True)
class SpeechActivity:
    """One value for each 32 ms of a sound, the last window filled up with silence.

    probability  (n,) float32, 0..1 that somebody speaks
    level        (n,) float32, dB: root mean square, 0 for a full-scale square wave, at least SILENT
    """

    probability: np.ndarray
    level: np.ndarray


class SileroVAD(nn.Module):
    """`net(windows (n, 64 + 512), state)` -> (probabilities (n,), state); windows follow each other in time."""

    def __init__(self):
        super().__init__()
        self.stft = nn.Conv1d(1, 2 * BINS, FRAME, HOP, bias=False)
        self.encoder = nn.ModuleList(
            nn.Conv1d(channels, width, 3, stride=stride, padding=1)
            for channels, width, stride in ((BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
        )
        self.rnn = nn.LSTM(128, 128)
        self.out = nn.Conv1d(128, 1, 1)

    def forward(self, windows: Tensor, state: tuple[Tensor, Tensor] | None = None):
        spectra = self.stft(F.pad(windows[:, None], (0, CONTEXT), mode="reflect"))
        real, imaginary = rearrange(spectra, "n (part bins) t -> part n bins t", part=2)
        seen = torch.sqrt(real**2 + imaginary**2)
        for convolution in self.encoder:
            seen = convolution(seen).relu()
        hidden, state = self.rnn(seen.squeeze(-1), state)  # the windows are the sequence
        return self.out(hidden.relu()[..., None]).sigmoid().reshape(-1), state


@cache
def load_vad() -> SileroVAD:
    """On the CPU, where it takes a hundredth of the sound's duration."""
    net = SileroVAD()
    net.load_state_dict(read_weights(WEIGHTS)[0])
    return net.eval().requires_grad_(False)


def speech_activity(blocks: Iterable[np.ndarray]) -> SpeechActivity:
    """Read a sound once: consecutive blocks (T_i,) float, 16 kHz mono in [-1, 1], in constant memory.

    Raises AudioError where there are no samples.
    """
    net, state, context = load_vad(), None, torch.zeros(CONTEXT)
    probabilities, levels = [], []
    with torch.inference_mode():
        for samples in _whole_windows(blocks):
            windows = rearrange(torch.from_numpy(samples), "(n t) -> n t", t=WINDOW)
            before = torch.cat([context[None], windows[:-1, -CONTEXT:]])
            found, state = net(torch.cat([before, windows], 1), state)
            context = windows[-1, -CONTEXT:]
            probabilities.append(found.numpy())
            levels.append(10 * np.log10(np.maximum(windows.square().mean(1).numpy(), 10 ** (SILENT / 10))))
    if not probabilities:
        raise AudioError("The audio has no samples. Give audio that is at least a few frames long.")
    return SpeechActivity(np.concatenate(probabilities), np.concatenate(levels).astype(np.float32))


def _whole_windows(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in blocks of whole windows, the last one filled up with zeros."""
    left, most = np.empty(0, np.float32), WINDOWS_AT_ONCE * WINDOW
    for block in blocks:
        left = np.concatenate([left, np.asarray(block, np.float32)])
        while len(left) >= most:
            yield left[:most]
            left = left[most:]
    if len(left):
        yield np.pad(left, (0, -len(left) % WINDOW))
