"""Speech for the U-Net: the log-mel spectrogram, Whisper's audio encoder, the tokens that each frame attends to."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F
from transformers import WhisperConfig
from transformers.audio_utils import mel_filter_bank
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from ..errors import AudioError, ForeignCheckpointError, IncompleteCheckpointError, OptionError
from ..media.audio_reader import WINDOW, Polarity, polarity_notice
from .device import threads_of
from .weights import building, check_fit, read_weights

# Whisper's log-mel spectrogram, of a whole waveform or of a stream in constant memory.
#
# Follows openai-whisper: periodic Hann window of 25 ms every 10 ms, reflected edges, last frame dropped, power, 80
# Slaney filters, log10, floor 8 decades below the loudest value of the *whole* file, then (x + 4) / 4. The floor is
# why a stream is read twice.

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


# Whisper's audio encoder, read from an openai-whisper checkpoint.
#
# LatentSync conditions on all hidden states of the encoder: the stem output with positions added, then each block's
# output. The final LayerNorm is computed by the reference but its result is not used, so it is not part of this
# module.

MEL_FRAMES = 3000  # one window of 30 s at 100 mel frames per second
ENGLISH_VOCABULARY = 51864  # `n_vocab` of the .en models; the multilingual ones have more
HEAD_WIDTH = 64  # in every Whisper model

# openai-whisper names inside a block -> transformers names
BLOCK_NAMES = {
    "attn.query": "self_attn.q_proj",
    "attn.key": "self_attn.k_proj",
    "attn.value": "self_attn.v_proj",
    "attn.out": "self_attn.out_proj",
    "attn_ln": "self_attn_layer_norm",
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
}


class AudioEncoder(nn.Module):
    """Whisper encoder that returns every hidden state.

    Attributes: `num_mels` (80), `width` D (384 for tiny, 768 for small), `num_states` (blocks + 1: 5 for tiny),
    `multilingual` (False for the .en models, None where the file does not tell).
    """

    def __init__(
        self,
        num_mels: int = 80,
        width: int = 384,
        num_heads: int = 6,
        num_blocks: int = 4,
        num_positions: int = MEL_FRAMES // 2,
        multilingual: bool | None = None,
    ):
        super().__init__()
        self.num_mels, self.width, self.num_states, self.multilingual = num_mels, width, num_blocks + 1, multilingual
        config = WhisperConfig(
            num_mel_bins=num_mels,
            d_model=width,
            encoder_attention_heads=num_heads,
            encoder_ffn_dim=4 * width,
            encoder_layers=num_blocks,
            max_source_positions=num_positions,
        )
        self.encoder = WhisperEncoder(config)
        self.encoder.layer_norm = nn.Identity()

    @property
    def device(self) -> torch.device:
        return self.encoder.conv1.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.conv1.weight.dtype

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Hidden states of normalised log-mel windows.

        Args:
            mel: (B, 80, 3000), on the encoder's device; cast to its dtype.

        Returns (B, 1500, num_states, D), 50 rows per second: the stem's output, then each block's.
        """
        with threads_of(self):
            states = self.encoder(mel.to(self.dtype), output_hidden_states=True).hidden_states
        return torch.stack(states, dim=2)


def load_whisper(
    path: str | Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AudioEncoder:
    """Read an openai-whisper `.pt` file: `{"dims": {...}, "model_state_dict": {...}}`, frozen and in eval mode.

    Only the `encoder.*` tensors are used; a file may hold nothing else, and in any float type.
    Raises ModelNotFoundError, DamagedCheckpointError, UnsafeCheckpointError, ForeignCheckpointError and
    IncompleteCheckpointError.
    """
    path = Path(path)
    dims, state_dict = _read(path)
    tensors = {key.removeprefix("encoder."): value for key, value in state_dict.items() if key.startswith("encoder.")}
    for name in ("conv1.weight", "positional_embedding"):
        if name not in tensors:
            raise IncompleteCheckpointError(f"{path} has no tensor 'encoder.{name}'. Download the Whisper file again.")
    with building(path, "a Whisper encoder"), torch.device("meta"):
        width, num_mels = tensors["conv1.weight"].shape[:2]
        num_blocks = len({key.split(".")[1] for key in tensors if key.startswith("blocks.")})
        vocabulary = dims.get("n_vocab")
        encoder = AudioEncoder(
            num_mels=num_mels,
            width=width,
            num_heads=int(dims.get("n_audio_head") or width // HEAD_WIDTH),
            num_blocks=num_blocks,
            num_positions=tensors["positional_embedding"].shape[0],
            multilingual=None if vocabulary is None else int(vocabulary) != ENGLISH_VOCABULARY,
        )
    renamed = {
        "encoder." + _transformers_name(key): value.to(device=device, dtype=dtype)
        for key, value in tensors.items()
        if not key.startswith("ln_post.")
    }
    check_fit(renamed, encoder.state_dict(), f"{path} does not hold a complete Whisper encoder")
    encoder.load_state_dict(renamed, strict=True, assign=True)
    return encoder.eval().requires_grad_(False)


def _transformers_name(key: str) -> str:
    if key == "positional_embedding":
        return "embed_positions.weight"
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", key)
    if not match:
        return key
    block, name, kind = match.groups()
    return f"layers.{block}.{BLOCK_NAMES.get(name, name)}.{kind}"


def _read(path: Path) -> tuple[dict, dict]:
    content, _ = read_weights(path)
    if not isinstance(content.get("model_state_dict"), dict):
        raise ForeignCheckpointError(
            f"{path} is not an openai-whisper checkpoint: it has no 'model_state_dict'. "
            "Expected openai-whisper's tiny.pt."
        )
    dims = content.get("dims")
    return (dims if isinstance(dims, dict) else {}), content["model_state_dict"]


# Audio tokens: Whisper's hidden states along the audio, and the window of them that each video frame attends to.
#
# There are 50 features (rows of all hidden states) a second. A frame sees 10 of them, from 80 ms before its time to
# 120 ms after, time-major then layer: (10 * num_states, D) = (50, 384) tokens with Whisper tiny.

FEATURES_PER_SECOND = SAMPLE_RATE // (2 * HOP)
ROWS_BEFORE, ROWS_AFTER = 4, 6  # features before and from the centre on
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

    Channels that would cancel because they are of opposite polarity are turned over; on_notice is given a line for a
    person then. Raises AudioError.
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
