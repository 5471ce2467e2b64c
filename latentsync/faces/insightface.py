"""The reference's own detector, with model files the user brings: SCRFD-10G and 106 landmarks on onnxruntime.

`det_10g.onnx` and `2d106det.onnx` of InsightFace's buffalo_l pack are for non-commercial research only; they are
neither bundled nor fetched. The released U-Nets were trained on crops from these landmarks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange

from ..errors import ForeignCheckpointError, ModelNotFoundError, OptionError
from .finder import FaceObservation, is_among, overlap

DETECTION_SIDE = 512  # px; the reference used 640 for a few weeks in spring 2025
STRIDES = (8, 16, 32)
ANCHORS_PER_CELL = 2
MIN_SCORE = 0.5
SUPPRESSION_IOU = 0.4
MIN_WIDTH, MIN_HEIGHT = 50, 80  # px
MAX_ASPECT, MIN_ASPECT = 1.5, 0.2  # width / height
LANDMARK_MARGIN = 1.5
NUM_LANDMARKS = 106

LEFT_BROW = (43, 48, 49, 51, 50)
RIGHT_BROW = (101, 102, 103, 104, 105)
NOSE = (74, 77, 83, 86)


@dataclass(frozen=True)
class ScoredBoxes:
    """`boxes` (N, 4) float32 px x0 y0 x1 y1, `scores` (N,) float32."""

    boxes: np.ndarray
    scores: np.ndarray


class InsightFaceDetector:
    """A FaceFinder and a FaceDetector (see finder.py) as the reference has it: RGB frames although the nets expect
    BGR, faces below 50 x 80 px or of odd proportions dropped, 106 landmarks and the three points rounded to whole px.

    detection_path, landmark_path  the two .onnx files
    device     on CUDA the sessions run on the GPU, if this onnxruntime can; where it cannot they run on the CPU, and
               `notices` says so
    follow     when called, stay with the face that overlaps the previous one; False takes the largest in every
               frame, as the reference does, which may jump between people
    rounded    round landmarks, then points, to whole px as the reference does; False spares half a pixel of jitter
    Raises ModelNotFoundError for a missing file, OptionError without onnxruntime, ForeignCheckpointError for a file
    that is another kind of model.
    """

    def __init__(
        self,
        detection_path: str | Path,
        landmark_path: str | Path,
        *,
        device: torch.device | str = "cpu",
        follow: bool = True,
        rounded: bool = True,
    ):
        self._detection = _session(detection_path, device, num_outputs=3 * len(STRIDES))
        self._landmarks = _session(landmark_path, device, num_outputs=1)
        found = (_notice(session, device) for session in (self._detection, self._landmarks))
        self.notices: tuple[str, ...] = tuple(dict.fromkeys(filter(None, found)))
        self.rounded, self._stays = rounded, follow
        self._latest: tuple[np.ndarray, ScoredBoxes] | None = None  # several faces are followed in one frame

    def __call__(self, frame: np.ndarray, previous: FaceObservation | None = None) -> FaceObservation | None:
        followed = self.follow(frame, previous) if self._stays and previous is not None else None
        if followed is not None:
            return followed
        found = self.boxes(frame)
        return self._read(frame, found, 0) if len(found.boxes) else None

    def detect(self, frame: np.ndarray, known: Sequence[FaceObservation] = ()) -> list[FaceObservation]:
        """All acceptable faces of a frame (H, W, 3) uint8 RGB but the `known` ones, largest first."""
        found = self.boxes(frame)
        return [self._read(frame, found, index) for index, box in enumerate(found.boxes) if not is_among(box, known)]

    def follow(self, frame: np.ndarray, previous: FaceObservation) -> FaceObservation | None:
        """The face that overlaps `previous` most."""
        found = self.boxes(frame)
        overlaps = [overlap(box, previous.box) for box in found.boxes]
        return self._read(frame, found, int(np.argmax(overlaps))) if max(overlaps, default=0) > 0 else None

    def boxes(self, frame: np.ndarray) -> ScoredBoxes:
        """All faces of a frame (H, W, 3) uint8 RGB with score 0.5 and more that pass the size filters, in frame px,
        largest first."""
        if self._latest is None or self._latest[0] is not frame:
            canvas, scale = letterbox(frame)
            tensor = cv2.dnn.blobFromImage(canvas, 1 / 128, mean=(127.5, 127.5, 127.5), swapRB=True)
            outputs = self._detection.run(None, {self._detection.get_inputs()[0].name: tensor})
            found = suppress(decode_scrfd(outputs, DETECTION_SIDE))
            boxes = found.boxes / scale
            keep = sorted((i for i, box in enumerate(boxes) if acceptable(box)), key=lambda i: -_area(boxes[i]))
            self._latest = (frame, ScoredBoxes(boxes[keep], found.scores[keep]))
        return self._latest[1]

    def _read(self, frame: np.ndarray, found: ScoredBoxes, index: int) -> FaceObservation:
        landmarks = self.landmarks(frame, found.boxes[index])
        if self.rounded:
            landmarks = np.round(landmarks)
        points = points_of_106(landmarks, self.rounded)
        return FaceObservation(found.boxes[index], None, points, float(found.scores[index]))

    def landmarks(self, frame: np.ndarray, box: np.ndarray) -> np.ndarray:
        """106 landmarks (106, 2) float32 px of the face in `box` (4,)."""
        entry = self._landmarks.get_inputs()[0]
        side = entry.shape[2] if isinstance(entry.shape[2], int) else 192
        scale = side / (max(box[2] - box[0], box[3] - box[1]) * LANDMARK_MARGIN)
        centre = (box[:2] + box[2:]) / 2
        matrix = np.array([[scale, 0, side / 2 - scale * centre[0]], [0, scale, side / 2 - scale * centre[1]]])
        crop = cv2.warpAffine(frame, matrix, (side, side), borderValue=0)
        output = self._landmarks.run(None, {entry.name: cv2.dnn.blobFromImage(crop, swapRB=True)})[0]
        if output.size < 2 * NUM_LANDMARKS:
            raise ForeignCheckpointError(f"expected 212 numbers from the 106-landmark model, got {output.shape}")
        unit = output.reshape(-1, 2)[-NUM_LANDMARKS:]
        return (((unit + 1) * (side // 2) - matrix[:, 2]) / scale).astype(np.float32)


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def _session(path: str | Path, device: torch.device | str, num_outputs: int):
    path, device = Path(path), torch.device(device)
    if not path.is_file():
        raise ModelNotFoundError(f"no face model at {path}: give the path of the file, or use the built-in detector")
    try:
        import onnxruntime
    except ImportError as error:
        raise OptionError("the ONNX face detector needs onnxruntime: pip install onnxruntime") from error
    attempts = [[CPU]]
    if device.type == "cuda" and CUDA in onnxruntime.get_available_providers():
        # TF32 would move landmarks that are rounded to whole px.
        attempts.insert(0, [(CUDA, {"device_id": device.index or 0, "use_tf32": "0"}), CPU])
    for providers in attempts:
        try:
            session = onnxruntime.InferenceSession(str(path), providers=providers)
            break
        except Exception as error:  # onnxruntime's error classes share no base but this one
            if providers is attempts[-1]:
                raise ForeignCheckpointError(f"{path} cannot be opened as an ONNX model: {error}") from error
    if len(session.get_outputs()) < num_outputs:
        raise ForeignCheckpointError(f"{path} has {len(session.get_outputs())} outputs, expected {num_outputs}")
    return session


def _notice(session, device: torch.device | str) -> str | None:
    """What to say where a session is not on the GPU that it might use: onnxruntime goes over to the CPU in silence."""
    import onnxruntime

    if torch.device(device).type != "cuda" or torch.version.hip or CUDA in session.get_providers():
        return None
    if CUDA not in onnxruntime.get_available_providers():
        return (
            "InsightFace's models run on the CPU, as this onnxruntime has nothing for the GPU; `pip uninstall "
            "onnxruntime`, then `pip install onnxruntime-gpu` makes finding faces faster"
        )
    return (
        "InsightFace's models run on the CPU, as onnxruntime could not use the GPU: usually its version wants another "
        f"CUDA or cuDNN than torch's {torch.version.cuda}; finding faces takes longer, the faces are the same"
    )


def letterbox(frame: np.ndarray, side: int = DETECTION_SIDE) -> tuple[np.ndarray, float]:
    """Frame in the top left corner of a black (side, side, 3) canvas, and the scale from frame to canvas."""
    height, width = frame.shape[:2]
    longest = max(height, width)
    size = (max(int(side * width / longest), 1), max(int(side * height / longest), 1))
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(frame, size)
    return canvas, size[1] / height


def decode_scrfd(outputs: Sequence[np.ndarray], side: int) -> ScoredBoxes:
    """The net's raw outputs -> candidates of score 0.5 and more in canvas px.

    `outputs` are scores for strides 8, 16, 32, each (cells * 2, 1), then distances to the four sides in strides, each
    (cells * 2, 4); what follows (key points) is not read. A leading batch dimension of 1 is accepted.
    """
    boxes, scores = [], []
    for level, stride in enumerate(STRIDES):
        level_scores = outputs[level].reshape(-1)
        distances = outputs[level + len(STRIDES)].reshape(-1, 4) * stride
        cells = side // stride
        if len(level_scores) != cells * cells * ANCHORS_PER_CELL or len(distances) != len(level_scores):
            raise ForeignCheckpointError(
                f"expected {cells * cells * ANCHORS_PER_CELL} candidates at stride {stride}, got {len(level_scores)}"
            )
        y, x = np.mgrid[:cells, :cells] * stride
        centres = np.repeat(rearrange([x, y], "xy h w -> (h w) xy"), ANCHORS_PER_CELL, axis=0)
        keep = level_scores >= MIN_SCORE
        low, high = centres - distances[:, :2], centres + distances[:, 2:]
        boxes.append(np.concatenate([low, high], 1)[keep])
        scores.append(level_scores[keep])
    return ScoredBoxes(np.concatenate(boxes).astype(np.float32), np.concatenate(scores).astype(np.float32))


def suppress(found: ScoredBoxes, max_iou: float = SUPPRESSION_IOU) -> ScoredBoxes:
    """Greedy non-maximum suppression, best score first. Boxes count their last pixel (+1), as the reference's do."""
    order = np.argsort(-found.scores, kind="stable")
    boxes, kept = found.boxes, []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2] + 1, axis=1)
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        intersection = np.prod(np.maximum(high - low + 1, 0), axis=1)
        order = rest[intersection / (areas[best] + areas[rest] - intersection) <= max_iou]
    index = np.array(kept, dtype=int)
    return ScoredBoxes(boxes[index], found.scores[index])


def acceptable(box: np.ndarray) -> bool:
    """The reference's filters, on the box truncated to whole px."""
    x0, y0, x1, y1 = (int(value) for value in box)
    width, height = x1 - x0, y1 - y0
    return width >= MIN_WIDTH and height >= MIN_HEIGHT and MIN_ASPECT <= width / height <= MAX_ASPECT


def points_of_106(landmarks: np.ndarray, rounded: bool = True) -> np.ndarray:
    """(106, 2) px -> left brow, right brow, nose (3, 2) float32 px, to whole px as the reference does."""
    points = np.stack([landmarks[list(part)].mean(0) for part in (LEFT_BROW, RIGHT_BROW, NOSE)])
    return (np.round(points) if rounded else points).astype(np.float32)


def _area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
