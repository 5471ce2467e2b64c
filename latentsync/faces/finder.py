"""From frames to faces: detect once, then follow the landmarks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from ..model_files import Framing
from .detect import (
    BlazeFace,
    FaceDetection,
    FaceMesh,
    FaceRegion,
    alignment_points,
    head_yaw,
    region_of_keypoints,
    region_of_landmarks,
    region_picture,
)

MIN_CONFIDENCE = 0.5
MIN_SIDE = 12.0  # px; a smaller face holds no mouth to speak of
MAX_MOVE = 0.06  # of the region's side: beyond it the landmarks are read again from a region around themselves
MAX_GROWTH = 1.6  # between frames; more is another face or no face
WITNESS_SIDE = 1.3  # of the mesh's region: the detector wants some room around a face
SAME_FACE = 0.3  # intersection over union of two detections of one face


@dataclass(frozen=True)
class FaceObservation:
    """What is known of the face in one frame.

    box         (4,) float32 px, x0 y0 x1 y1, around the landmarks; may reach outside the frame
    landmarks   (468, 2) float32 px, FaceMesh order, or None where the detector has none
    points      (3, 2) float32 px: left brow, right brow (as seen in the image), nose: of the framing "mesh", or the
                detector's own where it has no landmarks
    confidence  0..1 that this is a face
    yaw         degrees, see detect.head_yaw; None where the detector cannot tell
    """

    box: np.ndarray
    landmarks: np.ndarray | None
    points: np.ndarray
    confidence: float
    yaw: float | None = None

    def framed(self, framing: Framing) -> np.ndarray:
        """(3, 2) float32 px: the points that a model of this framing is aligned by."""
        return self.points if self.landmarks is None else alignment_points(self.landmarks, framing)


class FaceFinder(Protocol):
    """Finds all faces of a frame (H, W, 3) uint8 RGB and follows one of them. Has no state that a result depends on."""

    def detect(self, frame: np.ndarray, known: Sequence[FaceObservation] = ()) -> list[FaceObservation]:
        """All faces but those at the places of `known` ones, largest first."""
        ...

    def follow(self, frame: np.ndarray, previous: FaceObservation) -> FaceObservation | None:
        """The face that was at `previous` a moment before; None where there is none now."""
        ...


FaceDetector = Callable[[np.ndarray, FaceObservation | None], FaceObservation | None]
"""(frame (H, W, 3) uint8 RGB, the latest observation or None) -> observation, or None where there is no face."""


class FaceTracker:
    """A FaceFinder on BlazeFace and FaceMesh, and a FaceDetector of one face.

    `tracker(frame, previous)`: with `previous`, the landmarks are sought where they were, which needs no detection;
    when that fails (cut, occlusion) faces are detected again. Of several faces the one that overlaps `previous` most is
    kept, else the largest. All state is in `previous`, so one tracker can serve many clips. Pass the last face that was
    found, also over frames without one, to stay with the same person.
    """

    def __init__(self, device: torch.device | str = "cpu", min_confidence: float = MIN_CONFIDENCE):
        self.detector = BlazeFace(device)
        self.mesh = FaceMesh(device)
        self.min_confidence = min_confidence

    def __call__(self, frame: np.ndarray, previous: FaceObservation | None = None) -> FaceObservation | None:
        check_frame(frame)
        if previous is not None and previous.landmarks is not None:
            observation = self.follow(frame, previous)
            if observation is not None:
                return observation
        faces = self.detector(frame)  # the largest first
        if previous is not None:
            faces = sorted(faces, key=lambda face: -overlap(face.box, previous.box))
        for face in faces:
            observation = self._read_detected(frame, face)
            if observation is not None:
                return observation
        return None

    def detect(self, frame: np.ndarray, known: Sequence[FaceObservation] = ()) -> list[FaceObservation]:
        """All faces of a frame (H, W, 3) uint8 RGB but the `known` ones, largest first."""
        check_frame(frame)
        faces: list[FaceObservation] = []
        for detection in self.detector(frame):
            if is_among(detection.box, known):
                continue  # before its landmarks are read: that is the larger part of the work
            face = self._read_detected(frame, detection)
            if face is not None and not is_among(face.box, [*known, *faces]):
                faces.append(face)
        return sorted(faces, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))

    def follow(self, frame: np.ndarray, previous: FaceObservation | FaceRegion) -> FaceObservation | None:
        """The face that was at `previous`, in a frame (H, W, 3) uint8 RGB, without any detection; None where there is
        none. Landmarks are read again, from a region around themselves, where the region did not fit them well.

        Raises ValueError for an observation without landmarks.
        """
        if isinstance(previous, FaceRegion):
            return self._read(frame, previous)
        if previous.landmarks is None:
            raise ValueError("expected an observation with landmarks: this one comes from another detector")
        return self._read(frame, region_of_landmarks(previous.landmarks))

    def _read_detected(self, frame: np.ndarray, face: FaceDetection) -> FaceObservation | None:
        seen = self._read(frame, region_of_keypoints(face.box, face.keypoints), num_passes=2)
        if seen is None:
            return None
        region = region_of_landmarks(seen.landmarks)
        if self._is_upright(frame, region):
            return seen
        turned = replace(region, angle=region.angle + math.pi)
        if self._is_upright(frame, turned):
            seen = self._read(frame, turned, num_passes=2)  # from a region that fitted what was misread
            return seen and self._read(frame, region_of_landmarks(seen.landmarks), num_passes=2)
        # Neither way: kept as it was found, but not where that was upside down, which needs a second witness.
        return seen if abs(region.angle) < math.pi / 2 else None

    def _is_upright(self, frame: np.ndarray, region: FaceRegion) -> bool:
        """Whether the detector finds a face the same way up: both nets at times read a face that is upside down
        as one that is not, with hair for a beard and eyes for a mouth, but never the right way round."""
        return self.detector.sees_face(region_picture(frame, replace(region, side=region.side * WITNESS_SIDE)))

    def _read(self, frame: np.ndarray, region: FaceRegion, num_passes: int = 1) -> FaceObservation | None:
        solid, confidence = self.mesh(frame, region)
        fitted = region_of_landmarks(solid[:, :2])
        if num_passes > 1 or _moved(region, fitted):
            if not _plausible(fitted, region, frame, limit=2 * MAX_GROWTH if num_passes > 1 else MAX_GROWTH):
                return None
            solid, confidence = self.mesh(frame, fitted)
            region, fitted = fitted, region_of_landmarks(solid[:, :2])
        if confidence < self.min_confidence or not _plausible(fitted, region, frame, limit=MAX_GROWTH):
            return None
        landmarks = np.ascontiguousarray(solid[:, :2])
        box = np.concatenate([landmarks.min(0), landmarks.max(0)])
        return FaceObservation(box, landmarks, alignment_points(landmarks), confidence, head_yaw(solid))


def check_frame(frame: np.ndarray) -> None:
    """Raises ValueError for what is no frame (H, W, 3) uint8."""
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"expected a frame of shape (H, W, 3) and dtype uint8, got {frame.shape} {frame.dtype}")


def _moved(before: FaceRegion, after: FaceRegion) -> bool:
    distance = float(np.linalg.norm(after.centre - before.centre))
    return max(distance, abs(after.side - before.side)) > MAX_MOVE * before.side


def _plausible(after: FaceRegion, before: FaceRegion, frame: np.ndarray, limit: float) -> bool:
    height, width = frame.shape[:2]
    inside = (after.centre >= 0).all() and (after.centre < [width, height]).all()
    return bool(inside) and after.side >= MIN_SIDE and 1 / limit < after.side / before.side < limit


def is_among(box: np.ndarray, faces: Sequence[FaceObservation]) -> bool:
    """Whether a box (4,) lies where one of the faces is."""
    return any(overlap(box, face.box) > SAME_FACE for face in faces)


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (4,), 0..1."""
    size = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0)
    intersection = float(np.prod(size))
    union = float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])) - intersection
    return intersection / max(union, 1e-9)
