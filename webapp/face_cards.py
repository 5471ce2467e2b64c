"""The faces of a clip as pictures to click on."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
from PIL import Image

from latentsync.errors import OptionError
from latentsync.faces.choice import choose
from latentsync.faces.finder import FaceTracker
from latentsync.faces.people import ClipFaces, FacePath
from latentsync.faces.scan import scan_faces
from latentsync.faces.scan_cache import ScanSettings, TrackCache
from latentsync.media.video_reader import read_frames

LOOKED_AT = 20.0  # s of the clip; who appears later is found by the run, not here
MOST = 12  # faces shown
MARGIN = 0.4  # of the face's box, around it
SIDE = 256  # px of a picture at most


@dataclass(frozen=True)
class FaceCard:
    """picture: (H, W, 3) uint8 RGB; choice: how the library is told, see faces.choice; label: for a person."""

    picture: np.ndarray
    choice: str
    label: str


def face_cards(
    video: Path,
    folder: Path,
    finder: FaceTracker,
    cache: TrackCache,
    on_frame: Callable[[int], None],
) -> list[FaceCard]:
    """Everyone in the clip's first LOOKED_AT seconds, largest first; empty where nobody is seen.

    Someone is chosen by a picture, a file in ``folder``, because numbers depend on how much of the clip is looked at;
    by the number where the picture does not lead back to the same person. ``on_frame(i)`` may raise to stop; the scan
    is kept for the run. Raises MediaError.
    """
    clip = _scanned(video, finder, cache, on_frame)
    best = {index: _best_row(path) for index, path in enumerate(clip.paths[:MOST])}
    pictures: dict[int, np.ndarray] = {}
    last = max((int(clip.paths[index].rows[row]) for index, row in best.items()), default=-1)
    for number, frame in enumerate(takewhile(lambda frame: frame.index <= last, read_frames(video))):
        for index, row in best.items():
            if clip.paths[index].rows[row] == number:
                pictures[index] = _crop(frame.pixels, clip.paths[index].box[row])
    folder.mkdir(parents=True, exist_ok=True)
    return [
        FaceCard(picture, _choice(clip, index, picture, folder, finder), f"Face {index + 1}{_when(clip, index)}")
        for index, picture in sorted(pictures.items())
    ]


def _scanned(video: Path, finder: FaceTracker, cache: TrackCache, on_frame: Callable[[int], None]) -> ClipFaces:
    settings = ScanSettings(type(finder).__name__, 0.0)
    frames = read_frames(video, duration=LOOKED_AT)
    return cache.scanned(video, settings, LOOKED_AT, lambda: scan_faces(frames, finder, on_frame=on_frame))


def _best_row(path: FacePath) -> int:
    """Where the face is large, sharp to the detector and seen from the front."""
    turned = np.nan_to_num(np.abs(path.yaw), nan=45.0)
    return int(np.argmax(path.side * path.confidence * np.cos(np.radians(np.minimum(turned, 90.0)))))


def _crop(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The square around a box (x0 y0 x1 y1, px), as far as it lies in the frame."""
    centre, half = (box[:2] + box[2:]) / 2, (0.5 + MARGIN) * (box[2:] - box[:2]).max()
    left, top = np.maximum(0, centre - half).astype(int)
    right, bottom = np.ceil(centre + half).astype(int)
    picture = Image.fromarray(frame[top:bottom, left:right])
    picture.thumbnail((SIDE, SIDE))
    return np.asarray(picture)


def _choice(clip: ClipFaces, index: int, picture: np.ndarray, folder: Path, finder: FaceTracker) -> str:
    path = folder / f"face_{index}.png"
    Image.fromarray(picture).save(path)
    try:
        return str(path) if choose(clip, str(path), finder) == [index] else str(index)
    except OptionError:  # seen from the side only
        return str(index)


def _when(clip: ClipFaces, index: int) -> str:
    first = clip.times[clip.paths[index].rows[0]]
    return f", from {first:.0f} s" if first >= 1 else ""
