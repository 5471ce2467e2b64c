"""Writing a video, once encoded, with its sound, under its final name only when it is complete."""

import contextlib
import os
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from ..errors import OptionError, OutputError
from .audio_reader import AudioFacts, probe_audio, read_audio_blocks
from .color import BT709_TAGS, ColorTags, YuvConverter
from .marking import Marking
from .output_file import CONTAINERS, PartFile, check_output, writing_errors, written_whole

# Several sounds heard together, as when each person of a clip speaks a file of their own.


def probe_mix(paths: Sequence[str | os.PathLike]) -> AudioFacts:
    """What the mix of these files is: the highest rate, the widest layout, the longest duration of any of them.

    Raises AudioError as `probe_audio` does, OptionError for no files.
    """
    if not paths:
        raise OptionError("no sound was given to be mixed; expected one file or more")
    facts = [probe_audio(path) for path in paths]
    widest = max(facts, key=lambda one: one.channels)
    return replace(
        widest,
        sample_rate=max(one.sample_rate for one in facts),
        duration=max(one.duration for one in facts),
    )


def read_mix_blocks(
    paths: Sequence[str | os.PathLike],
    *,
    sample_rate: int,
    layout: str,
    start: float = 0.0,
    duration: float | None = None,
) -> Iterator[np.ndarray]:
    """The sum of the files' sounds in blocks (C, T) float32, from `start` seconds on, until the longest one ends.

    One file is given as it is, as by `read_audio_blocks`, which says what is raised. Where the sum of several would go
    beyond [-1, 1] anywhere, the whole of it is turned down just so far that it does not: for that they are read twice.
    A file that ends before `start` is not heard; if all do, AudioError is raised.
    """
    if len(paths) > 1:
        lasting = [path for path in paths if probe_audio(path).duration > start]
        paths = lasting or paths[:1]

    def read() -> Iterator[np.ndarray]:
        part = {"mono": False, "layout": layout, "start": start, "duration": duration}
        return _summed([read_audio_blocks(path, sample_rate=sample_rate, **part) for path in paths])

    if len(paths) == 1:
        yield from read()
        return
    loudest = max((float(np.abs(block).max()) for block in read()), default=0.0)
    for block in read():
        yield block / max(loudest, 1.0)


