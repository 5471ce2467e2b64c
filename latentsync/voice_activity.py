"""Where somebody speaks, the gate that closes in the pauses, and how far lips and sound lie apart."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from einops import rearrange
from scipy.ndimage import gaussian_filter1d, uniform_filter1d
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import AudioError
from .model.weights import read_weights
from .model_files import ASSETS

# Where somebody speaks: Silero VAD (version 6, 16 kHz), a small recurrent network that also knows music and noise.
#
# The network is the Silero Team's (https://github.com/snakers4/silero-vad, MIT); its weights are the released ones,
# read from its TorchScript file.

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


# A gate that closes in the pauses of a speech: for the sound that moves the lips, and for what is pasted.
#
# It is meant to close too seldom rather than too often: a word with closed lips looks worse than a twitch in a pause.

# Tuned on real, eSpeak's, formant-synthesised and sung voices, bare, over music and in noise.
VOICED = 0.25  # probability, of three windows' mean, from which on a window is voice
DOUBTFUL = 0.02  # from which on it is voice if it is loud
LOUD = 12.0  # dB below the voice's loudest parts, within which a window is loud
LOUDEST = 95  # percentile of the level of the voiced windows, or of all where none is
# Singing is recognised in parts only. Of a voice with fewer voiced windows among its loudest ones, loudness decides.
KNOWN_VOICE, CORE = 0.6, 8.0  # share; dB below the loudest parts
NO_VOICE, STRANGE = 0.01, 0.03  # a share and a median probability among the loudest windows: below both, there is none
SUNG = 16.0  # dB, in the place of LOUD
BEFORE, AFTER = 0.08, 0.03  # s that a word is longer than its voiced windows; the network notices it a little late


class VoiceGate:
    """How far the gate is open at each moment of a sound: 1 while somebody speaks, 0 in a pause.

    attack, release  s: it opens before a word so that it is open with its beginning, and closes after it
    shortest_pause   s: shorter ones, and those without time for closing and opening, are none

    spoken           (n, 2) float64 s: beginning and end of each stretch of speech, in order; none where nobody speaks
    """

    def __init__(
        self,
        activity: SpeechActivity,
        *,
        attack: float = 0.06,
        release: float = 0.25,
        shortest_pause: float = 0.4,
    ):
        self.spoken = _stretches(voiced_windows(activity), max(shortest_pause, attack + release))
        self._times = (self.spoken[:, [0, 0, 1, 1]] + [-attack, 0, 0, release]).reshape(-1)
        self._open = np.tile([0.0, 1.0, 1.0, 0.0], len(self.spoken))

    def at(self, times: float | np.ndarray) -> float | np.ndarray:
        """0..1 at the given seconds of the sound, one or an array of any shape; before and after it, closed."""
        if not len(self.spoken):
            return np.zeros_like(times, dtype=np.float64)[()]
        return np.interp(times, self._times, self._open)


def gated_blocks(blocks: Iterable[np.ndarray], gate: VoiceGate) -> Iterator[np.ndarray]:
    """The sound that the gate was made from, blocks (T_i,) float at 16 kHz, faded to digital silence in its pauses."""
    position = 0
    for block in blocks:
        yield (block * gate.at((position + np.arange(len(block))) / SAMPLE_RATE)).astype(np.float32)
        position += len(block)


def voiced_windows(activity: SpeechActivity) -> np.ndarray:
    """(n,) bool, by probability and level; still with gaps between words."""
    probability = uniform_filter1d(activity.probability, 3, mode="nearest")
    voiced = probability >= VOICED
    below = np.percentile(activity.level[voiced] if voiced.any() else activity.level, LOUDEST) - activity.level  # dB
    core = below <= CORE
    share = voiced[core].mean()
    if share < NO_VOICE and np.median(probability[core]) < STRANGE:
        return np.zeros_like(voiced)
    if share < KNOWN_VOICE:
        return voiced | (below <= SUNG)
    return voiced | ((probability >= DOUBTFUL) & (below <= LOUD))


def _stretches(voiced: np.ndarray, shortest_pause: float) -> np.ndarray:
    """(n, 2) s, with the quiet edges of words."""
    edges = np.flatnonzero(np.diff(np.pad(voiced.astype(np.int8), 1)))  # a beginning, an end, a beginning ...
    spans = edges.reshape(-1, 2) * SECONDS + [-BEFORE, AFTER]
    is_pause = spans[1:, 0] - spans[:-1, 1] >= shortest_pause - 1e-9
    first, last = np.ones((2, len(spans)), bool)
    first[1:], last[:-1] = is_pause, is_pause
    return np.stack([spans[first, 0], spans[last, 1]], 1)


# The outline of a sound, for drawing.

PEAKS_PER_SECOND = 50


class WaveformPeaks:
    """The loudest sample of each fiftieth of a second, of samples that come in blocks.

    sample_rate: Hz, a multiple of 50.
    """

    def __init__(self, sample_rate: int):
        self._length = sample_rate // PEAKS_PER_SECOND
        self._left = np.empty(0, np.float32)
        self._peaks: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """The next samples (T,), float."""
        samples = np.concatenate([self._left, np.abs(block)])
        whole = len(samples) // self._length * self._length
        self._peaks.append(samples[:whole].reshape(-1, self._length).max(1))
        self._left = samples[whole:]

    def peaks(self) -> tuple[float, ...]:
        """0..1, the last one of what is left at the end."""
        last = [self._left.max(keepdims=True)] if len(self._left) else []
        return tuple(float(peak) for peak in np.concatenate([np.empty(0), *self._peaks, *last]).clip(0, 1))


# How far the lips and the sound of a video lie apart, told from mouth openings and loudness.
#
# An open vowel is loud and closed lips are quiet, so the two curves correlate best at the lag between them. That is a
# coarse measure: it wants some seconds of clear speech and says so, by its confidence, where it has not got them.

SHORTEST = 2.0  # s of known openings
LARGEST = 0.5  # s, of an offset looked for
COMPARED = 1.0  # s; lags up to here tell how distinct the best one is
STEP = 0.01  # s between lags
NEIGHBOURHOOD = 0.15  # s around the best lag that belong to it
SMOOTHING = 0.04  # s, standard deviation, of the loudness: lips are slower than the voice
DRIFT = 2.0  # s; slower changes are the head's and the speaker's distance, not speech
# Margin of the best correlation over those elsewhere, times the root of the seconds. Of synthetic speech of 3 s or more
# and noisy openings, half of SURE put 19 of 20 estimates within 80 ms, LEAST 3 of 4.
SURE, LEAST = 0.8, 0.15
MIN_OFFSET_CONFIDENCE = 0.5  # confidence from which on a person is told
LONGEST_COUNTED = 16.0  # s


@dataclass(frozen=True)
class OffsetEstimate:
    """An offset of lips and sound.

    ms           by how much the lips come later than the sound, negative where earlier: what audio_offset_ms does
    confidence   0..1
    method       what it was told from
    """

    ms: float
    confidence: float
    method: str = "loudness"

    @property
    def is_sure(self) -> bool:
        """Whether it is worth telling a person; web/js/report.js asks the same."""
        return self.confidence >= MIN_OFFSET_CONFIDENCE


def estimate_offset(
    times: Sequence[float] | np.ndarray, openings: Sequence[float | None] | np.ndarray, peaks: Sequence[float]
) -> OffsetEstimate | None:
    """The offset in a video, of at most half a second.

    times: (F,) s of its frames, ascending; openings: (F,) of the mouth in any unit, None or NaN where unknown; peaks:
    of its sound, fifty a second from 0 s on, 0..1 (`WaveformPeaks`). None where it cannot be told: fewer than two
    seconds of known openings, a mouth or a sound without change, no lag better than the others.
    """
    times, openings = np.asarray(times, np.float64), np.array(openings, np.float64)  # None becomes NaN
    known = np.isfinite(openings)
    if known.sum() < 3 or len(peaks) < 3:
        return None
    interval = float(np.median(np.diff(times)))
    seconds = float(known.sum() * interval)
    if seconds < SHORTEST:
        return None
    opening = _without_drift(openings[known], round(DRIFT / interval))
    loudness = gaussian_filter1d(np.sqrt(np.asarray(peaks, np.float64)), SMOOTHING * PEAKS_PER_SECOND)
    loudness = _without_drift(loudness, round(DRIFT * PEAKS_PER_SECOND))
    count = round(COMPARED / STEP)
    lags = np.arange(-count, count + 1) * STEP
    shown = times[known] + interval / 2  # a frame stands for the middle of its display time
    places = (np.arange(len(loudness)) + 0.5) / PEAKS_PER_SECOND
    similarity = np.array([_correlation(opening, np.interp(shown - lag, places, loudness)) for lag in lags])
    if not similarity.any():
        return None
    best = int(np.where(np.abs(lags) <= LARGEST + 1e-9, similarity, -np.inf).argmax())
    others = similarity[np.abs(lags - lags[best]) > NEIGHBOURHOOD]
    confidence = (similarity[best] - others.max()) * min(seconds, LONGEST_COUNTED) ** 0.5 / SURE
    if confidence < LEAST / SURE or abs(lags[best]) > LARGEST - STEP / 2:
        return None
    before, peak, after = similarity[best - 1 : best + 2]
    between = 0.5 * (before - after) / (before - 2 * peak + after)  # the top of the parabola through the three
    return OffsetEstimate(round(1000 * float(lags[best] + between * STEP), 1), float(min(confidence, 1.0)))


def _without_drift(curve: np.ndarray, width: int) -> np.ndarray:
    return curve - uniform_filter1d(curve, max(width, 1), mode="nearest")


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's; 0 where one does not change."""
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / scale) if scale > 1e-9 else 0.0
