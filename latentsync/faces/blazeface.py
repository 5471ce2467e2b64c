"""BlazeFace, full range: faces and six key points in a whole frame (Bazarevsky et al., 2019; MediaPipe's model)."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ..model_files import ASSETS
from .graph import load_graph

WEIGHTS = ASSETS / "face" / "blazeface_full192.safetensors"
INPUT_SIDE = 192  # px
ANCHOR_GRID = 48  # cells a side, one anchor each
DECIMATED_SIDE = 1536  # px; larger frames are thinned towards it before averaging
MIN_SCORE = 0.5
MERGE_IOU = 0.3
MIN_SQUARE = 64  # px; in a frame with a shorter side no small face could be told
MIN_EXCESS = 0.2  # of the short side, by which the long side must be longer for squares to see more than the whole
MIDDLE = 0.2  # of the side of a picture of one face, within which its middle lies
FILL_SCALES = (1.0, 0.5)  # share of the net's input the frame's long side takes: first try, second try


@dataclass(frozen=True)
class FaceDetection:
    """One face in a frame.

    box        (4,) px: x0 y0 x1 y1
    keypoints  (6, 2) px: eyes, nose, mouth, ears; of a pair the left one in the image first
    score      0..1
    """

    box: np.ndarray
    keypoints: np.ndarray
    score: float

    @property
    def area(self) -> float:
        return float(np.prod(np.maximum(self.box[2:] - self.box[:2], 0)))


class BlazeFace:
    """`detector(frame)` with `frame` (H, W, 3) uint8 RGB of any size gives the detections, largest first.

    The frame is shrunk to 192 px on its long side, so only the shrinking costs more for a larger one. A face that fills
    the frame is larger than the net was trained for: where nothing is found, the frame is tried again at half scale,
    with a border. A face narrower than a seventeenth of the frame's long side is too small for that: a frame that is
    not square is searched in overlapping squares, which brings a whole person in a 16:9 frame into reach. Last, the
    frame is turned by 180 degrees: the left keypoint of a pair is then the left one of the turned frame.
    """

    def __init__(self, device: torch.device | str = "cpu", min_score: float = MIN_SCORE):
        self.device, self.min_score = torch.device(device), min_score
        self._graph = load_graph(WEIGHTS, device)
        cell = (torch.arange(ANCHOR_GRID) + 0.5) * (INPUT_SIDE / ANCHOR_GRID)
        rows, columns = torch.meshgrid(cell, cell, indexing="ij")
        self._anchors = torch.stack([columns, rows], -1).reshape(-1, 2)

    def __call__(self, frame: np.ndarray) -> list[FaceDetection]:
        for fill in FILL_SCALES:
            found = self._detect(frame, fill)
            if found:
                return found
        return self._detect_in_squares(frame) or self._detect(frame, 1.0, is_turned=True)

    def sees_face(self, picture: np.ndarray) -> bool:
        """Whether an upright face fills the middle of a picture (192, 192, 3) uint8 RGB."""
        middles = [(face.box[:2] + face.box[2:]) / 2 for face in self._detect(picture, 1.0)]
        return any((np.abs(middle / INPUT_SIDE - 0.5) < MIDDLE).all() for middle in middles)

    def _detect_in_squares(self, frame: np.ndarray) -> list[FaceDetection]:
        """Faces in squares of the frame's short side that overlap by half; one in two squares may come twice."""
        height, width = frame.shape[:2]
        side, excess = min(height, width), abs(width - height)
        if side < MIN_SQUARE or excess < side * MIN_EXCESS:
            return []
        found = []
        for place in np.linspace(0, excess, 1 + -(-2 * excess // side)).round().astype(int):
            x, y = (int(place), 0) if width > height else (0, int(place))
            corner = np.array([x, y])
            found += [
                FaceDetection((face.box.reshape(2, 2) + corner).reshape(4), face.keypoints + corner, face.score)
                for face in self._detect(frame[y : y + side, x : x + side], 1.0)
            ]
        return sorted(found, key=lambda face: -face.area)

    @torch.inference_mode()
    def _detect(self, frame: np.ndarray, fill: float, is_turned: bool = False) -> list[FaceDetection]:
        canvas, scale, offset = _letterbox(frame, fill)
        if is_turned:
            canvas = np.ascontiguousarray(canvas[::-1, ::-1])
        pixels = torch.from_numpy(canvas).to(self.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        regressions, logits = (output[0].cpu() for output in self._graph(pixels))
        scores = logits[:, 0].clamp(-100, 100).sigmoid()
        keep = scores > self.min_score
        boxes, keypoints = _decode(regressions[keep], self._anchors[keep])
        merged = _merge(boxes, keypoints, scores[keep])
        if is_turned:  # both corners of the box change places
            turned = [(box.reshape(2, 2)[::-1].reshape(4), points, score) for box, points, score in merged]
            merged = [(INPUT_SIDE - box, INPUT_SIDE - points, score) for box, points, score in turned]
        to_frame = [
            FaceDetection(
                ((box.reshape(2, 2) - offset) / scale - 0.5).reshape(4), (points - offset) / scale - 0.5, score
            )
            for box, points, score in merged
        ]
        return sorted(to_frame, key=lambda face: -face.area)


def _letterbox(frame: np.ndarray, fill: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame shrunk into the middle of a black (192, 192, 3) uint8 canvas; then scale (2,) and offset (2,) of it."""
    height, width = frame.shape[:2]
    step = max(1, max(height, width) // DECIMATED_SIDE)
    frame = frame[::step, ::step]  # averaging all of an 8K frame would cost 0.1 s
    factor = INPUT_SIDE * fill / max(height, width)
    size = np.maximum(np.rint([width * factor, height * factor]).astype(int), 1)
    offset = (INPUT_SIDE - size) // 2
    shrinking = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((INPUT_SIDE, INPUT_SIDE, 3), np.uint8)
    canvas[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = cv2.resize(
        frame, (int(size[0]), int(size[1])), interpolation=shrinking
    )
    return canvas, size / np.array([width, height]), offset


def _decode(regressions: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 16) centre, size and six points, in px from the anchor -> corner boxes (N, 4), keypoints (N, 6, 2) in px."""
    centre = regressions[:, :2] + anchors
    half = regressions[:, 2:4] / 2
    keypoints = regressions[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
    return torch.cat([centre - half, centre + half], 1), keypoints


def _merge(boxes: Tensor, keypoints: Tensor, scores: Tensor) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Non-maximum suppression that averages overlapping candidates by score, as BlazeFace's authors do: less jitter."""
    merged = []
    while len(scores):
        best = int(scores.argmax())
        group = _iou(boxes[best], boxes) > MERGE_IOU
        group[best] = True
        weights = scores[group, None] / scores[group].sum()
        box = (boxes[group] * weights).sum(0)
        points = (keypoints[group] * weights[..., None]).sum(0)
        merged.append((box.numpy().astype(np.float64), points.numpy().astype(np.float64), float(scores[best])))
        boxes, keypoints, scores = boxes[~group], keypoints[~group], scores[~group]
    return merged


def _iou(box: Tensor, boxes: Tensor) -> Tensor:
    """(4,) against (N, 4) corner boxes -> (N,) intersection over union."""
    size = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(min=0)
    intersection = size.prod(1)
    return intersection / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - intersection).clamp(
        min=1e-9
    )
