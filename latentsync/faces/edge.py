"""A generated face made to join the picture it is pasted into, on the face's own square.

The source's face is known on the same square, so what is added is the difference of the two: fitted along the edge in
colour and gain, and blended by feather, in bands of detail (Burt & Adelson, 1983) or without a step in gradients (Pérez
et al., "Poisson Image Editing", 2003). All of it vanishes with the difference.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
from scipy.sparse import csc_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor

from ..errors import OptionError
from .colours import mouth_weight

# Where in its square a face is pasted: the distance to the edge of a hole, and the ramp across that edge.
#
# Everything is measured in sides of the face's square, on a grid of its own, so that masks, faces and frames of any
# resolution give the same edge in the frame.

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


# The edge of a face

GRID_SIDE = 64  # px, of everything that is smooth
EDGE_BAND = 0.03  # sides to both sides of the edge in which colours are compared
EDGE_REACH = 4.0  # px of the grid: standard deviation of what they are averaged over
GAIN_TOE = 16.0  # grey levels: darker pixels are shifted rather than multiplied
MAX_GAIN = 1.25
# Grey levels: where face and source differ by more along the edge they show different things, say background and a jaw
# that moved, and what is learnt of one would tint the other. The rest is for edges that agree nowhere.
AGREEING, LEAST_AGREEMENT = 20.0, 0.005
BANDS = (1 / 128, 1 / 32)  # sides: standard deviations between fine, middle and coarse detail
BAND_RAMPS = (0.25, 0.5, 1.0)  # of the feather's width, for each of them
# Of the brightness (with the toe): where face and source differ less the frame stays as it is; more, none of it does.
ALIKE, UNLIKE = 0.03, 0.1
LIP_TOLERANCE = 0.3  # of that around the lips, whose small movements are what all this is for
ALIKE_SIDE = 128  # px, of the grid on which that is decided
SURROUNDINGS = 5  # px of it: detail beside what has changed, such as the old lips' outline, does not come back either


class Feather:
    """The difference as it is: the ramp alone fades one picture into the other."""

    def __init__(self, shape: BlendShape, side: int):
        pass

    def __call__(self, difference: np.ndarray) -> np.ndarray:
        return difference


class MultiBand:
    """Finer detail changes within a narrower ramp (Burt & Adelson, 1983)."""

    def __init__(self, shape: BlendShape, side: int):
        self.shape, self.side = shape, side

    @cached_property
    def _weights(self) -> list[np.ndarray]:
        """(S', S', 1) each: alpha of a band over the alpha of the widest ramp, which is applied in the frame."""
        ramp = resized(self.shape.ramp, self.side)
        alphas = [self.shape.eased(0.5 + (ramp - 0.5) / width) for width in BAND_RAMPS]
        return [(alpha / np.maximum(alphas[-1], 1e-6))[..., None] for alpha in alphas]

    def __call__(self, difference: np.ndarray) -> np.ndarray:
        smooth = [difference, *(cv2.GaussianBlur(difference, (0, 0), sigma * self.side) for sigma in BANDS)]
        bands = [*(finer - coarser for finer, coarser in pairwise(smooth)), smooth[-1]]
        return sum(weight * band for weight, band in zip(self._weights, bands, strict=True))


class Poisson:
    """The difference along the ramp's outer edge is taken back, smoothly over the whole shape (Pérez et al., 2003)."""

    def __init__(self, shape: BlendShape, side: int):
        self.shape, self.side, self._grid = shape, side, min(GRID_SIDE, side)

    @cached_property
    def _domain(self):
        """Where Laplace is solved (g, g), the solver, and the matrix from the values around to its right side."""
        inside = resized((self.shape.ramp > 0).astype(np.float32), self._grid) > 0
        inside[[0, -1]] = inside[:, [0, -1]] = False
        number = inside.size
        index = np.arange(number).reshape(inside.shape)
        steps = [(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]
        first, second = (np.concatenate([pair[k].ravel() for pair in steps]) for k in (0, 1))
        neighbours = csc_matrix((np.ones(len(first)), (first, second)), (number, number))
        neighbours = (neighbours + neighbours.T).tocsr()
        rows = neighbours[inside.ravel()]
        laplacian = diags(np.full(int(inside.sum()), 4.0)) - rows[:, inside.ravel()]
        return inside, splu(laplacian.tocsc()) if inside.any() else None, rows[:, ~inside.ravel()]

    def __call__(self, difference: np.ndarray) -> np.ndarray:
        return difference - self._membrane(difference)

    def _membrane(self, difference: np.ndarray) -> np.ndarray:
        """(S', S', 3): the smoothest surface with the difference's values around the shape."""
        inside, solver, edge = self._domain
        small = resized(difference, self._grid).astype(np.float64)
        if solver is not None:
            small[inside] = solver.solve(edge @ small[~inside])
        return resized(small.astype(np.float32), self.side)


# How the edge is hidden, by the names that options.py has. Made for a shape and the side S' of the faces; called with
# the difference of face and source, (S', S', 3) float32 in grey levels. What it gives is added to the source.
BLEND_METHODS = {"feather": Feather, "multiband": MultiBand, "poisson": Poisson}


class Harmoniser:
    """Fits faces of one side into one shape; what depends on the shape alone is made once.

    side        S', px of the faces
    method      of BLEND_METHODS
    edge_match  colour and gain along the edge are made the source's
    """

    def __init__(self, shape: BlendShape, side: int, method: str = "feather", edge_match: bool = True):
        if method not in BLEND_METHODS:
            raise OptionError(f"unknown blend method {method!r}: choose one of {', '.join(BLEND_METHODS)}")
        self.shape, self.side, self.edge_match = shape, side, edge_match
        self._blended = BLEND_METHODS[method](shape, side)
        self._grid = min(GRID_SIDE, side)

    def __call__(self, face: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What to paste: levels (S', S', 3), and the share (N, N) in [0, 1] of the frame itself that is added to them.

        Colours are the generated face's; the share brings back the frame's own detail, which the square could not hold,
        as the difference between the frame and its face on the square. So a share that varies draws no contour.

        face, source: (S', S', 3) float32 in grey levels. The share is 1 where both are alike, so that the frame keeps
        what model and square could not hold of it: a face equal to the source gives levels 0 and the share 1.
        """
        if self.edge_match:
            face = self._edge_matched(face, source)
        difference = self._blended(face - source)
        share = self._share(difference, source)
        return difference + source * (1 - resized(share, self.side)[..., None]), share

    def _share(self, difference: np.ndarray, source: np.ndarray) -> np.ndarray:
        """How much of the frame stays."""
        side = min(ALIKE_SIDE, self.side)
        unlike = resized(np.abs(difference), side).max(2) / (resized(source, side).max(2) + GAIN_TOE)
        unlike = cv2.dilate(unlike, np.ones((SURROUNDINGS, SURROUNDINGS))) / self._tolerance
        return cv2.GaussianBlur(ease((UNLIKE - unlike) / (UNLIKE - ALIKE)), (0, 0), SURROUNDINGS / 2)

    @cached_property
    def _tolerance(self) -> np.ndarray:
        side = min(ALIKE_SIDE, self.side)
        lips = cv2.GaussianBlur((mouth_weight(side).numpy() < 1).astype(np.float32), (0, 0), side / 64)
        return 1 - (1 - LIP_TOLERANCE) * lips

    @cached_property
    def _edge_weight(self) -> np.ndarray:
        """(g, g, 1): 1 at the edge, falling to both sides; nowhere nothing, so that averages are defined everywhere."""
        distance = resized(self.shape.distance, self._grid)
        return (np.exp(-0.5 * (distance / EDGE_BAND) ** 2) + 1e-6)[..., None]

    def _edge_matched(self, face: np.ndarray, source: np.ndarray) -> np.ndarray:
        """Gain from averages along the edge, carried on smoothly into the face (normalised convolution)."""
        small_face, small_source = resized(face, self._grid), resized(source, self._grid)
        unlike = np.abs(small_face - small_source).max(2, keepdims=True)
        weight = self._edge_weight * (np.exp(-((unlike / AGREEING) ** 2)) + LEAST_AGREEMENT)
        pair = np.dstack([small_face, small_source]) + GAIN_TOE
        averages = cv2.GaussianBlur(pair * weight, (0, 0), EDGE_REACH * self._grid / GRID_SIDE)
        gain = np.clip(averages[..., 3:] / np.maximum(averages[..., :3], 1e-9), 1 / MAX_GAIN, MAX_GAIN)
        return (face + GAIN_TOE) * resized(gain, self.side) - GAIN_TOE
