"""Colour tags, and conversion between a file's YUV and the RGB that everything else works on.

Tags are the code points of ISO/IEC 23091-2 (H.273), as FFmpeg uses them. Reader and writer convert with the same
matrix and range and without swscale's fast paths, which darken a picture by about one level: a decode, encode,
decode round trip keeps the mean colour.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

LIMITED, FULL = 1, 2
BT709, UNSPECIFIED, BT601 = 1, 2, 6
_TRANSFERS_HDR = frozenset({16, 18})  # PQ (SMPTE 2084) and HLG (ARIB STD-B67)
# What swscale can convert, to its own numbering; constant-luminance BT.2020 is taken as the usual kind.
_SWSCALE_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_EXACT = int(
    Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True)
class ColorTags:
    """How the numbers in a video stand for colours; the defaults mean "not said"."""

    color_range: int = 0  # 1 limited (16-235), 2 full (0-255)
    matrix: int = UNSPECIFIED  # YUV matrix ("colorspace"): 1 BT.709, 5 and 6 BT.601, 9 BT.2020
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer curve is PQ or HLG."""
        return self.transfer in _TRANSFERS_HDR

    def assumed(self, width: int, height: int) -> "ColorTags":
        """These tags with the gaps filled as players fill them: BT.709 for HD, BT.601 for SD, limited range."""
        is_hd = max(width, height) >= 1280 or min(width, height) > 576
        matrix = self.matrix if self.matrix in _SWSCALE_MATRICES else (BT709 if is_hd else BT601)
        return replace(self, color_range=self.color_range or LIMITED, matrix=matrix)

    def for_output(self, width: int, height: int) -> "ColorTags":
        """The tags to write for frames read with these tags: the same, but HDR has become BT.709."""
        return BT709_TAGS if self.is_hdr else self.assumed(width, height)


BT709_TAGS = ColorTags(LIMITED, BT709, BT709, BT709)


def stream_tags(context: av.VideoCodecContext) -> ColorTags:
    """The tags a stream declares; the deprecated yuvj formats are full range whether tagged or not."""
    color_range = int(context.color_range) if int(context.color_range) in (LIMITED, FULL) else 0
    if (context.pix_fmt or "").startswith("yuvj"):
        color_range = FULL
    return ColorTags(color_range, int(context.colorspace), int(context.color_primaries), int(context.color_trc))


class RgbConverter:
    """Turns decoded frames into RGB pixels.

    More than 8 bits become 8. HDR (PQ, HLG) is tone-mapped to BT.709, because the models, the face detector and
    8-bit H.264 all expect ordinary pictures; about 2 s once and 27 CPU-ms a 1080p frame, against 6 otherwise.
    """

    def __init__(self, tags: ColorTags):
        self._stream_tags = tags
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB; may be a view with padded rows."""
        if frame.format.is_rgb or frame.format.has_palette:
            return self._reformatter.reformat(frame, format="rgb24", interpolation=_EXACT).to_ndarray()
        tags = self._tags(frame).assumed(frame.width, frame.height)
        to_bt709 = {"dst_color_trc": BT709, "dst_color_primaries": BT709} if tags.is_hdr else {}
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24",
            interpolation=_EXACT,
            src_colorspace=_SWSCALE_MATRICES[tags.matrix],
            src_color_range=tags.color_range,
            dst_color_range=FULL,
            **to_bt709,
        )
        return rgb.to_ndarray()

    def _tags(self, frame: av.VideoFrame) -> ColorTags:
        # The container may know what the coded frames do not say.
        own, stream = ColorTags(int(frame.color_range), int(frame.colorspace)), self._stream_tags
        return replace(
            stream,
            color_range=stream.color_range if stream.color_range == FULL else own.color_range or stream.color_range,
            matrix=stream.matrix if own.matrix == UNSPECIFIED else own.matrix,
        )


class YuvConverter:
    """Turns RGB pixels into frames for an encoder, with the given (complete) tags."""

    def __init__(self, tags: ColorTags, pixel_format: str, chroma_location: str = "unspecified"):
        """`chroma_location`: FFmpeg's name for where the decoder will take the chroma samples to lie."""
        self._tags, self._pixel_format = tags, pixel_format
        self._chroma_location = chroma_location
        self._reformatter, self._rounding = VideoReformatter(), VideoReformatter()
        self._siting: av.filter.Graph | None = None

    def __call__(self, pixels: np.ndarray) -> av.VideoFrame:
        """Encoder frame of (H, W, 3) uint8 RGB `pixels`."""
        matrix, color_range = _SWSCALE_MATRICES[self._tags.matrix], self._tags.color_range
        # swscale cuts off, and does not round, when it widens chroma to full range: half a level in 8 bits, nothing
        # to speak of in 12.
        widen = color_range == FULL
        frame = self._reformatter.reformat(
            self._sited(av.VideoFrame.from_ndarray(pixels, format="rgb24")),
            format=f"{self._pixel_format}12le" if widen else self._pixel_format,
            interpolation=_EXACT,
            src_color_range=FULL,
            dst_colorspace=matrix,
            dst_color_range=color_range,
        )
        if not widen:
            return frame
        return self._rounding.reformat(
            frame,
            format=self._pixel_format,
            interpolation=_EXACT,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=FULL,
            dst_color_range=FULL,
        )

    def _sited(self, frame: av.VideoFrame) -> av.VideoFrame:
        # PyAV cannot set the siting that swscale looks at; a filter can. Without it chroma moves half a pixel.
        if self._siting is None:
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
            )
            setter = graph.add("setparams", f"chroma_location={self._chroma_location}")
            sink = graph.add("buffersink")
            source.link_to(setter)
            setter.link_to(sink)
            graph.configure()
            self._siting = graph
        self._siting.push(frame)
        return self._siting.pull()
