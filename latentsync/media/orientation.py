"""The display matrix of phone videos: which way up a frame is meant to be seen."""

from dataclasses import dataclass

import av
import cv2
import numpy as np


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


def frame_orientation(frame: av.VideoFrame) -> Orientation:
    """Orientation from the frame's display matrix, rounded to quarter turns; upright without one.

    The matrix takes a coded pixel (x, y) to the displayed (a x + c y, b x + d y), with a, b, c, d its elements
    0, 1, 3 and 4 in 16.16 fixed point.
    """
    for side_data in frame.side_data:
        # Iteration gives positions in some PyAV releases and the items themselves in others.
        if getattr(side_data, "type", None) is not None and side_data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(side_data), np.int32)[:5])
            if abs(b) + abs(c) > abs(a) + abs(d):
                return Orientation(transpose=True, flip_x=c < 0, flip_y=b < 0)
            return Orientation(flip_x=a < 0, flip_y=d < 0)
    return Orientation()
