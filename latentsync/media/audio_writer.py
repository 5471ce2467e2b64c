"""Writing sound: the audio track of a video, and plain wav files."""

import os
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from ..errors import OutputError
from .audio_mix import probe_mix, read_mix_blocks
from .output_file import check_output, written_whole

_BITS_PER_CHANNEL = 128_000  # per second; transparent for AAC and Opus
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_OPUS_RATES = (48000,)  # Opus knows lower input rates but always plays at 48 kHz
_AAC_LAYOUTS = ("mono", "stereo", "2.1", "4.0", "quad", "5.0", "5.1")
_OPUS_LAYOUTS = ("mono", "stereo", "quad", "5.0", "5.1", "6.1", "7.1")
_SILENCE_BLOCK = 16_384  # samples a channel


@dataclass(frozen=True)
class AudioSource:
    """The part of a media file whose sound goes into a video, alone or together with those of other files."""

    path: str | os.PathLike
    start: float = 0.0  # s
    duration: float | None = None  # s; None: to the end
    fitted: bool = False  # cut off where the picture ends, or followed by silence until then
    mixed_with: tuple[str | os.PathLike, ...] = ()  # heard at the same time, see audio_mix.py

    @property
    def paths(self) -> tuple[str | os.PathLike, ...]:
        return (self.path, *self.mixed_with)


def output_sample_rate(codec: str, sample_rate: int) -> int:
    """The rate written for sound of `sample_rate`: the same where the codec has it, else the next higher it has."""
    rates = _OPUS_RATES if codec == "libopus" else _AAC_RATES
    return next((rate for rate in rates if rate >= sample_rate), rates[-1])


def output_layout(codec: str, layout: str, channels: int) -> str:
    """The channel layout written: the same where the codec has it, else the nearest with no more channels.

    "5.1(side)" becomes "5.1", which names the same six loudspeakers.
    """
    layouts = _OPUS_LAYOUTS if codec == "libopus" else _AAC_LAYOUTS
    if layout in layouts:
        return layout
    return max((name for name in layouts if _count(name) <= channels), key=_count)


class AudioTrack:
    """The encoder of one audio track in a container that is being written.

    The sound is always encoded, even where the source is AAC already: copied packets would carry the old encoder's
    delay with them, which containers record in different ways.
    """

    def __init__(self, container: av.container.OutputContainer, codec: str, source: AudioSource):
        """Raises `AudioError` where the source has no readable sound."""
        facts = probe_mix(source.paths)
        self._rate = output_sample_rate(codec, facts.sample_rate)
        self._layout = output_layout(codec, facts.layout, facts.channels)
        self._container = container
        self._blocks: Iterator[np.ndarray] | None = read_mix_blocks(
            source.paths,
            sample_rate=self._rate,
            layout=self._layout,
            start=source.start,
            duration=source.duration,
        )
        self._is_fitted = source.fitted
        self._rest: np.ndarray | None = None  # of a block that reached beyond the time asked for
        self._samples = 0
        self._stream = container.add_stream(codec, rate=self._rate)
        self._stream.layout = self._layout
        self._stream.bit_rate = _BITS_PER_CHANNEL * _count(self._layout)

    def write_until(self, time: float) -> None:
        """Encode up to `time` seconds, or to the end of the source if that is earlier; by whole blocks.

        Fitted sound goes up to `time` exactly, with silence where the source has ended.
        """
        while self._blocks is not None and self._samples < time * self._rate:
            block = next(self._blocks, None) if self._rest is None else self._rest
            self._rest = None
            if self._is_fitted:
                missing = round(time * self._rate) - self._samples
                if missing <= 0:
                    self._rest = block
                    return
                if block is None:
                    block = np.zeros((_count(self._layout), min(missing, _SILENCE_BLOCK)), np.float32)
                elif block.shape[1] > missing:
                    block, self._rest = block[:, :missing], block[:, missing:]
            if block is None:
                self._end()
                return
            # Samples beyond full scale would wrap around or ring in some decoders.
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.clip(-1, 1)), "fltp", self._layout)
            frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._samples
            self._samples += block.shape[1]
            self._container.mux(self._stream.encode(frame))

    def finish(self, time: float) -> None:
        """Encode what is left; of fitted sound, up to `time` seconds, where the picture ends."""
        self.write_until(time if self._is_fitted else float("inf"))
        self._end()

    def _end(self) -> None:
        if self._blocks is not None:
            self._blocks = None
            self._container.mux(self._stream.encode(None))


def write_wav(path: str | os.PathLike, samples: np.ndarray, sample_rate: int) -> None:
    """Write float `samples` in [-1, 1], (T,) or (C, T), as a 16-bit wav file; complete or not at all.

    Values beyond the range are clipped. Raises `OutputError` where the file cannot be made or the samples are not
    finite or of another shape.
    """
    samples = np.atleast_2d(np.asarray(samples))
    if samples.ndim != 2 or not np.isfinite(samples).all():
        raise OutputError(f"Cannot write '{path}': expected finite samples, (T,) or (C, T), got {samples.shape}.")
    with written_whole(check_output(path, suffixes=(".wav",))) as part, wave.open(str(part), "wb") as file:
        file.setnchannels(samples.shape[0])
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.round(samples.T.clip(-1, 1) * 32767).astype("<i2").tobytes())


def _count(layout: str) -> int:
    return av.AudioLayout(layout).nb_channels
