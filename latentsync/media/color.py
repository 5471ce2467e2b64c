"""Colour tags, and conversion between a file's YUV and the RGB that everything else works on.

Tags are the code points of ISO/IEC 23091-2 (H.273), as FFmpeg uses them. Reader and writer convert with the same
matrix and range and without swscale's fast paths, which darken a picture by about one level: a decode, encode,
decode round trip keeps the mean colour. PyAV from 14.2 on is served alike.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from .container import PYAV

LIMITED, FULL = 1, 2
BT709, UNSPECIFIED, BT601 = 1, 2, 6
PQ, HLG = 16, 18  # transfer curves: SMPTE 2084, ARIB STD-B67
# What swscale can convert, to its own numbering; constant-luminance BT.2020 is taken as the usual kind.
_SWSCALE_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
# swscale's flags BILINEAR, ACCURATE_RND, FULL_CHR_H_INT and FULL_CHR_H_INP, which PyAV names only since 18.0.
_EXACT = 0x2 | 0x40000 | 0x2000 | 0x4000


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
        return self.transfer in (PQ, HLG)

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


# What HDR is taken to BT.709 with, in linear light of which 1 is the white of an ordinary picture: ITU-R BT.2408.
_WHITE = 203.0  # cd/m2
_PEAK = 1000.0  # cd/m2, of the screen that HLG is meant for, and of the brightest that PQ keeps apart from white
_KNEE = 0.7  # of white: up to it light stays as it is, what lies above is squeezed below white
_CODES = 4096  # 12 bits
_BT2020_LUMINANCE = np.array([[0.2627, 0.6780, 0.0593]], np.float32)
_BT2020_TO_BT709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]], np.float32
)


class HdrMapper:
    """Takes PQ (SMPTE 2084) or HLG (ARIB STD-B67) with BT.2020 primaries to BT.709, by the light that codes stand for.

    swscale can do that only in recent releases, and wrongly for 4:2:0 in some of them.
    """

    def __init__(self, transfer: int):
        codes = np.linspace(0, 1, _CODES)
        self._is_hlg = transfer == HLG
        if self._is_hlg:  # to the camera's light, of which 1 is the brightest; ITU-R BT.2100, table 5
            a, b, c = 0.17883277, 0.28466892, 0.55991073
            light = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
        else:  # to the screen's light; ITU-R BT.2100, table 4
            m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
            power = codes ** (1 / m2)
            light = (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * (10_000 / _WHITE)
        self._light = light.astype(np.float32)
        self._brighter = ((_PEAK / _WHITE) * codes ** (2 * 0.2)).astype(np.float32)
        self._values = np.rint(255 * codes ** (2 / 2.4)).astype(np.uint8)

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint16 full range 12-bit R'G'B' -> (H, W, 3) uint8 R'G'B'."""
        light = self._light.take(codes)
        if self._is_hlg:  # the screen's light: brighter by a power of the luminance
            luminance = cv2.transform(light, _BT2020_LUMINANCE)
            light *= self._brighter.take(_steps(luminance))[..., None]
        light = np.maximum(cv2.transform(light, _BT2020_TO_BT709), 0)
        top = np.maximum(np.maximum(light[..., 0], light[..., 1]), light[..., 2])
        light *= _squeezed(top)[..., None]
        return self._values.take(_steps(light))


def _steps(light: np.ndarray) -> np.ndarray:
    """Places in a table of _CODES square roots: its steps are small where it is dark."""
    return np.rint(cv2.sqrt(np.clip(light, 0, 1)) * (_CODES - 1)).astype(np.uint16)


def _squeezed(top: np.ndarray) -> np.ndarray:
    """The factor by which a pixel becomes darker whose brightest channel is `top`; its hue stays."""
    span, room = _PEAK / _WHITE - _KNEE, 1 - _KNEE
    over = np.clip((top - _KNEE) / span, 0, 1)
    slope = span / room  # of the curve at the knee, where it goes on as straight as it comes
    return (np.minimum(top, _KNEE) + room * slope * over / (1 + (slope - 1) * over)) / np.maximum(top, 1e-6)


class RgbConverter:
    """Turns decoded frames into RGB pixels.

    More than 8 bits become 8. HDR (PQ, HLG) becomes BT.709 (`HdrMapper`), because the models, the face detector and
    8-bit H.264 all expect ordinary pictures.
    """

    def __init__(self, tags: ColorTags):
        self._stream_tags = tags
        self._reformatter = VideoReformatter()
        self._from_hdr = HdrMapper(tags.transfer) if tags.is_hdr else None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8 RGB; may be a view with padded rows."""
        colours = {}
        if not (frame.format.is_rgb or frame.format.has_palette):
            tags = self._tags(frame).assumed(frame.width, frame.height)
            matrix = colours["src_colorspace"] = _SWSCALE_MATRICES[tags.matrix]
            if PYAV < (17, 0):  # which heeds the source's matrix only where it differs from that of RGB, which has none
                colours["dst_colorspace"] = BT601 if matrix == BT709 else BT709
            colours["src_color_range"], colours["dst_color_range"] = tags.color_range, FULL
        layout = "rgb24" if self._from_hdr is None else "gbrp12le"
        rgb = self._reformatter.reformat(frame, format=layout, interpolation=_EXACT, **colours).to_ndarray()
        return rgb if self._from_hdr is None else self._from_hdr(rgb)

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
