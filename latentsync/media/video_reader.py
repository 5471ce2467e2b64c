"""Reading a video: its facts, and its frames as RGB arrays, one at a time."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..errors import MediaError
from .color import PQ, ColorTags, RgbConverter, stream_tags
from .container import scan_duration
from .frame_selection import FrameSelection
from .limits import MAX_SECONDS
from .marking import DRAWN
from .orientation import Orientation, frame_orientation
from .video_decoder import VideoDecoder

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
