"""Measures of a result's mouth, of the person and of what should have stayed, fed with one PairFrame after another."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from ..errors import DamagedCheckpointError, OptionError
from ..faces.blend import FaceBlender
from ..faces.detect import mouth_opening
from ..faces.finder import FaceTracker
from ..faces.people import face_look, look_distance
from ..model.masks import generation_mask
from .clip_pair import PairFrame
from .pictures import Measured, psnr_of

# How far a mouth is open, frame by frame, and what that curve tells.


def opening_track(frames: Iterable[np.ndarray]) -> np.ndarray:
    """(F,) mouth opening in units of the eye distance, as the face mesh sees it; NaN where there is no face.

    frames: (H, W, 3) uint8 RGB.
    """
    tracker, observation, track = FaceTracker(), None, []
    for frame in frames:
        found = tracker(frame, observation)
        observation = found or observation
        track.append(np.nan if found is None else mouth_opening(found.landmarks))
    return np.array(track)


def correlation(measured: np.ndarray, truth: np.ndarray) -> float:
    """Pearson's r over the frames where both are known; NaN with fewer than three, or without any variation."""
    known = np.isfinite(measured) & np.isfinite(truth)
    if known.sum() < 3 or measured[known].std() == 0 or truth[known].std() == 0:
        return float("nan")
    return float(np.corrcoef(measured[known], truth[known])[0, 1])


# Cosine of ArcFace's embeddings: whether it is the same person, by a network of the user's own (onnxruntime).

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


# The measures

# Outer and inner contour of the lips in the face mesh.
OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)
LIPS = np.array(OUTER_LIPS + INNER_LIPS)
REACH = 1.0  # of the feather: the widest edge that a paste can have


class LandmarkDistance:
    """LMD of the mouth (Chen et al., 2018): mean distance of the 40 lip landmarks in px of the aligned 256 px square,
    after each mouth was moved to its own mean."""

    def __init__(self):
        self._values: list[float] = []

    def add(self, frame: PairFrame) -> None:
        if frame.landmarks is not None and frame.true_landmarks is not None:
            scale = 256 / frame.face.shape[0]
            self._values.append(scale * lip_distance(frame.landmarks, frame.true_landmarks))

    def result(self) -> Measured:
        return Measured(np.array(self._values))


def lip_distance(landmarks: np.ndarray, true_landmarks: np.ndarray) -> float:
    """(468, 2) each -> the mean distance of their lips, in the same unit, wherever the mouths are."""
    first, second = landmarks[LIPS].astype(np.float64), true_landmarks[LIPS].astype(np.float64)
    return float(np.linalg.norm((first - first.mean(0)) - (second - second.mean(0)), axis=1).mean())


class Leakage:
    """Correlation of the mouth opening of the result with that of the source: how much of the source's own speech is
    still seen. About 0 is right where another speech is spoken; with the source's own words it says nothing."""

    def __init__(self):
        self._openings: list[tuple[float, float]] = []

    def add(self, frame: PairFrame) -> None:
        if frame.landmarks is not None and frame.true_landmarks is not None:
            self._openings.append((mouth_opening(frame.landmarks), mouth_opening(frame.true_landmarks)))

    def result(self) -> Measured:
        rows = np.array(self._openings).reshape(-1, 2)
        return Measured(rows, lambda rows: correlation(rows[:, 0], rows[:, 1]))


class Identity:
    """Distance of what the person looks like in result and reference: colours of skin, face and hair at fixed places
    (faces/people.py): 0 the same picture, about 0.2 one person in two shots, 0.4 two people."""

    def __init__(self):
        self._values: list[float] = []

    def add(self, frame: PairFrame) -> None:
        if frame.points is None or frame.true_points is None:
            return
        looks = face_look(frame.output, frame.points), face_look(frame.reference, frame.true_points)
        if None not in looks:
            self._values.append(look_distance(looks[0].person, looks[1].person))

    def result(self) -> Measured:
        return Measured(np.array(self._values))


class _Hole:
    """The part of the aligned face that is generated."""

    def __init__(self, mask: str):
        self._mask, self._hole = mask, None

    def of(self, side: int) -> np.ndarray:
        if self._hole is None or len(self._hole) != side:
            self._hole = generation_mask(side, self._mask).numpy() < 0.5
        return self._hole


class MouthSharpness:
    """Mean gradient inside the generated part over that of the reference: 1 as sharp, less blurred."""

    def __init__(self, mask: str = "mask"):
        self._hole, self._rows = _Hole(mask), []

    def add(self, frame: PairFrame) -> None:
        if frame.face is not None:
            hole = self._hole.of(len(frame.face))
            self._rows.append([gradient(face)[hole].mean() for face in (frame.face, frame.reference_face)])

    def result(self) -> Measured:
        return Measured(np.array(self._rows).reshape(-1, 2), _ratio)


def gradient(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W): of the mean of the channels, grey levels a px."""
    luma = picture.mean(2)
    return np.abs(np.gradient(luma, axis=0)) + np.abs(np.gradient(luma, axis=1))


class Flicker:
    """Mean absolute second difference over time inside the generated part over that of the reference: 1 as steady.

    Second differences leave out what changes evenly; a mouth that speaks has some of its own, so another speech alone
    makes the figure differ from 1.
    """

    def __init__(self, mask: str = "mask"):
        self._hole, self._rows = _Hole(mask), []
        self._held: list[np.ndarray] = []

    def add(self, frame: PairFrame) -> None:
        if frame.face is None or frame.restart:
            self._held = []
        if frame.face is None:
            return
        hole = self._hole.of(len(frame.face))
        self._held = [*self._held[-2:], np.stack([frame.face[hole], frame.reference_face[hole]]).astype(np.float32)]
        if len(self._held) == 3:
            first, middle, last = self._held
            self._rows.append(np.abs(first - 2 * middle + last).mean((1, 2)))

    def result(self) -> Measured:
        return Measured(np.array(self._rows).reshape(-1, 2), _ratio)


def _ratio(rows: np.ndarray) -> float:
    """Of the means of two columns; NaN where the second one is 0."""
    value, truth = rows.mean(0)
    return float(value / truth) if truth else float("nan")


class OutsidePSNR:
    """dB over what lies outside the widest edge of the generated part: what encoding alone should have changed."""

    def __init__(self, mask: str = "mask"):
        self._mask, self._blender, self._rows = mask, None, []

    def add(self, frame: PairFrame) -> None:
        outside = np.ones(frame.output.shape[:2], bool)
        if frame.placed is not None:
            side = len(frame.face)
            if self._blender is None:
                self._blender = FaceBlender(side, mask=generation_mask(side, self._mask), feather=REACH)
            region = self._blender.region(frame.output.shape, frame.placed.matrix)
            outside[region.slices] = region.alpha <= 0
        error = (frame.output[outside].astype(np.float64) - frame.reference[outside]) ** 2
        self._rows.append([error.sum(), error.size])

    def result(self) -> Measured:
        rows = np.array(self._rows).reshape(-1, 2)
        return Measured(rows, lambda rows: psnr_of(float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1))))
