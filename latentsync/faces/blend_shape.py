"""Where in its square a face is pasted: the distance to the edge of a hole, and the ramp across that edge.

Everything is measured in sides of the face's square, on a grid of its own, so that masks, faces and frames of any
resolution give the same edge in the frame.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from torch import Tensor

from ..errors import OptionError

FEATHER_WIDTH = 0.1  # sides, at feather 1: from fully generated to fully original
CONTOUR_MARGIN = 0.04  # sides by which a shape of landmarks reaches beyond them: a jaw drops lower in another word
_HARDEST = 1e-6  # sides: the ramp of a hard edge, far below a pixel
_SUBPIXEL_BITS = 4  # of the polygons' corners


@dataclass(frozen=True, eq=False)
class BlendShape:
    """A hole with a feathered edge.

    distance  (M, M) float32, sides from the hole's edge, positive inside
    feather   0 hard edge .. 1 softest: the ramp's width, a tenth of the side at 1, half of it on each side of the edge
    """

    distance: np.ndarray
    feather: float

    def __post_init__(self):
        if not 0 <= self.feather <= 1:
            raise OptionError(f"feather must be from 0 (hard edge) to 1 (softest), got {self.feather}")

    @cached_property
    def ramp(self) -> np.ndarray:
        """(M, M) float32, not bounded: 0 and less where the source is kept, 1 and more where the face covers it.

        It falls to 0 at the border of the square too, so that a hole which touches it leaves no seam. A ramp may be
        resampled before `ease` bounds it, so that a hard edge is as sharp as the pixels it is drawn in.
        """
        width = max(self.feather * FEATHER_WIDTH, _HARDEST)
        border = np.arange(len(self.distance), dtype=np.float32)
        border = np.minimum(border, border[::-1]) / (len(self.distance) * width / 2)
        return np.minimum(0.5 + self.distance / width, np.minimum(border[:, None], border[None, :]))

    def alpha(self, side: int) -> np.ndarray:
        """(side, side) float32 in [0, 1] over the square, 1 = generated."""
        return self.eased(resized(self.ramp, side))

    def eased(self, ramp: np.ndarray) -> np.ndarray:
        """The ramp, resampled perhaps, as alpha in [0, 1]: all or nothing for a hard edge."""
        return ease(ramp) if self.feather > 0 else (ramp >= 0.5).astype(np.float32)

    def within(self, contour: np.ndarray) -> "BlendShape":
        """What of the hole a polygon with a margin leaves; contour (K, 2) px of the grid."""
        corners = np.rint(contour * 2**_SUBPIXEL_BITS).astype(np.int32)
        polygon = np.zeros(self.distance.shape, np.uint8)
        cv2.fillPoly(polygon, [corners], 1, shift=_SUBPIXEL_BITS)
        return BlendShape(np.minimum(self.distance, signed_distance(polygon) + CONTOUR_MARGIN), self.feather)


def ease(ramp: np.ndarray) -> np.ndarray:
    """Ramp -> alpha in [0, 1], without a kink at its ends."""
    ramp = np.clip(ramp, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """(M, M[, C]) over the square -> (side, side[, C]); averaged where it becomes smaller."""
    if len(image) == side:
        return image
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if side < len(image) else cv2.INTER_LINEAR)


def signed_distance(hole: np.ndarray) -> np.ndarray:
    """(M, M) uint8, 1 inside the hole -> (M, M) float32 sides from its edge, positive inside, at most 1.

    The hole is taken to go on beyond the border of the square.
    """
    inside = cv2.distanceTransform(np.pad(hole, 1, mode="edge"), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # distances are from centre to centre: the edge lies half a pixel nearer. No edge at all gives huge ones: bounded.
    distance = np.minimum(np.where(hole, inside, outside), len(hole)) - 0.5
    return (np.where(hole, distance, -distance) / len(hole)).astype(np.float32)


def shape_of_mask(mask: Tensor | np.ndarray, feather: float = 0.5) -> BlendShape:
    """Keep-mask (M, M) in [0, 1] -> the shape of its hole, where it is below a half."""
    return BlendShape(signed_distance((np.asarray(mask, np.float32) < 0.5).astype(np.uint8)), feather)


def feathered_hole(mask: Tensor | np.ndarray, feather: float = 0.5) -> np.ndarray:
    """Keep-mask (M, M) -> alpha (M, M) float32: 1 in the hole, 0 away from it (see BlendShape)."""
    return shape_of_mask(mask, feather).alpha(len(mask))
