"""Reading a video: its facts, and its frames as RGB arrays, one at a time."""

import os
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice

import av
import cv2
import numpy as np
from PIL import ExifTags

from ..errors import MediaError
from .color import PQ, ColorTags, RgbConverter, stream_tags
from .container import MAX_SECONDS, NoPictureError, opened_picture, scan_duration
from .length_modes import LengthMode, repeats
from .marking import DRAWN
from .video_decoder import FrameSelection, VideoDecoder

# Which way up a frame is meant to be seen: the display matrix of phone videos, the EXIF data of photos.


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn and mirror a frame: transpose first, then flip."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @property
    def rotation(self) -> int:
        """Counter-clockwise turn in degrees that shows the frame upright: 0, 90, 180 or -90; mirroring apart."""
        if self.transpose:
            return 90 if self.flip_y else -90
        return 180 if self.flip_y else 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Displayed (width, height) of a coded frame."""
        return (height, width) if self.transpose else (width, height)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Upright, contiguous (H, W, 3) uint8 pixels of a coded frame."""
        if self.transpose:
            pixels = cv2.transpose(pixels)
        if self.flip_x or self.flip_y:
            pixels = cv2.flip(pixels, -1 if self.flip_x and self.flip_y else int(self.flip_x))
        return np.ascontiguousarray(pixels)


def frame_orientation(frame: av.VideoFrame, path: str | os.PathLike) -> Orientation:
    """Orientation of the file at `path`, whose `frame` was decoded, in quarter turns; upright where it tells none.

    The frame's display matrix takes a coded pixel (x, y) to the displayed (a x + c y, b x + d y), with a, b, c, d its
    elements 0, 1, 3 and 4 in 16.16 fixed point.
    """
    try:
        side_data = list(frame.side_data)
    except ValueError:  # PyAV gives none where it does not know one of them; it does not know EXIF data, as in photos
        return _exif_orientation(path) or _ROTATED.get(frame.rotation, Orientation())
    for item in side_data:
        # Iteration gives positions in some PyAV releases and the items themselves in others.
        if getattr(item, "type", None) is not None and item.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(item), np.int32)[:5])
            if abs(b) + abs(c) > abs(a) + abs(d):
                return Orientation(transpose=True, flip_x=c < 0, flip_y=b < 0)
            return Orientation(flip_x=a < 0, flip_y=d < 0)
    return _exif_orientation(path) or Orientation()  # older releases of FFmpeg read it in JPEG alone


_ROTATED = {
    90: Orientation(transpose=True, flip_y=True),
    -90: Orientation(transpose=True, flip_x=True),
    180: Orientation(flip_x=True, flip_y=True),
    -180: Orientation(flip_x=True, flip_y=True),
}
# The values of EXIF's tag Orientation, in order from 1.
_EXIF = (
    Orientation(),
    Orientation(flip_x=True),
    Orientation(flip_x=True, flip_y=True),
    Orientation(flip_y=True),
    Orientation(transpose=True),
    Orientation(transpose=True, flip_x=True),
    Orientation(transpose=True, flip_x=True, flip_y=True),
    Orientation(transpose=True, flip_y=True),
)


def _exif_orientation(path: str | os.PathLike) -> Orientation | None:
    """What a picture's EXIF data say; None for what is no picture, or a damaged one, or says nothing."""
    try:
        with opened_picture(path, MediaError, "the picture") as image:
            value = image.getexif().get(ExifTags.Base.Orientation)
    except (NoPictureError, MediaError):
        return None
    return _EXIF[value - 1] if isinstance(value, int) and 1 <= value <= len(_EXIF) else None


# The reader

OPAQUE = 250  # of 255; coding with losses does not leave alpha whole


@dataclass(frozen=True)
class VideoFacts:
    """What a video file says about itself; sizes are those of the picture as shown."""

    width: int  # px, after rotation
    height: int  # px, after rotation
    rotation: int  # counter-clockwise degrees that were applied: 0, 90, 180 or -90
    fps: Fraction  # average rate
    time_base: Fraction  # seconds per timestamp tick
    duration: float  # s
    num_frames: int | None  # as declared, or estimated from the duration
    has_audio: bool
    color: ColorTags  # as found in the file
    pixel_format: str  # FFmpeg's name, e.g. yuv420p10le
    codec: str
    sample_aspect_ratio: Fraction  # width to height of one pixel as shown
    is_drawn: bool = False  # says of itself that it shows drawn avatars, see synthetic/
    notices: tuple[str, ...] = ()  # what will not come out as one would expect, a line for a person each

    @property
    def output_color(self) -> ColorTags:
        """The tags to write for frames read from this file."""
        return self.color.for_output(self.width, self.height)


@dataclass(frozen=True)
class VideoFrame:
    """One frame, upright."""

    pixels: np.ndarray  # (H, W, 3) uint8 RGB, contiguous; a repeated frame shares its array: treat as read-only
    time: float  # s from the first frame of the clip
    pts: int  # the same in ticks: of the file's time base, or of 1 / fps where fps was given
    index: int  # 0, 1, 2, ... in the order given
    source_index: int  # which source frame of the clip this shows; differs from `index` where frames repeat
    is_repeat: bool = False  # comes after the whole clip was shown, see playback.read_playback