def _summed(sounds: Sequence[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    """Blocks (C, T) as long as all sounds have samples at hand; a sound that has ended is silence."""
    playing = [(sound, np.empty((0, 0), np.float32)) for sound in sounds]
    while True:
        filled = ((sound, left if left.shape[1] else next(sound, None)) for sound, left in playing)
        playing = [(sound, block) for sound, block in filled if block is not None]
        if not playing:
            return
        count = min(block.shape[1] for _, block in playing)
        yield sum(block[:, :count] for _, block in playing)
        playing = [(sound, block[:, count:]) for sound, block in playing]


# Writing sound: the audio track of a video, and plain wav files.

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
    mixed_with: tuple[str | os.PathLike, ...] = ()  # heard at the same time, see `read_mix_blocks`

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


# The video

_AHEAD = 0.5  # s by which sound runs ahead of the picture, so that players find both close together


# Quality and speed per encoder. libx264: 47.8 dB of luma for 15.5 CPU-ms a 1080p frame; `faster` at crf 18 gives the
# same for 26. libvpx counts quality on another scale.
_ENCODERS = {
    "libx264": (16, {"preset": "veryfast"}),
    "libx265": (18, {"preset": "superfast", "x265-params": "log-level=none"}),
    "libvpx-vp9": (22, {"deadline": "good", "cpu-used": "5", "row-mt": "1", "b": "0"}),
}


def same_everywhere(codec: str) -> dict[str, str]:
    """Options that make an encoder give the same for the same frames, always.

    libx264's AVX-512 code (core 165, in PyAV 18.1) does not: its macroblock tree weighs blocks differently from run to
    run, even with one thread. Its AVX2 code does.
    """
    if codec == "libx264" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return {"x264-params": "asm=AVX2"}
    return {}


def format_warnings(path: str | os.PathLike, width: int, height: int, sample_aspect_ratio: Fraction) -> list[str]:
    """What a person should know of a picture of that kind in the format that the path's suffix chooses."""
    container = CONTAINERS[Path(path).suffix.lower()]
    is_vp9 = container.video_codec == "libvpx-vp9"
    if (width % 2 or height % 2) and not is_vp9:
        return [
            f"the picture is {width} x {height} px, and odd sizes are kept in {Path(path).suffix} by H.264 with full "
            "colour (4:4:4), which many browsers and phones do not play. Write .webm instead, or crop the video to "
            "even sizes first"
        ]
    if sample_aspect_ratio != 1 and is_vp9:
        return [
            f"the pixels of the video are not square ({sample_aspect_ratio}:1 wide), which cannot be written into "
            f"{Path(path).suffix} here: the result looks squeezed. Write .mp4, .mov or .mkv instead"
        ]
    return []


class VideoWriter:
    """A context manager that encodes RGB frames and an optional audio track.

    Leaving the block completes the file; leaving it by any exception, KeyboardInterrupt included, removes it.

    path: the suffix chooses the container (`CONTAINERS`). Missing folders are made.
    width, height: of the frames, px; kept exactly.
    rate: nominal frames per second. time_base: seconds per tick of the timestamps given to `write`; 1 / rate if None.
    color: tags to write and to convert with, e.g. `VideoFacts.output_color`; BT.709 limited if None.
    audio: kept at its own sample rate and layout where the codec has them (`output_sample_rate`, `output_layout`).
    crf, preset: the encoder's own quality and speed; None for the defaults above.
    mark: what tells that the result is generated; None for nothing.
    codec: `libx264`, `libx265` or `libvpx-vp9`; None for the container's usual one.
    inputs: files that must not be overwritten.
    part_name: of the unfinished file, see PartFile.

    Raises `OutputError` where the file cannot be written or encoded, `AudioError` where the sound cannot be read,
    `OptionError` for impossible sizes, rates and codecs. Only one lossy encode happens.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        width: int,
        height: int,
        *,
        rate: Fraction | int,
        time_base: Fraction | None = None,
        color: ColorTags | None = None,
        audio: AudioSource | None = None,
        crf: float | None = None,
        preset: str | None = None,
        codec: str | None = None,
        sample_aspect_ratio: Fraction | None = None,
        mark: Marking | None = None,
        inputs: tuple[str | os.PathLike, ...] = (),
        part_name: str | None = None,
    ):
        self._target = check_output(path, (*inputs, *(audio.paths if audio else ())))
        container = CONTAINERS[self._target.suffix.lower()]
        codec = codec or container.video_codec
        if codec not in _ENCODERS or (container.muxer == "webm") != (codec == "libvpx-vp9"):
            raise OptionError(f"codec is {codec!r}; expected one that {self._target.suffix} holds, or None.")
        if min(width, height) < 2 or max(width, height) > 16384:
            raise OptionError(f"The frame size is {width}x{height}; expected 2 to 16384 pixels a side.")
        if rate <= 0:
            raise OptionError(f"rate is {rate}; expected more than 0 frames per second.")
        self._shape = (height, width, 3)
        self._rate = Fraction(rate)
        self._time_base = Fraction(time_base or 1 / self._rate)
        self._tick_interval = max(1, round(1 / (self._rate * self._time_base)))
        tags = (color or BT709_TAGS).assumed(width, height)
        # 4:2:0 in H.264 and H.265 halves both sides, and their crop counts in whole chroma pixels: an odd size can be
        # kept exactly only with full chroma. VP9 rounds up instead.
        is_odd = (width % 2 or height % 2) and codec != "libvpx-vp9"
        pixel_format = "yuv444p" if is_odd else "yuv420p"
        self._to_yuv = YuvConverter(tags, pixel_format, "unspecified" if codec == "libvpx-vp9" else "left")
        # Where the picture will end is not known before it does, and fitted sound must not be longer.
        self._ahead = 0.0 if audio and audio.fitted else _AHEAD
        self._last_pts: int | None = None
        self._closed = False
        self._mark = mark or Marking()
        self._is_mp4 = container.muxer in ("mp4", "mov")
        self._part = PartFile(self._target, part_name)
        self._container: av.container.OutputContainer | None = None
        try:
            with writing_errors(self._target):
                flags = {"movflags": "faststart+use_metadata_tags"} if self._is_mp4 else {}
                self._container = av.open(
                    f"file:{self._part.path}", "w", format=container.muxer, container_options=flags
                )
                self._container.metadata.update(self._mark.metadata())
                self._stream = self._video_stream(codec, width, height, pixel_format, tags, crf, preset)
                if sample_aspect_ratio not in (None, 1):
                    self._stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
                self._audio = AudioTrack(self._container, container.audio_codec, audio) if audio else None
                self._container.start_encoding()  # makes the file, so that a place that cannot be written shows at once
        except BaseException:
            self.close()
            raise

    def write(self, pixels: np.ndarray, pts: int | None = None) -> None:
        """Encode one frame, (H, W, 3) uint8 RGB, shown from `pts` ticks on (None: one frame after the last).

        Raises `OutputError` where the disk is full or gone, `OptionError` for a frame of another size or type and for
        timestamps that do not grow.
        """
        if self._closed:
            raise OptionError(f"The writer of '{self._target}' is closed; expected frames before finish() or close().")
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise OptionError(f"A frame is {pixels.dtype} {pixels.shape}; expected uint8 {self._shape}.")
        if pts is None:
            pts = 0 if self._last_pts is None else self._last_pts + self._tick_interval
        if self._last_pts is not None and pts <= self._last_pts:
            raise OptionError(f"A frame's pts is {pts} after {self._last_pts}; expected growing timestamps.")
        self._last_pts = pts
        frame = self._to_yuv(np.ascontiguousarray(self._mark.drawn(pixels)))
        frame.pts, frame.time_base = pts, self._time_base
        with writing_errors(self._target):
            self._mux(frame)
            if self._audio:
                self._audio.write_until(float(pts * self._time_base) + self._ahead)

    def finish(self) -> None:
        """Write what is left, the rest of the sound included, and give the file its name."""
        if self._closed:
            return
        try:
            if self._last_pts is None:
                raise OutputError(f"No frames were given for '{self._target}'; a video needs at least one.")
            with writing_errors(self._target):
                self._mux(None)
                if self._audio:
                    self._audio.finish(float((self._last_pts + self._tick_interval) * self._time_base))
                self._container.close()
                if self._is_mp4 and (box := self._mark.xmp_box()):
                    with self._part.path.open("ab") as file:
                        file.write(box)
            self._part.commit()
            self._closed = True
        finally:
            self.close()

    def close(self) -> None:
        """Give up: remove what was written so far. Does nothing after `finish`."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._container is not None:
                with contextlib.suppress(OSError, av.FFmpegError):
                    self._container.close()
        finally:
            self._part.discard()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    def _video_stream(
        self,
        codec: str,
        width: int,
        height: int,
        pixel_format: str,
        tags: ColorTags,
        crf: float | None,
        preset: str | None,
    ) -> av.VideoStream:
        default_crf, options = _ENCODERS[codec]
        options = {**options, **same_everywhere(codec), "crf": str(default_crf if crf is None else crf)}
        if preset is not None:
            options["cpu-used" if codec == "libvpx-vp9" else "preset"] = preset
        stream = self._container.add_stream(codec, rate=self._rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.time_base = self._time_base
        context.color_range, context.colorspace = tags.color_range, tags.matrix
        context.color_primaries, context.color_trc = tags.primaries, tags.transfer
        if codec == "libx265":
            context.codec_tag = "hvc1"  # the tag that Apple's players accept
        return stream

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._stream.encode(frame):
            # Without a duration the last frame, or the only one, would be shown for no time.
            packet.duration = packet.duration or self._tick_interval
            self._container.mux(packet)
