"""Cosine of ArcFace's embeddings: whether it is the same person, by a network of the user's own (onnxruntime)."""

from pathlib import Path

import cv2
import numpy as np

from ..errors import DamagedCheckpointError, OptionError
from .clip_pair import PairFrame
from .measured import Measured

SIDE = 112
# Where InsightFace puts eyes, tip of the nose and corners of the mouth in its square, px.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
LEFT_EYE, RIGHT_EYE, NOSE_TIP, LEFT_CORNER, RIGHT_CORNER = (33, 133), (362, 263), (1,), (61,), (291,)  # mesh points


class ArcFace:
    """Mean cosine of the embeddings of result and reference; 1 the same, about 0 for strangers.

    path: an ONNX file that takes (N, 3, 112, 112) RGB in [-1, 1], such as w600k_r50.onnx.
    Raises OptionError without onnxruntime, DamagedCheckpointError for a file that it cannot read.
    """

    def __init__(self, path: str | Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise OptionError("ArcFace needs onnxruntime, which is not there: pip install onnxruntime") from error
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes share no other base
            raise DamagedCheckpointError(
                f"{path} is no ONNX network ({str(error)[:200]}). Download it again."
            ) from error
        self._input = self._session.get_inputs()[0].name
        self._values: list[float] = []

    def add(self, frame: PairFrame) -> None:
        if frame.landmarks is None or frame.true_landmarks is None:
            return
        faces = [
            arcface_crop(face, marks)
            for face, marks in ((frame.face, frame.landmarks), (frame.reference_face, frame.true_landmarks))
        ]
        pixels = np.stack(faces).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        found = [self._session.run(None, {self._input: one[None]})[0][0] for one in pixels]
        first, second = (one.astype(np.float64) / np.linalg.norm(one) for one in found)
        self._values.append(float(first @ second))

    def result(self) -> Measured:
        values, self._values = self._values, []
        return Measured(np.array(values))


def arcface_crop(face: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) uint8 with landmarks (468, 2) px in it -> (112, 112, 3) uint8, by a similarity transform."""
    parts = (LEFT_EYE, RIGHT_EYE, NOSE_TIP, LEFT_CORNER, RIGHT_CORNER)
    points = np.stack([landmarks[list(part)].mean(0) for part in parts])
    matrix, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)
    return cv2.warpAffine(face, matrix, (SIDE, SIDE))
