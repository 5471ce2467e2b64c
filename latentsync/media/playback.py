"""Reading a video on beyond its end, for speech that is longer than the video."""

import os
from array import array
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice

import av

from ..errors import MediaError
from .frame_selection import FrameSelection
from .length_modes import LengthMode, repeats
from .video_decoder import VideoDecoder
from .video_reader import FrameConverter, VideoFrame, exact_rate, no_frames

_MIN_BLOCK = 8  # frames held at least, however large they are


def read_playback(
    path: str | os.PathLike,
    mode: LengthMode = "bounce",
    *,
    doubled_turns: bool = False,
    start: float = 0.0,
    duration: float | None = None,
    fps: Fraction | float | None = None,
    memory_limit: int = 96 * 2**20,
) -> Iterator[VideoFrame]:
    """All frames, and then those that `mode` repeats: see `length_modes.repeats`. With "trim" and "speed", none.

    `time` and `pts` keep growing, each frame stays as long as it does in the source (one that is held is given at the
    clip's rate), `source_index` tells which source frame is shown and `is_repeat` that the clip was shown whole before.
    The other arguments and errors are those of `read_frames`.

    Frames that come again are decoded again in blocks, from the key frame before them. Decoded frames are held as YUV
    in at most `memory_limit` bytes (but 8 frames at least); a clip that fits is decoded once.
    """
    with VideoDecoder(path) as decoder:
        clip = _Clip(decoder, start, duration, None if fps is None else exact_rate(fps), memory_limit)
        convert = FrameConverter(decoder)
        shown = chain(
            ((*frame, False) for frame in clip.once()), ((*frame, True) for frame in clip.again(mode, doubled_turns))
        )
        for index, (frame, pts, source_index, is_repeat) in enumerate(shown):
            yield VideoFrame(convert(frame), float(pts * clip.time_base), pts, index, source_index, is_repeat)


class _Clip:
    """The selected frames of a video, found again by their place."""

    def __init__(
        self, decoder: VideoDecoder, start: float, duration: float | None, fps: Fraction | None, memory_limit: int
    ):
        self._decoder = decoder
        self._start, self._duration = start, duration
        self._selection = FrameSelection(decoder, start, duration, fps)
        frame_bytes = sum(plane.buffer_size for plane in decoder.first.planes)
        self._block_length = max(_MIN_BLOCK, memory_limit // frame_bytes)
        self._held: dict[int, av.VideoFrame] = {}  # place among the sources -> frame
        self._ahead: Iterator[tuple[int, av.VideoFrame]] | None = None  # where frames are read forward again
        self._next_ahead = 0  # place of the next one it gives
        self._sources, self._source_pts = array("q"), array("q")  # per source frame that is shown: index, timestamp
        self._shown, self._pts = array("q"), array("q")  # per frame of the clip: place in `_sources`, timestamp
        self.time_base = self._selection.time_base
        self._interval = decoder.interval if fps is None else 1

    def once(self) -> Iterator[tuple[av.VideoFrame, int, int]]:
        """(frame, pts, source index) of all the frames in order, for the first time."""
        recent: deque[tuple[int, av.VideoFrame]] = deque(maxlen=self._block_length)
        place = -1
        for selected in self._selection:
            if not recent or recent[-1][1] is not selected.frame:
                place += 1
                recent.append((place, selected.frame))
                self._sources.append(selected.source_index)
                self._source_pts.append(selected.source_pts or 0)
            self._shown.append(place)
            self._pts.append(selected.pts)
            yield selected.frame, selected.pts, selected.source_index
        if not self._shown:
            raise no_frames(self._decoder.path, self._start)
        self._held = dict(recent)

    def again(self, mode: LengthMode, doubled_turns: bool) -> Iterator[tuple[av.VideoFrame, int, int]]:
        """The same of what is shown after that."""
        before = len(self._shown)
        for shown, pts in repeats(
            self._pts, self._selection.end_pts, self._interval, mode, doubled_turns=doubled_turns
        ):
            place = self._shown[shown]
            yield self._frame(place, shown > before), pts, self._sources[place]
            before = shown

    def _frame(self, place: int, forward: bool) -> av.VideoFrame:
        if place in self._held:
            return self._held[place]
        if not forward:
            self._held, self._ahead = {}, None  # before the next block is decoded, so that only one is in memory
            first = max(0, place + 1 - self._block_length)
            self._held = dict(islice(self._decoded_from(first), place + 1 - first))
        else:
            if self._ahead is None or place != self._next_ahead:
                self._held, self._ahead = {}, None
                self._ahead = self._decoded_from(place)
            self._held.update(islice(self._ahead, 1))
            self._next_ahead = place + 1
            while len(self._held) > self._block_length:
                del self._held[next(iter(self._held))]
        return self._held[place]

    def _decoded_from(self, place: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """(place, frame) from that place on, decoded again."""
        number = len(self._sources)
        if self._selection.regular:
            for frame, pts in self._decoder.frames(self._source_pts[place]):
                if pts == self._source_pts[place]:
                    yield place, frame
                    place += 1
                if place == number:
                    return
                if pts is not None and pts > self._source_pts[place]:
                    break
        # Without sound timestamps a frame is found by counting from the start of the clip.
        for selected in FrameSelection(self._decoder, self._start, self._duration, None):
            if selected.source_index == self._sources[place]:
                yield place, selected.frame
                place += 1
            if place == number:
                return
        raise MediaError(
            f"'{self._decoder.path}' did not give the same frames when read a second time. Is it still being written? "
            "Otherwise repair or export it again."
        )
