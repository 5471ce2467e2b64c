"""An anti-aliased painter of implicit shapes in a coordinate system of one's own.

A shape is a signed distance in head units (negative inside). Each is evaluated only on the pixels of its bounding
box, which makes a face of some fifty shapes cost a few milliseconds.
"""

from collections.abc import Callable

import numpy as np

Box = tuple[float, float, float, float]
Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ellipse(x0: float, y0: float, a: float, b: float) -> Shape:
    """Signed distance (first order, exact on the outline) of an axis-parallel ellipse with half axes a and b."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = (x - x0) / a, (y - y0) / b
        r2 = u * u + v * v
        gradient = np.sqrt((u / a) ** 2 + (v / b) ** 2) + 1e-6
        return (r2 - 1) / (2 * gradient)

    return distance


def between(top: Callable[[np.ndarray], np.ndarray], bottom: Callable[[np.ndarray], np.ndarray]) -> Shape:
    """The region under the curve ``top`` and above the curve ``bottom`` (y grows downwards)."""
    return lambda x, y: np.maximum(top(x) - y, y - bottom(x))


class Canvas:
    """An RGB picture, float32 (H, W, 3) in 0..255, painted in the coordinates of ``pixel_to_space``.

    pixel_to_space: (2, 3) affine matrix from pixel centres (x right, y down) to the space the shapes live in.
    """

    def __init__(self, pixels: np.ndarray, pixel_to_space: np.ndarray):
        self.pixels = pixels
        height, width = pixels.shape[:2]
        m = np.asarray(pixel_to_space, np.float32)
        columns, rows = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
        self.x = m[0, 0] * columns + m[0, 1] * rows + m[0, 2]
        self.y = m[1, 0] * columns + m[1, 1] * rows + m[1, 2]
        self.pixel_size = float(np.sqrt(abs(np.linalg.det(m[:, :2].astype(np.float64)))))
        inverse = np.linalg.inv(np.vstack([m.astype(np.float64), [0, 0, 1]]))
        self._to_pixel = inverse[:2]

    def region(self, box: Box) -> tuple[slice, slice]:
        """The pixel rows and columns that cover ``box`` = (x0, y0, x1, y1) in space units."""
        x0, y0, x1, y1 = box
        corners = np.array([[x0, x1, x0, x1], [y0, y0, y1, y1], [1, 1, 1, 1]])
        px, py = self._to_pixel @ corners
        height, width = self.pixels.shape[:2]
        rows = slice(int(np.clip(py.min() - 2, 0, height)), int(np.clip(py.max() + 3, 0, height)))
        columns = slice(int(np.clip(px.min() - 2, 0, width)), int(np.clip(px.max() + 3, 0, width)))
        return rows, columns

    def paint(self, box: Box, shape: Shape, colour, softness: float = 0.0, opacity: float = 1.0) -> None:
        """Blend ``colour`` (3,) or a function (x, y) -> (h, w, 3) over the inside of ``shape``.

        softness: width of the edge in space units; never less than one pixel, so edges are anti-aliased.
        """
        rows, columns = self.region(box)
        x, y = self.x[rows, columns], self.y[rows, columns]
        if x.size == 0:
            return
        alpha = np.clip(0.5 - shape(x, y) / max(softness, self.pixel_size), 0, 1)[..., None] * np.float32(opacity)
        colour = colour(x, y) if callable(colour) else np.asarray(colour, np.float32)
        target = self.pixels[rows, columns]
        target += alpha * (colour - target)
