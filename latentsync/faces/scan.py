"""All faces of a clip: one pass over its frames that keeps numbers only."""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from ..errors import MediaError
from ..media.video_reader import VideoFrame
from ..model.device import own_threads
from .detect import LOWER_FACE, alignment_points, mouth_opening, region_of_landmarks
from .finder import FaceFinder, FaceObservation, overlap
from .people import NUM_LOWER, ClipFaces, FacePath, Look, Piece, covering, face_look, link, look_change

# Where one shot of a clip ends and the next begins.

THUMBNAIL = (32, 18)  # cells, across and down
CHANGED = 14.0  # grey levels in any channel by which a cell has changed
MIN_CHANGED = 0.4  # share of changed cells at a cut
MIN_RATIO = 2.5  # and so many times as many as between the frames just before: fast movement is no cut
MEMORY = 8  # frames
FLASH = 3  # frames after which a picture that comes back was only interrupted, as by a photographer's light
SAMPLES = 160  # px looked at along the longer side of a frame


class ShotDetector:
    """`detector(frame)`: whether this frame (H, W, 3) uint8 begins another shot than the one before.

    Compares frames a few cells in size. Dissolves and fades are not cuts: a face that is followed through one is told
    by its looks (see scan.py).

    share    of the picture, 0..1, that changed with the latest frame
    flashed  frames since the cut before, where the latest one brings back the picture that was there until then; else 0
    """

    share, flashed = 0.0, 0

    def __init__(self):
        self._before: np.ndarray | None = None
        self._shares: deque[float] = deque(maxlen=MEMORY)
        self._left: np.ndarray | None = None  # the last picture of the shot before
        self._since = 0  # frames since then

    def __call__(self, frame: np.ndarray) -> bool:
        cells = thumbnail(frame)
        before, self._before = self._before, cells
        if before is None:
            return False
        self.share, self.flashed = _changed(cells, before), 0
        self._since += 1
        usual = float(np.median(self._shares)) if self._shares else 0.0
        is_cut = self.share > max(MIN_CHANGED, MIN_RATIO * usual)
        if is_cut:
            is_back = self._left is not None and self._since <= FLASH and _changed(cells, self._left) < MIN_CHANGED
            self.flashed = self._since if is_back else 0
            self._left, self._since = before, 0
            self._shares.clear()
        else:
            self._shares.append(self.share)
        return is_cut


