"""Decoding a video from any point, with timestamps that can be trusted."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice

import av

from ..errors import MediaError
from .container import DECODER_OPTIONS, decode_stream, has_cover, open_media, video_stream
from .deinterlacing import progressive
from .limits import MAX_GAP, MAX_PIXELS

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
