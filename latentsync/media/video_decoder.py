"""Decoding a video from any point, with timestamps that can be trusted."""

import contextlib
import math
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice

import av

from ..errors import MediaError, OptionError
from .container import (
    DECODER_OPTIONS,
    MAX_GAP,
    MAX_PIXELS,
    MAX_SECONDS,
    decode_stream,
    has_cover,
    open_media,
    video_stream,
)

# Interlaced video made progressive: one whole frame for each coded one, at the time of that one.
#
# An interlaced frame holds two moments, in its even and in its odd rows. Left as they are they stand beside each other
# as combs wherever something moves, and no player takes these away once they are encoded as a progressive picture.

MIN_SIDE = 4  # px; the filter takes no smaller pictures

Timed = tuple[av.VideoFrame, int | None]  # a decoded frame and its timestamp


def progressive(frames: Iterator[Timed]) -> Iterator[Timed]:
    """The same number of frames with the same timestamps, in order; those that are marked as interlaced are made whole.

    The missing rows come from the frame itself and from its neighbours; the moment is that of the field shown first.
    Frames that are not interlaced are handed on as they are. Three frames are held at most.
    """
    flow: _Flow | None = None
    before: Timed | None = None
    for frame, pts in frames:
        if flow is not None and not flow.fits(frame):
            yield from flow.rest()
            flow = before = None
        if flow is None and frame.interlaced_frame and min(frame.width, frame.height) >= MIN_SIDE:
            flow = _Flow(frame)
            if before is not None:
                flow.lead(before[0])
        if flow is None:
            before = frame, pts
            yield frame, pts
        else:
            yield from flow.push(frame, pts)
    if flow is not None:
        yield from flow.rest()


class _Flow:
    """Frames of one size and format on their way through FFmpeg's bwdif, which gives each one later by one."""

    def __init__(self, frame: av.VideoFrame):
        self._kind = _kind(frame)
        self._waiting: deque[tuple[av.VideoFrame, int | None] | None] = deque()
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
        )
        whole = self._graph.add("bwdif", "mode=send_frame:deint=interlaced:threads=1")
        sink = self._graph.add("buffersink")
        source.link_to(whole)
        whole.link_to(sink)
        self._graph.configure()

    def fits(self, frame: av.VideoFrame) -> bool:
        return _kind(frame) == self._kind

    def lead(self, frame: av.VideoFrame) -> None:
        """A frame that was handed on before and is only looked at."""
        self._graph.push(frame)
        self._waiting.append(None)

    def push(self, frame: av.VideoFrame, pts: int | None) -> Iterator[Timed]:
        self._graph.push(frame)
        self._waiting.append((frame, pts))
        yield from self._ready()

    def rest(self) -> Iterator[Timed]:
        self._graph.push(None)
        yield from self._ready()

    def _ready(self) -> Iterator[Timed]:
        while self._waiting:
            try:
                whole = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            known = self._waiting.popleft()
            if known is None:
                continue
            coded, pts = known
            # The filter counts time in halves of a tick.
            whole.pts, whole.dts, whole.time_base = coded.pts, coded.dts, coded.time_base
            if hasattr(coded, "duration"):  # not in older releases of PyAV
                whole.duration = coded.duration
            yield whole, pts


def _kind(frame: av.VideoFrame) -> tuple[int, int, str]:
    return frame.width, frame.height, frame.format.name


# The decoder

MIN_RATE = Fraction(1, 60)  # frames per second
COUNTED = 100  # packets
REORDERED = 3  # intervals by which a frame falls behind that is only out of order
DOUBTFUL = 16  # frames


