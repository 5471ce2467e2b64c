"""Opening media files: every way in which a file can be unusable gets its own message."""

import contextlib
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Disposition
from PIL import Image, UnidentifiedImageError

from ..errors import LatentSyncError, MediaError
from ..given_paths import check_input

# How large a picture or a clip may be that someone else has made.

MAX_PIXELS = 8192 * 8192  # of a frame or picture; a frame of this size takes 200 MB as RGB
MAX_SECONDS = 24 * 3600.0  # s from the first picture or sample to the last
MAX_GAP = 3600.0  # s between two frames, or of silence between two packets; a longer one is a wrong timestamp
SAMPLE_RATES = 1000, 768_000  # Hz, of sound that is speech
MAX_CHANNELS = 64


# Still pictures from files of others.

# What Pillow raises for damaged files besides OSError: each format's reader has its own.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError)
_DAMAGE += (RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError)


class NoPictureError(Exception):
    """The file is of no format that Pillow knows."""


@contextlib.contextmanager
def opened_picture(path: str | os.PathLike, error: type[LatentSyncError], what: str) -> Iterator[Image.Image]:
    """The picture, its pixels not yet read; reading them inside is covered too. what: which, for the message.

    Raises NoPictureError for what is no picture, `error` for a damaged one and for more pixels than MAX_PIXELS, which
    its header tells before memory is taken.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise error(
                    f"{what} '{path}' has {width} x {height} pixels; expected {MAX_PIXELS // 10**6} million at most. "
                    "Make it smaller."
                )
            yield image
    except LatentSyncError:
        raise
    except UnidentifiedImageError as reason:
        raise NoPictureError(str(path)) from reason
    except Image.DecompressionBombError as reason:
        raise error(
            f"{what} '{path}' claims more pixels than {MAX_PIXELS // 10**6} million ({reason}). Make it smaller, or "
            "export it again."
        ) from reason
    except _DAMAGE as reason:
        raise error(
            f"{what} '{path}' cannot be read ({reason}); expected a png, jpg or webp picture. Check the path, or "
            "export it again."
        ) from reason


# Animated WebP, which FFmpeg cannot read: Pillow decodes it, and FFmpeg gets it as a stream of whole pictures.

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


# Opening a file


# Demuxers that "recognise" plain text as pictures, or open other files and addresses named inside the file.
_UNWANTED_FORMATS = frozenset({"tty", "bin", "xbin", "adf", "idf", "concat", "hls", "dash", "sdp", "ffmetadata"})
DECODER_OPTIONS = {"max_pixels": str(MAX_PIXELS)}  # asked before memory is taken for a picture
PYAV = tuple(map(int, av.__version__.split(".")[:2]))  # 14.2 and later will do
# PyAV before 17.1 crashes with such options where streams are found only on the way (mpg, ts, flv): it makes room for
# those that it knows when it opens the file.
_OPENING_OPTIONS = DECODER_OPTIONS if PYAV >= (17, 1) else {}
_NOT_A_MOVIE = Disposition.attached_pic | Disposition.timed_thumbnails


def open_media(path: str | os.PathLike, error: type[MediaError] = MediaError) -> av.container.InputContainer:
    """Open `path` for reading.

    Raises `error` (`MediaError` or `AudioError`) for a missing file, a folder, an empty, unreadable, cut off or
    foreign file.
    """
    path = Path(path)
    check_input(path, error)
    try:
        is_webp = is_animated_webp(path)
        # "file:" keeps a colon in a name from being read as a protocol.
        container = av.open(
            AnimatedWebp(path) if is_webp else f"file:{path}",
            format="nut" if is_webp else None,
            container_options={"protocol_whitelist": "file"},
            options=_OPENING_OPTIONS,
            metadata_errors="ignore",
        )
    except PermissionError as reason:
        raise error(f"'{path}' may not be read: permission denied. Check the file's permissions.") from reason
    except (av.FFmpegError, OSError) as reason:
        if _index_is_missing(path):
            raise error(
                f"'{path}' is cut off: its index (moov) is missing, as after an interrupted recording or download. "
                "Copy or download it again, or repair it first."
            ) from reason
        raise error(
            f"'{path}' is not a video or audio file, or its beginning is damaged ({reason.strerror or reason}). "
            "Expected a file such as mp4, mov, mkv, webm, wav, mp3, m4a or flac."
        ) from reason
    if _UNWANTED_FORMATS & set(container.format.name.split(",")):
        container.close()
        raise error(f"'{path}' is a text file or playlist ({container.format.name}); expected the media file itself.")
    return container


def video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The container's moving picture, or None; cover pictures and thumbnails do not count.

    A still beside it, as in animated AVIF, comes last.
    """
    streams = [stream for stream in container.streams.video if not stream.disposition & _NOT_A_MOVIE]
    return max(streams, key=lambda one: (bool(one.disposition & Disposition.default), one.frames > 1), default=None)


def has_cover(container: av.container.InputContainer) -> bool:
    """Whether the only picture in the container is a cover."""
    return bool(container.streams.video) and video_stream(container) is None


def decode_stream(container: av.container.InputContainer, stream: av.stream.Stream) -> Iterator[av.frame.Frame]:
    """Decode `stream` from where the container stands, frame by frame.

    A damaged file is tolerated: what does not decode is skipped, the frames after it keep their own timestamps, and
    one warning is logged at the end. A read error ends the stream after the frames read so far.
    """
    damaged, trouble = 0, None
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.FFmpegError, OSError) as reason:
            trouble = reason
            break
        try:
            frames = packet.decode()
        except EOFError:
            continue
        except av.FFmpegError as reason:
            damaged, trouble = damaged + 1, reason
            continue
        yield from frames
    if trouble is not None:
        logger.warning(
            "'%s' is damaged: %s; %d packets were skipped (%s)",
            container.name.removeprefix("file:"),
            stream.type,
            damaged,
            trouble,
        )


def scan_duration(path: str | os.PathLike, stream_index: int) -> float:
    """Seconds from the first to the end of the last packet, for files whose header names no duration (0 if empty)."""
    first = last = None
    with open_media(path) as container:
        stream = container.streams[stream_index]
        try:
            for packet in container.demux(stream):
                if packet.pts is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    last = max(last or packet.pts, packet.pts + (packet.duration or 0))
        except (av.FFmpegError, OSError) as reason:
            logger.warning("'%s' is damaged; its length is taken up to the damage (%s)", path, reason)
        return float((last - first) * stream.time_base) if first is not None else 0.0


def _index_is_missing(path: Path) -> bool:
    """Whether an ISO media file (mp4, mov, m4a) has no `moov` box among the boxes that can still be reached."""
    size, position, seen = path.stat().st_size, 0, []
    with path.open("rb") as file:
        while position + 8 <= size and len(seen) < 64:
            file.seek(position)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            seen.append(kind)
            if length < 8:  # 0: the box reaches to the end of the file; anything else is no box
                break
            position += length
    return bool(seen) and seen[0] in (b"ftyp", b"wide", b"mdat") and b"moov" not in seen