def _changed(cells: np.ndarray, before: np.ndarray) -> float:
    return float((np.abs(cells - before).max(-1) > CHANGED).mean())


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """(18, 32, 3) float32 of a frame (H, W, 3) uint8, thinned before it is averaged."""
    step = max(1, max(frame.shape[:2]) // SAMPLES)
    thinned = np.ascontiguousarray(frame[::step, ::step])
    return cv2.resize(thinned, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)


# The scan

DETECT_EVERY = 0.5  # s between looks for new faces while the known ones are followed
SEARCH_EVERY = 0.12  # s between looks while nobody is followed
PATIENCE = 0.1  # a face lost for t s is looked for every t * PATIENCE s: in each frame at first, then less often
SAME_PLACE = 0.5  # intersection over union at which two followed faces are one
JUMP = 0.22  # look_change from one frame to the next at which a followed face is another one,
JUMP_SHARE, CUT_SHARE = 0.02, 0.15  # if so much of the picture changed; and if more, and nobody stayed, it is a cut
TURNED = 40.0  # degrees of yaw from which on a face does not look like itself
LOOK_MEMORY = 0.3  # share of the newest frame in what a followed face is expected to look like
MISREAD = 0.3  # s; a face that was followed for less before it changed its looks was read wrongly, as profiles are
BRIEFEST = 0.1  # s; who is seen for less is an error of the detector, where others are seen for longer

# What is kept of a face in a frame, as in FacePath and in Look.
_SHAPES = {
    "points": (3, 2),
    "nose": (2,),
    "confidence": (),
    "opening": (),
    "yaw": (),
    "side": (),
    "region": (4,),
    "contour": (len(LOWER_FACE), 2),
    "lower": (NUM_LOWER,),
    "box": (4,),
}
_ENDS = np.cumsum([int(np.prod(shape)) for shape in _SHAPES.values()])


class _Followed:
    """A face followed without a break: its observations, as rows of numbers."""

    def __init__(self, shot: int, is_new: bool):
        self.shot, self.is_new = shot, is_new
        self.rows: list[int] = []
        self._numbers = array("f")
        self.latest: FaceObservation | None = None
        self.expected: np.ndarray | None = None
        self._looks, self._num_looks = 0.0, 0

    def add(self, row: int, face: FaceObservation, look: Look | None) -> None:
        self.rows.append(row)
        self._numbers.extend(_numbers(face, look))
        self.latest = face
        if look is not None:
            self._looks, self._num_looks = self._looks + look.person, self._num_looks + 1
            old = look.person if self.expected is None else self.expected
            self.expected = old + LOOK_MEMORY * (look.person - old)

    def is_another(self, look: Look | None) -> bool:
        return look is not None and self.expected is not None and look_change(look.person, self.expected) > JUMP

    @property
    def numbers(self) -> np.ndarray:
        """(n, D) float32: the columns of _SHAPES beside each other."""
        return np.frombuffer(self._numbers, np.float32).reshape(len(self.rows), -1)

    def piece(self, times: np.ndarray, width: int) -> Piece:
        first, last = self.rows[0], self.rows[-1]
        look = self._looks / self._num_looks if self._num_looks else np.full(width, np.nan)
        boxes = self.numbers[[0, -1], -4:]
        return Piece(self.shot, first, last, times[first], times[last], boxes, look, len(self.rows), self.is_new)


@own_threads()
def scan_faces(
    frames: Iterable[VideoFrame],
    finder: FaceFinder,
    *,
    detect_every: float = DETECT_EVERY,
    on_frame: Callable[[int], None] | None = None,
) -> ClipFaces:
    """Follow every face through the frames of one size, in the order of their times, and tell who is who.

    Faces are detected in the first frame, at cuts, every `detect_every` seconds, and where one was lost; else they are
    followed, which costs the same a face whatever the size of the frame. One frame is in memory at a time.
    `on_frame(i)` is called after frame i and may raise to stop. Raises MediaError for no frames.
    """
    scan = _Scan(finder, detect_every)
    size = None
    for row, frame in enumerate(frames):
        size = size or frame.pixels.shape[:2]
        scan.add(row, frame)
        if on_frame is not None:
            on_frame(row)
    if size is None:
        raise MediaError("there are no frames; expected at least one")
    times = np.array(scan.times) - scan.times[0]
    return ClipFaces(times, np.array(scan.shots), (int(size[0]), int(size[1])), _paths(scan.all, times))


class _Scan:
    """The state of a scan: who is followed, and when faces were last looked for."""

    def __init__(self, finder: FaceFinder, detect_every: float):
        self._finder, self._every = finder, detect_every
        self._shots = ShotDetector()
        self._shot = 0
        self._detected = self._lost = -np.inf  # s
        self.times: list[float] = []
        self.shots: list[int] = []
        self.all: list[_Followed] = []
        self._active: list[_Followed] = []
        self._source: int | None = None

    def add(self, row: int, frame: VideoFrame) -> None:
        pixels, time = frame.pixels, frame.time
        is_repeat, self._source = frame.source_index == self._source, frame.source_index
        self.times.append(time)
        if is_repeat:  # of a higher rate than the file's
            for track in self._active:
                track.add(row, track.latest, None)
            self.shots.append(self._shot)
            return
        is_cut, changed = self._shots(pixels), self._shots.share
        followed = [] if is_cut else self._follow(pixels)
        others = [track for track, _, look in followed if changed > JUMP_SHARE and track.is_another(look)]
        if others and len(others) == len(followed) and changed > CUT_SHARE:
            is_cut = True  # one that the whole picture did not show
        if is_cut:
            self._shot, followed = self._shot + 1, []
        if self._shots.flashed:
            self._rejoin(self._shots.flashed)
        kept = [item for item in followed if item[0] not in others]
        misread = [track for track in others if not is_cut and time - self.times[track.rows[0]] < MISREAD]
        self.all = [track for track in self.all if track not in misread]
        if len(kept) < len(self._active):
            self._lost = time
        self._active = [track for track, _, _ in kept]
        for track, face, look in kept:
            track.add(row, face, look)
        if is_cut or self._is_due(time):
            self._detect(row, pixels, time, is_new=bool(others))
        self.shots.append(self._shot)

    def _follow(self, pixels: np.ndarray) -> list[tuple[_Followed, FaceObservation, Look | None]]:
        """Those still there; of two that have run into one face the one that was followed longer."""
        found = []
        for track in sorted(self._active, key=lambda track: track.rows[0]):
            face = self._finder.follow(pixels, track.latest)
            if face is not None and all(overlap(face.box, other.box) < SAME_PLACE for _, other, _ in found):
                found.append((track, face, _look(pixels, face)))
        return found

    def _rejoin(self, count: int) -> None:
        """The last `count` frames were no shot of their own: this frame goes on with the one before them."""
        flash = self._shot - 1
        self._shot -= 2
        self.shots[-count:] = [self._shot] * count
        for track in self.all:
            if track.shot == flash:
                track.shot = self._shot

    def _is_due(self, time: float) -> bool:
        usual = self._every if self._active else SEARCH_EVERY
        return time - self._detected >= min(usual, PATIENCE * (time - self._lost)) - 1e-6

    def _detect(self, row: int, pixels: np.ndarray, time: float, is_new: bool) -> None:
        self._detected = time
        for face in self._finder.detect(pixels, [track.latest for track in self._active]):
            track = _Followed(self._shot, is_new)
            track.add(row, face, _look(pixels, face))
            self._active.append(track)
            self.all.append(track)


def _look(pixels: np.ndarray, face: FaceObservation) -> Look | None:
    return None if abs(face.yaw or 0) > TURNED else face_look(pixels, face.points)


def _numbers(face: FaceObservation, look: Look | None) -> np.ndarray:
    """(D,) float32, the columns of _SHAPES."""
    side, yaw = (face.box[2:] - face.box[:2]).max(), np.nan if face.yaw is None else face.yaw
    if face.landmarks is None:
        opening, square, contour = np.nan, np.full(4, np.nan), np.full(_SHAPES["contour"], np.nan)
        nose = np.full(2, np.nan)
    else:
        region = region_of_landmarks(face.landmarks)
        opening, square = mouth_opening(face.landmarks), np.array([*region.centre, region.side, region.angle])
        contour, nose = face.landmarks[list(LOWER_FACE)], alignment_points(face.landmarks, "insightface")[2]
    lower = np.full(NUM_LOWER, np.nan) if look is None else look.lower
    columns = (face.points, nose, face.confidence, opening, yaw, side, square, contour, lower, face.box)
    return np.concatenate([np.ravel(column) for column in columns]).astype(np.float32)


def _paths(tracks: Sequence[_Followed], times: np.ndarray) -> tuple[FacePath, ...]:
    known = [track.expected for track in tracks if track.expected is not None]
    pieces = [track.piece(times, len(known[0]) if known else 1) for track in tracks]
    people = [_joined([tracks[index] for index in group], [pieces[index] for index in group]) for group in link(pieces)]
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    lasting = [path for path in people if len(path) * interval >= BRIEFEST]
    return tuple(sorted(lasting or people, key=lambda path: -path.area))


def _joined(tracks: Sequence[_Followed], pieces: Sequence[Piece]) -> FacePath:
    known = [piece for piece in pieces if np.isfinite(piece.look).all()]
    weights = [piece.weight for piece in known]
    columns = np.split(np.concatenate([track.numbers for track in tracks]), _ENDS[:-1], axis=1)
    named = {name: column.reshape(-1, *shape) for (name, shape), column in zip(_SHAPES.items(), columns, strict=True)}
    average = np.average([piece.look for piece in known], axis=0, weights=weights) if known else np.zeros(0)
    return FacePath(
        rows=np.array([row for track in tracks for row in track.rows]),
        covering=covering(named.pop("lower")),
        look=average.astype(np.float32),
        **named,
    )
