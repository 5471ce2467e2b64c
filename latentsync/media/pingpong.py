"""Reading a video forward and backward for ever, for speech that is longer than the video."""

import os
from array import array
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import av

from ..errors import MediaError
from .frame_selection import FrameSelection
from .video_decoder import VideoDecoder
from .video_reader import FrameConverter, VideoFrame, exact_rate, no_frames

_MIN_BLOCK = 8  # frames held at least, however large they are


def read_pingpong(
    path: str | os.PathLike,
    *,
    start: float = 0.0,
    duration: float | None = None,
    fps: Fraction | float | None = None,
    memory_limit: int = 96 * 2**20,
) -> Iterator[VideoFrame]:
    """Frames forward, reversed, forward, ... without end: 0, 1, ..., F-2, F-1, F-1, F-2, ..., 0, 0, 1, ...

    The frame at each turn comes twice, as in the reference. `time` and `pts` keep growing, each frame stays as long as
    it does in the source, and `source_index` tells which source frame is shown. Arguments and errors are those of
    `read_frames`.

    Going backward, blocks of frames are decoded again from the key frame before them. Decoded frames are held as YUV
    in at most `memory_limit` bytes (but 8 frames at least); a clip that fits is decoded once.
    """
    with VideoDecoder(path) as decoder:
        clip = _Clip(decoder, start, duration, None if fps is None else exact_rate(fps), memory_limit)
        convert = FrameConverter(decoder)
        for index, (frame, pts, source_index) in enumerate(clip.bounce()):
            yield VideoFrame(convert(frame), float(pts * clip.time_base), pts, index, source_index)


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
        self._sources, self._source_pts = array("q"), array("q")  # per source frame that is shown: index, timestamp
        self._shown, self._pts = array("q"), array("q")  # per frame of the clip: place in `_sources`, timestamp
        self.time_base = self._selection.time_base

    def bounce(self) -> Iterator[tuple[av.VideoFrame, int, int]]:
        """(frame, pts, source index) without end."""
        base = 0
        while True:
            yield from self._forward(base)
            base += self._length
            yield from self._backward(base)
            base += self._length

    def _forward(self, base: int) -> Iterator[tuple[av.VideoFrame, int, int]]:
        if self._shown and len(self._held) == len(self._sources):
            for place, pts in zip(self._shown, self._pts, strict=True):
                yield self._held[place], base + pts, self._sources[place]
            return
        is_first = not self._shown
        recent: deque[tuple[int, av.VideoFrame]] = deque(maxlen=self._block_length)
        self._held, place = {}, -1
        for selected in self._selection:
            if not recent or recent[-1][1] is not selected.frame:
                place += 1
                recent.append((place, selected.frame))
                if is_first:
                    self._sources.append(selected.source_index)
                    self._source_pts.append(selected.source_pts or 0)
            if is_first:
                self._shown.append(place)
                self._pts.append(selected.pts)
            yield selected.frame, base + selected.pts, selected.source_index
        if not self._shown:
            raise no_frames(self._decoder.path, self._start)
        self._length = self._selection.end_pts
        self._held = dict(recent)

    def _backward(self, base: int) -> Iterator[tuple[av.VideoFrame, int, int]]:
        ends = self._length
        for place, pts in zip(reversed(self._shown), reversed(self._pts), strict=True):
            # A frame that was shown from its own time to the next one's is shown for as long, mirrored.
            yield self._frame(place), base + self._length - ends, self._sources[place]
            ends = pts

    def _frame(self, place: int) -> av.VideoFrame:
        if place not in self._held:
            self._held = {}  # before the next block is decoded, so that only one is in memory
            first = max(0, place + 1 - self._block_length)
            self._held = self._decode_block(first, place + 1)
        return self._held[place]

    def _decode_block(self, first: int, end: int) -> dict[int, av.VideoFrame]:
        """The frames at places first..end-1, decoded again."""
        if self._selection.regular:
            wanted = {self._source_pts[place]: place for place in range(first, end)}
            block = {}
            for frame, pts in self._decoder.frames(self._source_pts[first]):
                if pts in wanted:
                    block[wanted[pts]] = frame
                if len(block) == len(wanted) or (pts is not None and pts > self._source_pts[end - 1]):
                    break
            if len(block) == len(wanted):
                return block
        # Without sound timestamps a frame is found by counting from the start of the clip.
        wanted = {self._sources[place]: place for place in range(first, end)}
        block = {}
        for selected in FrameSelection(self._decoder, self._start, self._duration, None):
            if selected.source_index in wanted:
                block[wanted[selected.source_index]] = selected.frame
            if len(block) == len(wanted):
                return block
        raise MediaError(
            f"'{self._decoder.path}' did not give the same frames when read a second time. Is it still being written? "
            "Otherwise repair or export it again."
        )
