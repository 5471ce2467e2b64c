"""FaceMesh: 468 landmarks from a rotated square around a face (Kartynnik et al., 2019; MediaPipe's model)."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import torch

from ..errors import OptionError
from ..model_files import ASSETS
from .graph import load_graph

WEIGHTS = ASSETS / "face" / "facemesh468.safetensors"
INPUT_SIDE = 192  # px
NUM_LANDMARKS = 468
MARGIN = 1.5  # side of the region over the longest side of the face
EYE_CORNERS = (33, 263)  # outer, image left and right
INNER_LIPS = (13, 14)  # middle of the upper and of the lower

# left and right of the face as seen in the image: corners of eyes and mouth, ends of brows, sides of face and jaw
MIRRORED = ((33, 263), (61, 291), (70, 300), (127, 356), (234, 454), (172, 397))

# The mesh flattens a turned face: faces turned by a known angle measure two thirds of it, from 10 to 70 degrees.
YAW_GAIN = 1.5

# The three points of the alignment template; this is the one place that says which mesh points make them. What differs
# between models is the nose. The released U-Nets were trained on crops from InsightFace's 106 points, whose nose the
# points around the nostrils give without bias. The upper ones lie 7 % of the distance of the eyes higher, so that crops
# come out 4 % larger and the mouth 4.7 px lower at 256 px: models that were trained on such crops keep them.
Framing = Literal["insightface", "mesh"]
NOSES = {"insightface": (5, 4, 129, 358), "mesh": (195, 5, 4, 1)}
LEFT_BROW = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55)  # left in the image
RIGHT_BROW = (300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
# A closed polygon around what speech moves: along the jaw from ear to ear, and back over the cheeks and below the nose.
LOWER_FACE = (
    *(93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323),
    *(411, 425, 327, 2, 98, 205, 187),
)


@dataclass(frozen=True)
class FaceRegion:
    """A rotated square in frame px: `centre` (2,), `side`, `angle` in radians (positive turns x towards y)."""

    centre: np.ndarray
    side: float
    angle: float

    def to_frame(self) -> np.ndarray:
        """(2, 3) matrix from unit coordinates (0..1 in the square) to frame px, pixel centres at whole numbers."""
        cosine, sine = math.cos(self.angle) * self.side, math.sin(self.angle) * self.side
        turn = np.array([[cosine, -sine], [sine, cosine]])
        return np.concatenate([turn, (self.centre - turn @ [0.5, 0.5])[:, None]], 1)


def region_of_keypoints(box: np.ndarray, keypoints: np.ndarray) -> FaceRegion:
    """Region from a detection: box (4,) corners px, keypoints (6, 2) px whose first two are the eyes."""
    size = box[2:] - box[:2]
    return FaceRegion((box[:2] + box[2:]) / 2, float(size.max()) * MARGIN, _angle(keypoints[0], keypoints[1]))


def region_of_landmarks(landmarks: np.ndarray) -> FaceRegion:
    """Region from an earlier result: (468, 2) px."""
    angle = _angle(landmarks[EYE_CORNERS[0]], landmarks[EYE_CORNERS[1]])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    upright = landmarks @ turn
    low, high = upright.min(0), upright.max(0)
    return FaceRegion(turn @ ((low + high) / 2), float((high - low).max()) * MARGIN, angle)


def _angle(left_eye: np.ndarray, right_eye: np.ndarray) -> float:
    return math.atan2(right_eye[1] - left_eye[1], right_eye[0] - left_eye[0])


class FaceMesh:
    """`mesh(frame, region)` with `frame` (H, W, 3) uint8 RGB gives landmarks (468, 3) float32 px and confidence 0..1.

    The third coordinate is depth, growing away from the viewer, from a zero of its own. Landmarks may lie outside the
    frame. Reads only the pixels of the region; outside the frame it is black.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._graph = load_graph(WEIGHTS, device)

    @torch.inference_mode()
    def __call__(self, frame: np.ndarray, region: FaceRegion) -> tuple[np.ndarray, float]:
        crop = region_picture(frame, region)
        pixels = torch.from_numpy(crop).to(self.device).permute(2, 0, 1)[None].float() / 255
        points, logit = (output.flatten().float().cpu() for output in self._graph(pixels))
        unit = points.reshape(NUM_LANDMARKS, 3).double().numpy() / INPUT_SIDE
        matrix = region.to_frame()
        flat = unit[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        landmarks = np.concatenate([flat, unit[:, 2:] * region.side], 1)
        return landmarks.astype(np.float32), float(logit.sigmoid())


def region_picture(frame: np.ndarray, region: FaceRegion) -> np.ndarray:
    """The region as (192, 192, 3) uint8; a region much larger than that is first shrunk by averaging (no aliasing)."""
    height, width = frame.shape[:2]
    matrix = region.to_frame()
    corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]) @ matrix.T
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, [width, height])
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, 0, [width, height])
    if (high <= low).any():
        return np.zeros((INPUT_SIDE, INPUT_SIDE, 3), np.uint8)
    patch = frame[low[1] : high[1], low[0] : high[0]]
    scale = np.ones(2)
    shrink = region.side / INPUT_SIDE
    if shrink > 1.5:
        size = np.maximum(np.rint((high - low) / shrink).astype(int), 1)
        patch = cv2.resize(patch, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
        scale = size / (high - low)
    # unit -> crop px is (p + .5) / 192; frame px -> patch px is (p - low + .5) * scale - .5
    inverse = np.empty((2, 3))
    inverse[:, :2] = matrix[:, :2] / INPUT_SIDE
    inverse[:, 2] = matrix[:, :2].sum(1) * (0.5 / INPUT_SIDE) + matrix[:, 2] - low
    inverse[:, :2] *= scale[:, None]
    inverse[:, 2] = (inverse[:, 2] + 0.5) * scale - 0.5
    return cv2.warpAffine(patch, inverse, (INPUT_SIDE, INPUT_SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def alignment_points(landmarks: np.ndarray, framing: Framing = "mesh") -> np.ndarray:
    """(468, 2) px -> (3, 2) float32 px: left brow, right brow (in the image) and nose, in the template's order."""
    parts = (LEFT_BROW, RIGHT_BROW, NOSES[framing])
    return np.stack([landmarks[list(part)].mean(0) for part in parts]).astype(np.float32)


def checked_framing(framing: object, path: Path) -> Framing:
    """What the description of a model's file says. Raises OptionError for anything else than a framing."""
    if framing not in get_args(Framing):
        raise OptionError(
            f"The description of {path} has framing {str(framing)[:80]!r}; expected {' or '.join(get_args(Framing))}."
        )
    return framing


def mouth_opening(landmarks: np.ndarray) -> float:
    """Distance of the inner lips over the distance of the outer eye corners: about 0 closed, 0.3 and more wide open."""
    upper, lower = landmarks[INNER_LIPS[0]], landmarks[INNER_LIPS[1]]
    left, right = landmarks[EYE_CORNERS[0]], landmarks[EYE_CORNERS[1]]
    return float(np.linalg.norm(upper - lower) / max(float(np.linalg.norm(left - right)), 1e-6))


def head_yaw(landmarks: np.ndarray) -> float:
    """Degrees by which the face (468, 3) px turns to the picture's right, negative to its left; 0 is frontal.

    The direction in depth of what lies straight across a face, made up for what the mesh flattens. Beyond some 70
    degrees there is no mesh.
    """
    left, right = (landmarks[[pair[side] for pair in MIRRORED]].astype(np.float64) for side in (0, 1))
    across = (right - left).sum(0)
    return YAW_GAIN * math.degrees(math.atan2(across[2], math.hypot(across[0], across[1])))