class FrameConverter:
    """Turns decoded frames into upright RGB, keeping the last one for repeats."""

    def __init__(self, decoder: VideoDecoder):
        self._to_rgb = RgbConverter(stream_tags(decoder.stream.codec_context))
        self._orientation: Orientation = frame_orientation(decoder.first, decoder.path)
        self._size = (decoder.first.width, decoder.first.height)
        self._path = decoder.path
        self._last: tuple[object, np.ndarray] | None = None

    def __call__(self, frame) -> np.ndarray:
        """(H, W, 3) uint8 RGB of an `av.VideoFrame`. Raises `MediaError` where the picture changes its size."""
        if (frame.width, frame.height) != self._size:
            raise MediaError(
                f"The picture in '{self._path}' changes from {self._size[0]}x{self._size[1]} to "
                f"{frame.width}x{frame.height} on the way; expected one size. Export the video again with a fixed size."
            )
        if self._last is None or self._last[0] is not frame:
            self._last = (frame, self._orientation.apply(self._to_rgb(frame)))
        return self._last[1]


def probe_video(path: str | os.PathLike) -> VideoFacts:
    """Facts about the video at `path`; decodes its first frame.

    Raises `MediaError` where `path` is missing, a folder, not a video, cut off, without pictures or empty.
    """
    with VideoDecoder(path) as decoder:
        stream, first = decoder.stream, decoder.first
        context = stream.codec_context
        orientation = frame_orientation(first, path)
        width, height = orientation.size(first.width, first.height)
        # The container's word first, as players take it: ProRes, for one, has no place for it in its own stream.
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        if stream.duration:
            duration = float(stream.duration * decoder.time_base)
        else:
            duration = decoder.declared_duration or scan_duration(path, stream.index)
        # There is one frame at least: it was decoded above.
        duration = min(max(duration, float(1 / decoder.fps)), MAX_SECONDS)
        return VideoFacts(
            width=width,
            height=height,
            rotation=orientation.rotation,
            fps=decoder.fps,
            time_base=decoder.time_base,
            duration=duration,
            num_frames=stream.frames or max(1, round(duration * decoder.fps)),
            has_audio=decoder.has_audio,
            color=stream_tags(context),
            pixel_format=first.format.name,
            codec=context.name,
            sample_aspect_ratio=1 / aspect if orientation.transpose else aspect,
            is_drawn=decoder.comment == DRAWN,
            notices=tuple(_notices(decoder)),
        )


def _notices(decoder: VideoDecoder) -> Iterator[str]:
    tags, bits = stream_tags(decoder.stream.codec_context), decoder.first.format.components[0].bits
    if tags.is_hdr:
        yield (
            f"the video is HDR ({'PQ' if tags.transfer == PQ else 'HLG'}): the result is an ordinary picture (BT.709, "
            "8 bits). Where its bright parts should look otherwise, convert the video to SDR first"
        )
    elif bits > 8:
        yield f"the video has {bits} bits a colour, the result has 8: smooth walls and skies may show bands"
    if decoder.first.interlaced_frame:
        yield (
            "the video is interlaced, two moments in each frame: it is deinterlaced, one progressive frame for each of "
            f"its frames. For smoother movement deinterlace it to {float(2 * decoder.fps):g} frames a second first, as "
            "ffmpeg's filter bwdif does"
        )
    if _is_transparent(decoder):
        yield (
            "the video has transparent parts: the result is opaque and shows the colours that lie beneath them. For "
            "another background lay the video over it first"
        )


def _is_transparent(decoder: VideoDecoder) -> bool:
    """Whether the first frame lets anything through, or the container says that another stream holds what does."""
    first = decoder.first
    if first.format.has_palette or any(component.is_alpha for component in first.format.components):
        return bool(first.reformat(format="rgba").to_ndarray()[..., 3].min() < OPAQUE)
    # VP8 and VP9: the decoder gives the colours alone.
    return any(key.lower() == "alpha_mode" and value == "1" for key, value in decoder.stream.metadata.items())


def read_frames(
    path: str | os.PathLike, *, start: float = 0.0, duration: float | None = None, fps: Fraction | float | None = None
) -> Iterator[VideoFrame]:
    """Frames of the video at `path`, upright, in RGB, one in memory at a time.

    start, duration: the part to read, in seconds from the video's first frame; frames nearest to that window.
    fps: None keeps the file's own frames and timestamps, constant or variable; a rate resamples by timestamps
        (`FrameSelection`).

    Damaged stretches are skipped with a logged warning. Raises `MediaError` as `probe_video` does, and where no frame
    lies in the window; `OptionError` for a negative start, an empty duration or an impossible rate.
    """
    rate = None if fps is None else exact_rate(fps)
    with VideoDecoder(path) as decoder:
        selection = FrameSelection(decoder, start, duration, rate)
        convert = FrameConverter(decoder)
        index = -1
        for index, selected in enumerate(selection):
            time = float(selected.pts * selection.time_base)
            yield VideoFrame(convert(selected.frame), time, selected.pts, index, selected.source_index)
        if index < 0:
            raise no_frames(path, start)


def video_length(path: str | os.PathLike) -> float:
    """Seconds from the first frame to the end of the last one, by the packets in the file and not by what it declares.

    Reads all of the file without decoding it. Raises `MediaError` as `probe_video` does.
    """
    with VideoDecoder(path) as decoder:
        index, shortest = decoder.stream.index, float(decoder.interval * decoder.time_base)
    return max(scan_duration(path, index), shortest)


def exact_rate(fps: Fraction | float) -> Fraction:
    """A frame rate as a fraction: 29.97 and its kin become 30000/1001."""
    rate = Fraction(fps)
    ntsc = Fraction(round(rate * 1001 / 1000) * 1000, 1001)
    return ntsc if rate != ntsc and abs(rate - ntsc) < rate / 4000 else rate.limit_denominator(100_000)


def no_frames(path: str | os.PathLike, start: float) -> MediaError:
    """The error for a window beyond the end of the video."""
    return MediaError(f"'{path}' has no frame at or after {start:g} s. Choose a start within the video.")


# Reading a video on beyond its end, for speech that is longer than the video.

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
