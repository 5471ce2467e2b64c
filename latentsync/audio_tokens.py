"""Audio tokens: Whisper's hidden states along the audio, and the window of them that each video frame attends to.

There are 50 features (rows of all hidden states) a second. A frame sees 10 of them, from 80 ms before its time to
120 ms after, time-major then layer: (10 * num_states, D) = (50, 384) tokens with Whisper tiny.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
import torch
from einops import rearrange
from torch.nn import functional as F

from .errors import AudioError, OptionError
from .media.polarity import WINDOW, Polarity, polarity_notice
from .mel import HOP, SAMPLE_RATE, count_mel_frames, normalise, raw_log_mel
from .whisper import MEL_FRAMES, AudioEncoder

FEATURES_PER_SECOND = SAMPLE_RATE // (2 * HOP)
ROWS_BEFORE, ROWS_AFTER = 4, 6  # features before and from the centre on
WINDOW_ROWS = ROWS_BEFORE + ROWS_AFTER
MARGIN_FEATURES = 5 * FEATURES_PER_SECOND  # context on each side of what is kept of an overlapping window
MODES = ("overlap", "reference")
RESAMPLER_BLOCK = 1 << 16


@dataclass(frozen=True)
class EncoderWindow:
    """Mel frames [mel_start, mel_end), at most 30 s, are encoded; features [keep_start, keep_end) of the file kept."""

    mel_start: int
    mel_end: int
    keep_start: int
    keep_end: int


def encoder_windows(num_mel_frames: int, mode: str = "overlap") -> list[EncoderWindow]:
    """The windows that cover a file.

    "reference" follows the reference: windows side by side, so that features jump every 30 s and the last window has
    little context. "overlap" gives each kept feature 5 s of context on both sides where the file has it. Up to 30 s the
    two are the same. Raises OptionError.
    """
    if mode not in MODES:
        raise OptionError(f"The audio window mode is {mode!r}; expected one of {MODES}.")
    total = num_mel_frames // 2
    if mode == "reference" or num_mel_frames <= MEL_FRAMES:
        starts = range(0, num_mel_frames, MEL_FRAMES)
        ends = [min(start + MEL_FRAMES, num_mel_frames) for start in starts]
        return [EncoderWindow(start, end, start // 2, end // 2) for start, end in zip(starts, ends, strict=True)]
    last = 2 * total - MEL_FRAMES  # the last window ends with the file instead of being padded
    stride = MEL_FRAMES - 4 * MARGIN_FEATURES
    starts = [*range(0, last, stride), last]
    cuts = [start // 2 + MEL_FRAMES // 2 - MARGIN_FEATURES for start in starts[:-1]]
    return [
        EncoderWindow(start, start + MEL_FRAMES, keep_start, keep_end)
        for start, keep_start, keep_end in zip(starts, [0, *cuts], [*cuts, total], strict=True)
    ]


class AudioFeatureStream:
    """Features of audio of any length in constant memory.

    Args:
        blocks_factory: called twice; each call gives the same consecutive blocks of float samples (T_i,), 16 kHz mono
            in [-1, 1]. The first reading, during construction, finds the length and the loudest mel value.
        encoder: Whisper's encoder.
        mode: "overlap" or "reference", see `encoder_windows`.

    Iterating yields blocks (l, num_states, D) in the encoder's dtype and on its device, `num_features` rows in all.
    Attributes: `num_samples`, `num_mel_frames`, `num_features` (at least 1). Raises AudioError and OptionError.
    """

    def __init__(
        self,
        blocks_factory: Callable[[], Iterable[np.ndarray | torch.Tensor]],
        encoder: AudioEncoder,
        mode: str = "overlap",
    ):
        self._blocks_factory, self._encoder = blocks_factory, encoder
        self.num_samples = 0
        self._peak = max(float(raw.max()) for raw in raw_log_mel(self._counted(blocks_factory())))
        self.num_mel_frames = count_mel_frames(self.num_samples)
        self.num_features = self.num_mel_frames // 2
        self._windows = encoder_windows(self.num_mel_frames, mode)

    def _counted(self, blocks):
        for block in blocks:
            self.num_samples += len(block)
            yield block

    @torch.no_grad()
    def _encode(self, mel: torch.Tensor) -> torch.Tensor:
        # The reference pads normalised log-mel with 0, which is not silence.
        padded = F.pad(mel, (0, MEL_FRAMES - mel.shape[1]))
        return self._encoder(padded[None].to(self._encoder.device))[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        raw_blocks = raw_log_mel(self._blocks_factory())
        mel, mel_start = torch.empty(self._encoder.num_mels, 0), 0
        for window in self._windows:
            mel, mel_start = mel[:, window.mel_start - mel_start :], window.mel_start
            parts = [mel]
            missing = window.mel_end - window.mel_start - mel.shape[1]
            while missing > 0:
                raw = next(raw_blocks, None)
                if raw is None:
                    raise AudioError("The audio ended earlier on the second reading than on the first. Read it again.")
                parts.append(normalise(raw, self._peak))
                missing -= raw.shape[1]
            mel = torch.cat(parts, dim=1)
            states = self._encode(mel[:, : window.mel_end - window.mel_start])
            offset = window.mel_start // 2
            yield states[window.keep_start - offset : window.keep_end - offset]


def encode_audio(
    waveform: np.ndarray | torch.Tensor,
    encoder: AudioEncoder,
    mode: str = "overlap",
    sample_rate: int = SAMPLE_RATE,
) -> torch.Tensor:
    """Features (L, num_states, D) of a whole waveform, float32 on the CPU; L = samples at 16 kHz // 320, at least 1.

    Args:
        waveform: (T,) or (C, T) float in [-1, 1] at `sample_rate`; channels are averaged.
        mode: "overlap" or "reference", see `encoder_windows`.

    Raises AudioError and OptionError.
    """
    mono = resample_mono(waveform, sample_rate)
    return torch.cat([block.float().cpu() for block in AudioFeatureStream(lambda: [mono], encoder, mode)])


def resample_mono(
    waveform: np.ndarray | torch.Tensor, sample_rate: int, on_notice: Callable[[str], None] = lambda text: None
) -> np.ndarray:
    """(T,) or (C, T) float at `sample_rate` -> (T',) float32 at 16 kHz, channels averaged.

    Channels that would cancel because they are of opposite polarity are turned over, see media/polarity.py; on_notice
    is given a line for a person then. Raises AudioError.
    """
    samples = torch.as_tensor(waveform).detach().cpu()
    if samples.ndim not in (1, 2) or not samples.is_floating_point():
        raise AudioError(
            f"Expected float samples of shape (T,) or (C, T), got {tuple(samples.shape)} of type {samples.dtype}."
        )
    if sample_rate <= 0:
        raise AudioError(f"The sample rate is {sample_rate}; expected a positive number of samples per second.")
    if samples.numel() == 0:
        raise AudioError("The audio has no samples. Give audio that is at least a few frames long.")
    if not samples.isfinite().all():
        raise AudioError("The audio has samples that are not finite numbers. Repair it.")
    mono = np.ascontiguousarray((samples if samples.ndim == 1 else samples.mean(0)).float().numpy())
    if samples.ndim == 2 and len(samples) > 1:
        polarity, length = (
            Polarity(np.full(len(samples), 1 / len(samples)), int(sample_rate)),
            round(WINDOW * sample_rate),
        )
        for start in range(0, len(mono), length):
            part = samples[:, start : start + length].float().numpy()
            if (gain := polarity.gains([part])[0]) is not None:
                mono[start : start + length] = (part * gain).mean(0)
        if notice := polarity_notice("the speech", polarity.turned):
            on_notice(notice)
    if sample_rate == SAMPLE_RATE:
        return mono
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    out = []
    for start in range(0, len(mono), RESAMPLER_BLOCK):
        frame = av.AudioFrame.from_ndarray(mono[None, start : start + RESAMPLER_BLOCK], format="flt", layout="mono")
        frame.sample_rate, frame.pts = int(sample_rate), start
        out += resampler.resample(frame)
    out += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in out]) if out else np.zeros(1, np.float32)


def window_centre(frame: int, fps: float) -> int:
    """Feature at which the window of video frame `frame` is centred, as in the reference: int(frame * 50 / fps)."""
    return int(frame * FEATURES_PER_SECOND / fps)


def window_centre_at(seconds: float) -> int:
    """The same for a time, for videos whose frames are not evenly spaced; equals `window_centre(i, fps)` at i / fps.

    Times before the beginning have negative centres.
    """
    return math.floor(seconds * FEATURES_PER_SECOND + 1e-6)


def num_reference_frames(num_features: int, fps: float) -> int:
    """How many frames the reference makes for that many features: two (80 ms) more than the audio lasts at 25 fps."""
    frame = max(0, int(num_features * fps / FEATURES_PER_SECOND) - 1)
    while window_centre(frame, fps) <= num_features:
        frame += 1
    return frame + 1


def window_rows(centres: Sequence[int], num_features: int) -> torch.Tensor:
    """Feature indices (F, 10) of the windows [centre - 4, centre + 6), clamped to the file."""
    offsets = torch.arange(-ROWS_BEFORE, ROWS_AFTER)
    rows = torch.as_tensor(list(centres), dtype=torch.long)[:, None] + offsets
    return rows.clamp(0, num_features - 1)


def audio_tokens(features: torch.Tensor, centres: Sequence[int]) -> torch.Tensor:
    """Tokens (F, 10 * num_states, D) of whole features (L, num_states, D) for windows at `centres`, in any order."""
    rows = window_rows(centres, len(features)).to(features.device)
    return rearrange(features[rows], "f t s d -> f (t s) d")


class TokenWindows:
    """Tokens for successive frames from a stream of features, keeping only the rows still needed.

    Args:
        blocks: feature blocks (l, num_states, D) in order, such as an `AudioFeatureStream`.
        num_features: rows in all; taken from `blocks.num_features` when not given.
    """

    def __init__(self, blocks: Iterable[torch.Tensor], num_features: int | None = None):
        self.num_features = blocks.num_features if num_features is None else num_features
        self._blocks = iter(blocks)
        self._rows: torch.Tensor | None = None
        self._start = 0

    def tokens(self, centres: Sequence[int]) -> torch.Tensor:
        """Tokens (F, 10 * num_states, D) of windows at `centres`; no centre may lie before one of an earlier call.

        Raises OptionError for a centre whose rows were let go, AudioError when the stream ends too early.
        """
        if len(centres) == 0:
            raise OptionError("No frames were asked for. Ask for the tokens of at least one frame.")
        rows = window_rows(centres, self.num_features)
        first, last = int(rows.min()), int(rows.max())
        if first < self._start:
            raise OptionError(
                f"Feature {first} was asked for after windows from {self._start} on. Ask in order of time."
            )
        parts = [] if self._rows is None else [self._rows]
        end = self._start + sum(map(len, parts))
        while end <= last:
            block = next(self._blocks, None)
            if block is None:
                raise AudioError(f"The features end at {end}, but {self.num_features} were announced.")
            parts.append(block)
            end += len(block)
        held = torch.cat(parts)
        tokens = rearrange(held[(rows - self._start).to(held.device)], "f t s d -> f (t s) d")
        keep = int(rows[:, 0].max())  # the rows of the latest window and of all that may follow
        self._rows, self._start = held[keep - self._start :].clone(), keep
        return tokens
