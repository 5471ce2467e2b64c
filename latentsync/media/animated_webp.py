"""Animated WebP, which FFmpeg cannot read: Pillow decodes it, and FFmpeg gets it as a stream of whole pictures."""

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

from ..errors import MediaError
from .pictures import NoPictureError, opened_picture

logger = logging.getLogger(__name__)

_MILLISECOND = Fraction(1, 1000)
_ANIMATION = 0x02  # flag in the extended header


def is_animated_webp(path: str | os.PathLike) -> bool:
    """By the header of the file, which must be there."""
    with Path(path).open("rb") as file:
        head = file.read(21)
    return len(head) == 21 and head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & _ANIMATION)


class AnimatedWebp:
    """A file object that `av.open` reads once from its beginning to its end; FFmpeg's format "nut".

    One picture is decoded at a time, RGBA without loss, with the times of the file. Damage ends the stream with a
    logged warning.
    """

    def __init__(self, path: str | os.PathLike):
        self.name = f"file:{path}"
        self._path, self._waiting = path, bytearray()
        self._coming = self._encoded()

    def read(self, size: int) -> bytes:
        try:
            while len(self._waiting) < size and (part := next(self._coming, None)) is not None:
                self._waiting += part
        except (MediaError, NoPictureError) as reason:
            logger.warning("'%s' is damaged; it is read up to the damage (%s)", self._path, reason)
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data

    def _encoded(self) -> Iterator[bytes]:
        sink = _Sink()
        with (
            opened_picture(self._path, MediaError, "the video") as image,
            av.open(sink, "w", format="nut") as container,
        ):
            stream = container.add_stream("rawvideo", rate=1 / _MILLISECOND)
            (stream.width, stream.height), stream.pix_fmt = image.size, "rgba"
            time = 0
            for number in range(image.n_frames):
                image.seek(number)
                frame = av.VideoFrame.from_image(image.convert("RGBA"))
                frame.pts, frame.time_base = time, _MILLISECOND
                time += max(1, round(image.info["duration"]))
                for packet in stream.encode(frame):
                    container.mux(packet)
                yield sink.taken()
        yield sink.taken()


class _Sink:
    """What FFmpeg has written and nobody has taken yet."""

    def __init__(self):
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        self._bytes += data
        return len(data)

    def taken(self) -> bytes:
        data = bytes(self._bytes)
        self._bytes.clear()
        return data
