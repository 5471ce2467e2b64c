"""Face crops by the rule of the original SyncNet's pipeline, which the reference follows.

Boxes of one shot are joined where they overlap by half and are at most 25 frames apart; what lasts more than 50 frames
and is larger than 100 px is a track. The crop reaches from the top of the box to 0.9 of its side below its centre, and
0.7 to both sides of it; it is 224 px, and 110 grey beyond the picture.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.signal import medfilt

from ..faces.tracking import FaceFinder, overlap
from ..media.video_reader import VideoFrame
from ..tracks.scan import scan_faces
from ..tracks.shots import ShotDetector

MIN_OVERLAP, MAX_GAP = 0.5, 25  # intersection over union; frames
MIN_TRACK, MIN_FACE = 50, 100  # frames, px: a track has more of both
CROP_SCALE, SIDE, GREY = 0.4, 224, 110
MEDIAN = 13  # frames

DetectBoxes = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 RGB -> (n, 4) boxes x0 y0 x1 y1 px, as s3fd.S3FD.detect."""


@dataclass(frozen=True)
class CropTrack:
    """first: frame of the clip; boxes: (n, 4) px, of n consecutive frames."""

    first: int
    boxes: np.ndarray

    def places(self) -> np.ndarray:
        """(n, 3) px: centre x, y and half the side, steadied by a median (whose ends see zeros, as scipy's do)."""
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        columns = [*((low + high) / 2).T, (high - low).max(1) / 2]
        return np.stack([medfilt(column, MEDIAN) for column in columns], 1)

    def crops(self, frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """(224, 224, 3) uint8 of the frames (H, W, 3) of this track, one at a time."""
        for frame, place in zip(frames, self.places(), strict=False):
            yield crop(frame, *place)


def crop(frame: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """One face, (224, 224, 3) uint8."""
    pad = int(half * (1 + 2 * CROP_SCALE))
    padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), constant_values=GREY)
    x, y, wide = x + pad, y + pad, half * (1 + CROP_SCALE)
    part = padded[int(y - half) : int(y + half * (1 + 2 * CROP_SCALE)), int(x - wide) : int(x + wide)]
    return cv2.resize(part, (SIDE, SIDE))


def boxes_by_tracking(frames: Iterable[VideoFrame], finder: FaceFinder) -> tuple[list[np.ndarray], np.ndarray]:
    """Boxes (n, 4) of each frame around the face mesh's landmarks, and the number of its shot (F,)."""
    clip = scan_faces(frames, finder)
    boxes: list[list[np.ndarray]] = [[] for _ in range(clip.num_frames)]
    for path in clip.paths:
        for row, box in zip(path.rows.tolist(), path.box, strict=True):
            boxes[row].append(box)
    return [np.array(found, np.float64).reshape(-1, 4) for found in boxes], clip.shots


def boxes_by_detection(frames: Iterable[VideoFrame], detect: DetectBoxes) -> tuple[list[np.ndarray], np.ndarray]:
    """The same with a detector that looks at each frame by itself."""
    is_cut, shots, boxes = ShotDetector(), [], []
    for frame in frames:
        shots.append((shots[-1] if shots else 0) + int(bool(is_cut(frame.pixels))))
        boxes.append(detect(frame.pixels))
    return boxes, np.array(shots)


def crop_tracks(
    boxes: Sequence[np.ndarray], shots: np.ndarray, min_track: int = MIN_TRACK, min_face: float = MIN_FACE
) -> list[CropTrack]:
    """The tracks of a clip, in the order of their beginnings; boxes between two sightings are interpolated."""
    left = [list(found) for found in boxes]
    tracks = []
    while True:
        rows, track = _next_track(left, shots)
        if not rows:
            return sorted(tracks, key=lambda track: track.first)
        if len(rows) <= min_track:
            continue
        every = np.arange(rows[0], rows[-1] + 1)
        whole = np.stack([np.interp(every, rows, column) for column in np.array(track).T], 1)
        if (whole[:, 2:] - whole[:, :2]).mean(0).max() > min_face:
            tracks.append(CropTrack(rows[0], whole))


def _next_track(left: list[list[np.ndarray]], shots: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """The first box that is left and those that continue it, which are taken out of `left`."""
    rows: list[int] = []
    track: list[np.ndarray] = []
    for row, found in enumerate(left):
        if rows and (row - rows[-1] > MAX_GAP or shots[row] != shots[rows[0]]):
            break
        for place, box in enumerate(found):
            if not rows or overlap(box, track[-1]) > MIN_OVERLAP:
                rows.append(row)
                track.append(found.pop(place))
                break
    return rows, track
