"""A result and what it is compared with, frame by frame, with the faces aligned as for training and generation."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import MediaError
from ..faces.align import square_to_canvas, warp_faces
from ..faces.choice import find_person
from ..faces.finder import FaceTracker
from ..faces.place import PlacedFace, Placement
from ..media.length_modes import shown_at
from ..media.video_reader import VideoFrame, probe_video, read_frames
from ..options import LipSyncOptions

RESOLUTION = 256  # px, side of the aligned faces
FRAMING = "mesh"  # whatever made the result, so that figures of all models, and earlier ones, compare
ROUNDING = 0.001  # s: some containers keep times in milliseconds, so a frame may begin that much after its equal


@dataclass(frozen=True)
class PairFrame:
    """One frame of the result beside the one of the reference.

    output, reference            (H, W, 3) uint8 RGB
    face, reference_face         (S, S, 3) uint8 RGB, cut out of both at the same place; None without a face
    landmarks, true_landmarks    (468, 2) px of the aligned squares; None where the mesh sees none
    points, true_points          (3, 2) px of the frames: brows and nose; None likewise
    placed                       where the face is; None without one
    restart                      the first frame, or the first after a cut or a loss
    """

    output: np.ndarray
    reference: np.ndarray
    face: np.ndarray | None
    reference_face: np.ndarray | None
    landmarks: np.ndarray | None
    true_landmarks: np.ndarray | None
    points: np.ndarray | None
    true_points: np.ndarray | None
    placed: PlacedFace | None
    restart: bool


@dataclass
class ClipPair:
    """`for frame in pair.frames()`, one in memory at a time.

    start    s of the reference at which the result begins
    indices  which of the reference's frames from there on each frame of the result shows, as a report tells; None:
             those shown at the same time
    face     whose, see faces/choice.py
    notes    what of the clip could not be compared, filled by `frames()`
    """

    output: Path
    reference: Path
    start: float = 0.0
    indices: tuple[int, ...] | None = None
    face: str = "largest"
    resolution: int = RESOLUTION
    notes: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raises MediaError where a file cannot be read or the pictures differ in size."""
        first, second = probe_video(self.output), probe_video(self.reference)
        if (first.width, first.height) != (second.width, second.height):
            raise MediaError(
                f"'{self.output}' is {first.width} x {first.height} and '{self.reference}' {second.width} x "
                f"{second.height}; expected one size. Scale the reference first, or give the source of the result"
            )

    def frames(self, with_faces: bool = True) -> Iterator[PairFrame]:
        """All pairs in order; with_faces False leaves out everything about faces.

        The faces are those of the reference, tracked and smoothed as the product does, and both frames are cut with the
        same matrix: what a result displaces is seen as an error. A result that shows its source a second time (length
        "bounce", "loop") is compared until there. Raises MediaError and FaceNotFoundError.
        """
        self.check()
        self.notes.clear()
        placement = self._placement() if with_faces else None
        tracker = FaceTracker() if with_faces else None
        count = faces = 0
        was_placed = False
        for output, reference in self._pairs():
            placed = placement.at(reference.source_index) if placement else None
            yield self._framed(output.pixels, reference.pixels, placed, tracker, not was_placed)
            was_placed = placed is not None
            count, faces = count + 1, faces + was_placed
        if not count:
            raise MediaError(f"no frame of '{self.output}' is shown at the time of one of '{self.reference}'")
        if with_faces and faces < count:
            self.notes.append(f"{count - faces} of {count} frames have no face: only whole frames are compared there")

    def _framed(self, output, reference, placed, tracker, first: bool) -> PairFrame:
        if placed is None:
            return PairFrame(output, reference, *[None] * 7, restart=first)
        matrices = np.stack([placed.matrix] * 2)
        face, reference_face = warp_faces([output, reference], matrices, self.resolution)
        seen = [tracker.follow(pixels, placed.region) if placed.region else None for pixels in (output, reference)]
        marks = [None if one is None else to_square(one.landmarks, placed.matrix, self.resolution) for one in seen]
        points = [None if one is None else one.points for one in seen]
        return PairFrame(output, reference, face, reference_face, *marks, *points, placed, first or placed.restart)

    def _placement(self) -> Placement:
        frames = read_frames(self.reference, start=self.start)
        if self.indices is not None:
            frames = islice(frames, max(self.indices, default=0) + 1)
        else:
            facts = probe_video(self.output)
            frames = (frame for frame in frames if frame.time <= facts.duration + 1)
        advice = "Choose --region frame to compare whole frames"
        person = find_person(frames, self.face, advice=advice, video=self.reference)
        return person.placement(self.resolution, LipSyncOptions(fade=0.0), FRAMING)

    def _pairs(self) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        outputs, references = read_frames(self.output), read_frames(self.reference, start=self.start)
        if self.indices is None:
            yield from self._by_time(outputs, references)
            return
        current = next(references, None)
        for number, (output, wanted) in enumerate(zip(outputs, self.indices, strict=False)):
            if current is None or wanted < current.source_index:
                self.notes.append(f"compared until frame {number} of {len(self.indices)}: it shows the source again")
                return
            while current is not None and current.source_index < wanted:
                current = next(references, None)
            if current is None:
                raise MediaError(f"'{self.reference}' ends before frame {wanted}; it is not what the report names")
            yield output, current

    def _by_time(self, outputs, references) -> Iterator[tuple[VideoFrame, VideoFrame]]:
        end = probe_video(self.reference).duration - self.start
        kept: list[VideoFrame] = []

        def times():
            for output in outputs:
                if output.time >= end:
                    self.notes.append(f"the reference ends at {end:.2f} s: what comes later is not compared")
                    return
                kept.append(output)
                yield output.time + ROUNDING

        for found in shown_at(times(), references, lambda frame: frame.time):
            yield kept.pop(0), found


def to_square(points: np.ndarray, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """(K, 2) px of the frame -> px of the aligned square."""
    to_canvas = np.linalg.inv(square_to_canvas(resolution)) @ np.vstack([np.asarray(matrix, np.float64), [0, 0, 1]])
    return points @ to_canvas[:2, :2].T + to_canvas[:2, 2]
