"""The reference's paste: the whole aligned rectangle with a soft border. For parity, so its arithmetic is repeated."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .alignment import FILL, canvas_size
from .frame_region import BlendRegion, blend, canvas_to_frame, empty_region, frame_box


def paste_rectangle(
    pasted: np.ndarray, pixels: Tensor, matrix: np.ndarray, resolution: int, protect: np.ndarray | None, weight: float
) -> None:
    """Face (3, S', S') float32 in [-1, 1] into a frame, in place; see FaceBlender.paste. Levels are cut off."""
    to_frame, canvas = canvas_to_frame(matrix), canvas_size(resolution)
    region, eroded = reference_region(pasted.shape, to_frame, canvas)
    if region.alpha.size:
        warped = _face_in_box(pixels, to_frame, region.box, canvas) * eroded[..., None]
        blend(pasted, region, warped, protect, weight, rounded=False)


def reference_region(
    frame_shape: tuple, to_frame: np.ndarray, canvas: tuple[int, int]
) -> tuple[BlendRegion, np.ndarray]:
    """The reference's soft rectangle, and its hard one (h, w) that multiplies the face.

    The warped rectangle is eroded by 2 x 2 px: the hard one. Eroded by twice the edge width and blurred: the alpha.
    The edge width is a twentieth of the square root of the rectangle's area inside the frame.
    """
    width, height = canvas
    box = frame_box(to_frame, (0, 0, width - 1, height - 1), frame_shape)
    if box is None:
        return empty_region(), np.zeros((0, 0), np.float32)
    ones = torch.ones(1, 1, height, width)
    hard = _sample(ones, to_frame, box)[0, 0].numpy()
    eroded = cv2.erode(hard, np.ones((2, 2), np.uint8), anchor=(1, 1))
    edge = int(np.sqrt(eroded.sum(dtype=np.float64))) // 20
    centre = cv2.erode(eroded, np.ones((2 * edge, 2 * edge), np.uint8)) if edge else eroded
    kernel = 2 * edge + 1
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    soft = cv2.GaussianBlur(centre, (kernel, kernel), sigma, borderType=cv2.BORDER_REFLECT_101)
    return BlendRegion(box, soft), eroded


def _face_in_box(face: Tensor, to_frame: np.ndarray, box: tuple, canvas: tuple[int, int]) -> np.ndarray:
    """Face resized to the canvas and drawn into the box: (h, w, 3) float32 in 0..255.

    Outside the canvas the reference's fill of 127 counts in the face's own range, where it is far beyond white.
    """
    width, height = canvas
    resized = F.interpolate(face[None], (height, width), mode="bicubic", antialias=True)
    warped = _sample(resized - FILL, to_frame, box)[0] + FILL
    return ((warped / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()


def _sample(source: Tensor, to_frame: np.ndarray, box: tuple) -> Tensor:
    """Source (1, C, h, w) drawn into the box, bilinear, zeros outside, positions exact in float32."""
    to_source = np.linalg.inv(to_frame)[:2]
    size = np.array([source.shape[3], source.shape[2]])
    theta = to_source * (2 / size)[:, None]
    theta[:, 2] += 1 / size - 1
    columns = torch.arange(box[0], box[2], dtype=torch.float64)
    rows = torch.arange(box[1], box[3], dtype=torch.float64)
    theta = torch.from_numpy(theta)
    grid = (rows[:, None, None] * theta[:, 1] + theta[:, 2]) + columns[None, :, None] * theta[:, 0]
    return F.grid_sample(source, grid.float()[None], mode="bilinear", padding_mode="zeros", align_corners=False)
