"""Which frames of a video make up a clip: a window in time, at the video's own rate or resampled."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av

from ..errors import MediaError, OptionError
from .limits import MAX_SECONDS
from .video_decoder import FrameClock, VideoDecoder


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
