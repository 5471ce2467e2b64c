"""Which way up a frame is meant to be seen: the display matrix of phone videos, the EXIF data of photos."""

import os
from dataclasses import dataclass

import av
import cv2
import numpy as np
from PIL import ExifTags

from ..errors import MediaError
from .pictures import NoPictureError, opened_picture


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
