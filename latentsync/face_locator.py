"""Where the face is in frame after frame of one clip."""

from dataclasses import dataclass

import numpy as np

from .faces.alignment import Aligner, Smoothing
from .faces.facemesh import FaceRegion, mouth_opening, region_of_landmarks
from .faces.tracking import FaceDetector, FaceObservation
from .media.video_reader import VideoFrame


@dataclass(frozen=True)
class LocatedFace:
    """What is kept of a face that was found in a frame.

    matrix      (2, 3) float32, frame px to canvas px (see faces/alignment.py)
    confidence  0..1 that this is a face
    opening     of the mouth, in units of the distance of the outer eye corners; None where there are no landmarks
    region      where the face mesh sees it, px of the frame; None where there are no landmarks
    """

    matrix: np.ndarray
    confidence: float
    opening: float | None = None
    region: FaceRegion | None = None


class FaceLocator:
    """Frame -> LocatedFace, or None without a face; `locator(frame)` does not search a frame again that comes again.

    detector    finds the face; a clip's other faces are left alone
    resolution  side S of the aligned square, px
    smoothing   of the matrices over time, see faces.alignment.Aligner
    fps         of the clip: what smoothing reckons with
    bounces     the clip may be played backward: the places of all frames are kept, else only the last one
    """

    def __init__(
        self,
        detector: FaceDetector,
        resolution: int,
        smoothing: Smoothing = "temporal",
        fps: float = 25.0,
        *,
        bounces: bool = True,
    ):
        self._detector = detector
        self._aligner = Aligner(resolution, smoothing, fps)
        self._bounces = bounces
        self._last: FaceObservation | None = None
        self._known: dict[int, LocatedFace | None] = {}

    def __call__(self, frame: VideoFrame) -> LocatedFace | None:
        if frame.source_index not in self._known:
            if not self._bounces:
                self._known.clear()
            self._known[frame.source_index] = self.locate(frame.pixels)
        return self._known[frame.source_index]

    def locate(self, pixels: np.ndarray) -> LocatedFace | None:
        """The face in the next frame (H, W, 3) uint8 RGB."""
        observation = self._detector(pixels, self._last)
        if observation is None:
            self._aligner.reset()
            return None
        self._last = observation
        matrix, landmarks = self._aligner(observation.points), observation.landmarks
        if landmarks is None:
            return LocatedFace(matrix, observation.confidence)
        return LocatedFace(matrix, observation.confidence, mouth_opening(landmarks), region_of_landmarks(landmarks))
