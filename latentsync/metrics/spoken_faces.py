"""The face of a clip at 25 frames a second, aligned as for training: what SyncNet looks at."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..errors import FaceNotFoundError
from ..faces.alignment import warp_faces
from ..faces.facemesh import Framing
from ..faces.tracking import FaceFinder, FaceTracker
from ..media.video_reader import VideoFrame
from ..options import LipSyncOptions
from ..syncnet.sync_mel import FPS
from ..tracks.choice import choose
from ..tracks.placement import place
from ..tracks.scan import scan_faces

FRAME_COUNT = 16  # of a SyncNet's window: less than this is no stretch


@dataclass(frozen=True)
class SpokenFaces:
    """The longest stretch in which a face is seen without a break.

    faces  (F, S, S, 3) uint8 RGB at 25 a second; start: s from the clip's beginning; clip: s that were looked at
    """

    faces: np.ndarray
    start: float
    clip: float

    @property
    def seconds(self) -> float:
        return len(self.faces) / FPS


def spoken_faces(
    frames: Callable[[], Iterable[VideoFrame]],
    resolution: int,
    face: str = "largest",
    finder: FaceFinder | None = None,
    least: int = FRAME_COUNT,
    framing: Framing = "insightface",
) -> SpokenFaces:
    """frames: gives the clip's frames at 25 a second, anew each time it is called; resolution: S; face: whose, see
    tracks/choice.py; framing: what the network was trained with, see faces/facemesh.py. Raises FaceNotFoundError where
    no face is seen in `least` consecutive frames.
    """
    finder = finder or FaceTracker()
    clip = scan_faces(frames(), finder)
    rows: list[int] = []
    if clip.paths:
        path = clip.paths[choose(clip, face, finder)[0]]
        placement = place(path, clip, resolution, LipSyncOptions(fade=0.0), framing)
        rows = longest_stretch([placement.at(row) for row in range(clip.num_frames)])
    if len(rows) < least:
        raise FaceNotFoundError(
            f"no face is seen in {least} consecutive frames at {FPS} a second, the longest stretch is {len(rows)}; "
            "expected a visible face. Choose another part of the video, or another face"
        )
    shown = islice(frames(), rows[0], rows[-1] + 1)
    faces = [
        warp_faces([frame.pixels], placement.at(row).matrix[None], resolution)[0]
        for row, frame in zip(rows, shown, strict=True)
    ]
    return SpokenFaces(np.stack(faces), rows[0] / FPS, clip.num_frames / FPS)


def longest_stretch(placed: list) -> list[int]:
    """Rows of the longest run of placed faces, of which only the first may be a restart."""
    best: list[int] = []
    run: list[int] = []
    for row, found in enumerate(placed):
        if found is None or found.restart:
            run = []
        if found is not None:
            run.append(row)
        if len(run) > len(best):
            best = list(run)
    return best
