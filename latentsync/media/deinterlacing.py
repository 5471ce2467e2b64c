"""Interlaced video made progressive: one whole frame for each coded one, at the time of that one.

An interlaced frame holds two moments, in its even and in its odd rows. Left as they are they stand beside each other
as combs wherever something moves, and no player takes these away once they are encoded as a progressive picture.
"""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import av

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