class FrameClock:
    """Gives every decoded frame a timestamp later than the one before it.

    A missing timestamp becomes one frame interval after the last. One that repeats or falls slightly behind (damage,
    rounding) comes half an interval after the last; one that jumps back by more than a few intervals (clips joined
    without care), or ahead by more than MAX_GAP, shifts all that follow. Where one of the next frames shows that the
    clock had gone on (frames out of order, a single wrong timestamp), the shift is taken back. Both arguments are in
    ticks.
    """

    def __init__(self, interval: int, second: int):
        self._interval, self._second = interval, second
        self._offset = self._offset_before = 0
        self._doubtful = 0  # frames for which the offset before may still turn out to be the right one
        self._last: int | None = None
        self.repaired = False

    def tick(self, pts: int | None) -> int:
        """The timestamp to use for a frame that was decoded with `pts`."""
        last = self._last
        if last is None:
            now = pts or 0
            self.repaired |= pts is None
        elif pts is None:
            now, self.repaired = last + self._interval, True
        else:
            if self._doubtful:
                self._doubtful -= 1
                if abs(pts + self._offset_before - last) < REORDERED * self._interval:
                    self._offset, self._doubtful = self._offset_before, 0
            now = pts + self._offset
            if now <= last:
                self.repaired = True
                if last - now > REORDERED * self._interval:
                    now = self._shifted(pts)
                else:
                    now = last + max(1, self._interval // 2)
            elif now - last > MAX_GAP * self._second:
                now, self.repaired = self._shifted(pts), True
        self._last = now
        return now

    def _shifted(self, pts: int) -> int:
        now = self._last + self._interval
        self._offset_before, self._offset, self._doubtful = self._offset, now - pts, DOUBTFUL
        return now


def counted_rate(path: str | os.PathLike, index: int) -> Fraction | None:
    """Frames a second of the beginning, for files that name no rate, such as browsers' recordings; None for one frame.

    FFmpeg's guess for these is the tick of their clock.
    """
    times = []
    with open_media(path) as container, contextlib.suppress(av.FFmpegError, OSError):
        stream = container.streams[index]
        for packet in islice(container.demux(stream), COUNTED):
            if packet.pts is not None:
                times.append(packet.pts)
    if len(times) < 2 or max(times) == min(times):
        return None
    seconds = (max(times) - min(times)) * Fraction(stream.time_base)
    return ((len(times) - 1) / seconds).limit_denominator(1001)


class VideoDecoder:
    """The moving picture of one file.

    Attributes: `stream`; `fps`, the average rate; `time_base`; `interval`, one average frame in `time_base` ticks;
    `first`, the first frame (decoded, not converted); `origin`, its timestamp in ticks; `has_audio`;
    `declared_duration` of the whole file, s, 0 where it tells none; and its `comment`.

    Raises `MediaError` where the file holds no usable video.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self._container = open_media(path)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    @property
    def stream(self) -> av.VideoStream | None:
        """None once it is closed."""
        return video_stream(self._container)

    def frames(self, from_pts: int | None = None) -> Iterator[tuple[av.VideoFrame, int | None]]:
        """Decoded frames with their own timestamps, in display order, interlaced ones made whole.

        With `from_pts` decoding starts at a key frame, so that the first frame given is at or before that timestamp;
        where the file cannot be sought, it is the first of the file. Only one such iteration may be under way.
        """
        margin = 0
        while from_pts is not None and from_pts - margin > self.origin:
            frames = self._after_seek(from_pts - margin)
            start = next(frames, None)
            # An interlaced frame is completed from the one before it, which must have been decoded.
            if start is not None and start[1] is not None and start[1] <= from_pts - bool(start[0].interlaced_frame):
                yield from progressive(chain([start], frames))
                return
            # Containers index decoding times, and a key frame may be shown later than it is decoded: look further back.
            margin = max(4 * margin, round(1 / self.time_base))
        if self._after_first is None:
            self._reopen()
            frames = decode_stream(self._container, self.stream)
        else:  # nothing but the first frame was read, which need not be decoded twice
            frames, self._after_first = chain([self.first], self._after_first), None
        yield from progressive((frame, _timestamp(frame)) for frame in frames)

    def close(self) -> None:
        stream = self.stream
        if stream is not None and stream.codec_context is not None:
            # Closing waits, with Python's lock held, for threads that may still be decoding. Where another package has
            # turned PyAV's logging on (torchvision 0.25 and older does), these wait for the same lock to log a line: a
            # deadlock. Flushing waits for them without the lock, and leaves them idle.
            stream.codec_context.flush_buffers()
        self._container.close()

    def __enter__(self) -> "VideoDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Find the stream and decode its first frame. Raises MediaError."""
        path, stream = self.path, video_stream(self._container)
        if stream is None:
            kind = "sound and a cover picture but no video" if has_cover(self._container) else "no video"
            raise MediaError(f"'{path}' holds {kind}; expected a file with a moving picture. Choose the video itself.")
        if stream.codec_context is None:
            raise MediaError(f"The video in '{path}' is of a kind that cannot be decoded here. Convert it to H.264.")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MAX_PIXELS:
            raise MediaError(
                f"The picture in '{path}' is {width} x {height}; expected {MAX_PIXELS // 10**6} million pixels at "
                "most. Make it smaller."
            )
        self._prepare(stream)
        rate = stream.average_rate or counted_rate(path, stream.index) or stream.guessed_rate or stream.base_rate
        # Rates above 1000 are container clocks mistaken for frame rates, those near 0 wrong durations.
        self.fps = Fraction(rate) if rate and MIN_RATE <= rate <= 1000 else Fraction(25)
        self.time_base = Fraction(stream.time_base)
        self.interval = max(1, round(1 / (self.fps * self.time_base)))
        self.has_audio = bool(self._container.streams.audio)
        self.declared_duration = (self._container.duration or 0) / 1e6
        self.comment = self._container.metadata.get("comment", "")
        self._after_first: Iterator[av.VideoFrame] | None = decode_stream(self._container, stream)
        first = next(self._after_first, None)
        if first is None:
            raise MediaError(
                f"'{path}' declares a video but not one frame of it can be decoded: it is empty or damaged. "
                "Play it elsewhere to check, or export it again."
            )
        self.first: av.VideoFrame = first
        self.origin: int = _timestamp(first) or 0

    def _after_seek(self, pts: int) -> Iterator[tuple[av.VideoFrame, int | None]]:
        self._after_first = None
        try:
            self._container.seek(pts, stream=self.stream)
        except (av.FFmpegError, OSError):
            return
        found = False
        for frame in decode_stream(self._container, self.stream):
            # Frames before the key frame lean on frames that were not decoded.
            found = found or bool(frame.key_frame)
            if found:
                yield frame, _timestamp(frame)

    def _reopen(self) -> None:
        self.close()
        self._container = open_media(self.path)
        self._prepare(self.stream)

    @staticmethod
    def _prepare(stream: av.VideoStream) -> None:
        stream.thread_type = "AUTO"
        stream.codec_context.options = DECODER_OPTIONS


def _timestamp(frame: av.VideoFrame) -> int | None:
    return frame.pts if frame.pts is not None else frame.dts


# Which frames of a video make up a clip: a window in time, at the video's own rate or resampled.


@dataclass(frozen=True)
class SelectedFrame:
    """A decoded frame and its place in the clip."""

    frame: av.VideoFrame
    pts: int  # in ticks of the selection's time base, 0 for the clip's first frame
    source_index: int  # place among the source frames of the window
    source_pts: int | None  # timestamp in the file, where it is sound


class FrameSelection:
    """The frames nearest to the window [start, start + duration), in order.

    Without `fps` every source frame is taken, with timestamps in the stream's time base. With `fps` the clip is
    sampled like FFmpeg's fps filter: a frame's time is rounded to the nearest output frame, gaps repeat the frame
    before, and of frames that fall together the last is taken (600 frames at 30 fps give 500 at 25).

    After iteration, `end_pts` is where the last frame ends and `regular` tells whether all timestamps were sound.
    """

    def __init__(self, decoder: VideoDecoder, start: float, duration: float | None, fps: Fraction | None):
        if not (math.isfinite(start) and start >= 0):
            raise OptionError(f"start is {start}; expected seconds from the beginning of the video, 0 or more.")
        if duration is not None and not duration > 0:
            raise OptionError(f"duration is {duration}; expected more than 0 seconds, or None for all of the video.")
        if fps is not None and not 0 < fps <= 1000:
            raise OptionError(f"fps is {fps}; expected a rate above 0 and at most 1000, or None for the video's own.")
        self._decoder = decoder
        self._start, self._duration, self._fps = start, duration, fps
        self.time_base = decoder.time_base if fps is None else 1 / fps
        self.end_pts = 0
        self.regular = True

    def __iter__(self) -> Iterator[SelectedFrame]:
        return self._source_frames() if self._fps is None else self._resampled()

    def _source_frames(self) -> Iterator[SelectedFrame]:
        decoder = self._decoder
        clock = FrameClock(decoder.interval, round(1 / decoder.time_base))
        # Half a frame of tolerance: the nearest frame starts the clip, and 0.1 s is frame 1 at 10 fps in floats too.
        lower = decoder.origin + round(self._start / decoder.time_base) - decoder.interval // 2
        upper = None if self._duration is None else lower + round(self._duration / decoder.time_base)
        index, window_origin = 0, None
        for frame, source_pts in decoder.frames(None if self._start == 0 else lower):
            pts = clock.tick(source_pts)
            self.regular = not clock.repaired
            if self._start and pts < lower:
                continue
            if upper is not None and pts >= upper:
                break
            window_origin = pts if window_origin is None else window_origin
            if (seconds := (pts - window_origin) * decoder.time_base) > MAX_SECONDS:
                raise MediaError(
                    f"'{decoder.path}' shows a frame {float(seconds):.0f} s after its first one; expected "
                    f"{MAX_SECONDS:.0f} s at most. Cut it, or repair it."
                )
            self.end_pts = pts - window_origin + (getattr(frame, "duration", 0) or decoder.interval)
            yield SelectedFrame(frame, pts - window_origin, index, source_pts)
            index += 1

    def _resampled(self) -> Iterator[SelectedFrame]:
        ticks = self._decoder.time_base * self._fps  # output frames per source tick
        held, slot = None, 0
        for selected in self._source_frames():
            next_slot = _round_half_up(selected.pts * ticks)
            if held is not None:
                yield from self._repeat(held, slot, next_slot)
            held, slot = selected, next_slot
        if held is not None:
            end = self.end_pts * ticks
            if self._duration is not None:
                end = min(end, Fraction(self._duration).limit_denominator(10**6) * self._fps)
            end_slot = max(_round_half_up(end), slot + (slot == 0))
            yield from self._repeat(held, slot, end_slot)
            self.end_pts = end_slot

    @staticmethod
    def _repeat(held: SelectedFrame, first: int, end: int) -> Iterator[SelectedFrame]:
        for pts in range(first, end):
            yield SelectedFrame(held.frame, pts, held.source_index, held.source_pts)


def _round_half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))
