"""Pieces of a video in which one face is seen without a break, aligned as the product aligns it.

Frames come at 25 a second, once, and are not kept: what is held is the aligned faces of the piece under way, at most as
long as a clip may be, and the parts around the faces of the last second or so.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from latentsync.faces.align import Aligner, canvas_size, frame_pixels_per_crop_pixel, warp_faces
from latentsync.faces.detect import mouth_opening
from latentsync.faces.finder import FaceDetector, FaceObservation
from latentsync.faces.people import NUM_LOWER, Look, covering, face_look, look_change
from latentsync.faces.place import LONGEST, MAX_COVERING, MIN_CONFIDENCE, MIN_SIDE, REACH, smooth_points
from latentsync.faces.scan import JUMP, JUMP_SHARE, LOOK_MEMORY, TURNED, ShotDetector
from latentsync.media.video_decoder import FrameSelection, VideoDecoder
from latentsync.media.video_reader import FrameConverter
from latentsync.model_files import Framing

from ..clip_store import FPS

LONGEST_STILL = 0.3  # s for which one picture may be shown: a talking face does not stand still for longer
MAX_COVERED = 0.1  # share of a piece's frames in which something may lie over the mouth
AHEAD = math.ceil(REACH * LONGEST * FPS)  # frames on either side that a frame's place may depend on
MARGIN = 0.5  # of the square's side: what smoothing may move it by, and far more


@dataclass(frozen=True)
class TimedFrame:
    """pixels: (H, W, 3) uint8 RGB, read-only; time: s from the source's first picture; source: which of its pictures of
    this part is shown, so that repeats are told; is_damaged: the decoder had to guess."""

    pixels: np.ndarray
    time: float
    source: int
    is_damaged: bool = False


def frames_at_25(path: Path, start: float, duration: float) -> Iterator[TimedFrame]:
    """One in memory at a time. A rate that varies is followed: a picture is shown for as long as it lasts.

    The part begins with the picture nearest to `start`, whose own time counts: sound taken by `time` is in step.
    Raises MediaError.
    """
    with VideoDecoder(path) as decoder:
        selection = FrameSelection(decoder, start, duration, Fraction(FPS))
        convert, begin = FrameConverter(decoder), None
        for selected in selection:
            if begin is None:
                is_known = start > 0 and selected.source_pts is not None
                begin = float((selected.source_pts - decoder.origin) * decoder.time_base) if is_known else start
            time = begin + selected.pts / FPS
            yield TimedFrame(convert(selected.frame), time, selected.source_index, bool(selected.frame.is_corrupt))


@dataclass(frozen=True)
class _Patch:
    """pixels: the part of a frame around its face, a copy; corner: (2,) x, y of its first pixel in the frame."""

    pixels: np.ndarray
    corner: np.ndarray


class LookaheadAligner:
    """Frames one after another; their faces come about a second later, when the frames after them are known.

    What is held meanwhile is the part of each frame around its face. The places are those of
    `smooth_points` over the whole stretch.
    """

    def __init__(self, resolution: int):
        self._resolution = resolution
        self._aligner = Aligner(resolution, "none")
        self.drop()

    def drop(self) -> None:
        """Forget all frames: what comes next is another stretch."""
        self._points: list[np.ndarray] = []  # of up to AHEAD frames that are done, then of the waiting ones
        self._patches: list[_Patch] = []  # of the waiting ones

    def add(self, pixels: np.ndarray, points: np.ndarray) -> None:
        """One more frame (H, W, 3) uint8 RGB whose face has the alignment points (3, 2) px."""
        self._points.append(np.asarray(points, np.float64))
        self._patches.append(_patch(pixels, self._aligner(points), self._resolution))

    @property
    def waiting(self) -> int:
        """Frames whose faces were not taken."""
        return len(self._patches)

    def take(self, is_end: bool = False) -> Iterator[tuple[np.ndarray, float]]:
        """Aligned faces (S, S, 3) uint8, and px of the frame per px of theirs, of all frames that can be placed.

        is_end: no more frames follow, so that all can.
        """
        count = self.waiting if is_end else max(self.waiting - AHEAD, 0)
        if not count:
            return
        before = len(self._points) - self.waiting
        times = np.arange(len(self._points)) / FPS
        places = smooth_points(np.stack(self._points), times)[before : before + count]
        patches, self._patches = self._patches[:count], self._patches[count:]
        self._points = self._points[max(before + count - AHEAD, 0) :]
        for patch, points in zip(patches, places, strict=True):
            matrix = self._aligner(points).astype(np.float64)
            scale = frame_pixels_per_crop_pixel(matrix, self._resolution)
            matrix[:, 2] += matrix[:, :2] @ patch.corner
            yield warp_faces([patch.pixels], matrix[None], self._resolution)[0], scale


def _patch(frame: np.ndarray, matrix: np.ndarray, resolution: int) -> _Patch:
    width, height = canvas_size(resolution)
    turn = np.linalg.inv(matrix[:, :2].astype(np.float64))
    corners = (np.array([[0, 0], [width, 0], [0, height], [width, height]]) - matrix[:, 2]) @ turn.T
    margin = MARGIN * np.ptp(corners, axis=0).max()
    limits = np.array([frame.shape[1], frame.shape[0]])
    low = np.clip(np.floor(corners.min(0) - margin), 0, limits - 1).astype(int)
    high = np.clip(np.ceil(corners.max(0) + margin), low + 1, limits).astype(int)
    return _Patch(frame[low[1] : high[1], low[0] : high[0]].copy(), low)


@dataclass
class Piece:
    """F consecutive frames at 25 fps; lists of one entry a frame.

    time       s of the first one in the source
    openings   of the mouth, in units of the distance of the outer eye corners; NaN where the detector has no landmarks
    yaws       degrees, 0 where unknown
    lowers     (NUM_LOWER,) colours around the mouth, see appearance.covering
    faces      (S, S, 3) uint8 RGB, aligned; while frames are added these and the scales come a little later
    scales     px of the source per px of the aligned square
    """

    time: float
    openings: list[float] = field(default_factory=list)
    yaws: list[float] = field(default_factory=list)
    lowers: list[np.ndarray] = field(default_factory=list)
    faces: list[np.ndarray] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.openings)

    def first(self, count: int) -> "Piece":
        """Take the first frames out of it, whose faces must be there."""
        taken = Piece(self.time)
        for name in ("openings", "yaws", "lowers", "faces", "scales"):
            values = getattr(self, name)
            setattr(taken, name, values[:count])
            setattr(self, name, values[count:])
        self.time += count / FPS
        return taken

    @property
    def covered(self) -> float:
        """Share of frames in which something lies over the mouth."""
        return float((covering(np.stack(self.lowers)) > MAX_COVERING).mean())


@dataclass(frozen=True)
class Gap:
    """A part of a source that gives no clip, and why."""

    time: float
    num_frames: int
    reason: str


class PieceCutter:
    """Iterate over `cut(frames)`: pieces of min_frames to max_frames, and the gaps between them.

    A piece ends at a cut, where the face is lost, turned away, another one or unsure, and where the picture stands
    still or is damaged. One that would grow too long gives its first min_frames away, so that nothing of it is lost.
    max_frames is at least min_frames + AHEAD.
    """

    def __init__(
        self,
        detector: FaceDetector,
        resolution: int,
        min_frames: int,
        max_frames: int,
        max_yaw: float,
        framing: Framing = "insightface",
    ):
        self._detector, self._max_yaw, self._framing = detector, max_yaw, framing
        self._min, self._max = min_frames, max_frames
        self._aligner = LookaheadAligner(resolution)

    def cut(self, frames: Iterable[TimedFrame]) -> Iterator[Piece | Gap]:
        shots = ShotDetector()
        piece, gap = None, None
        previous: FaceObservation | None = None
        expected: np.ndarray | None = None
        source, still = None, 0
        for frame in frames:
            still = still + 1 if frame.source == source else 0
            is_repeat, source = still > 0, frame.source
            is_cut = False if is_repeat else shots(frame.pixels)
            if is_cut:
                previous, expected = None, None
            face = previous if is_repeat and previous is not None else self._detector(frame.pixels, previous)
            look = None
            if face is not None and abs(face.yaw or 0) <= TURNED:
                look = face_look(frame.pixels, face.points)
            is_other = look is not None and expected is not None and look_change(look.person, expected) > JUMP
            is_other = is_other and shots.share > JUMP_SHARE and not is_repeat
            reason = "the picture is damaged" if frame.is_damaged else self._unusable(face, still)
            if piece is not None and (is_cut or is_other or reason):
                yield from self._ended(piece, reason or ("a cut" if is_cut else "another face takes its place"))
                piece = None
            if is_other:
                expected = None
            if look is not None:
                expected = look.person if expected is None else expected + LOOK_MEMORY * (look.person - expected)
            previous = face
            if reason:
                if gap is not None and gap.reason != reason:
                    yield gap
                    gap = None
                gap = Gap(frame.time if gap is None else gap.time, (0 if gap is None else gap.num_frames) + 1, reason)
                continue
            if gap is not None:
                yield gap
                gap = None
            if piece is None:
                piece = Piece(frame.time)
            self._add(piece, frame.pixels, face, look)
            if len(piece) >= self._max:
                self._align(piece)
                yield from self._checked(piece.first(self._min))
            elif self._aligner.waiting >= 2 * AHEAD:
                self._align(piece)
        if gap is not None:
            yield gap
        if piece is not None:
            yield from self._ended(piece, "the end")

    def _unusable(self, face: FaceObservation | None, still: int) -> str | None:
        if still > LONGEST_STILL * FPS:
            return "the picture stands still"
        if face is None:
            return "no face"
        if face.confidence < MIN_CONFIDENCE:
            return "the face is not sure to be one"
        if face.yaw is not None and abs(face.yaw) > self._max_yaw:
            return f"the face is turned by more than {self._max_yaw:g} degrees"
        if (face.box[2:] - face.box[:2]).max() < MIN_SIDE:
            return f"the face is smaller than {MIN_SIDE:g} px"
        return None

    def _add(self, piece: Piece, pixels: np.ndarray, face: FaceObservation, look: Look | None) -> None:
        self._aligner.add(pixels, face.framed(self._framing))
        piece.openings.append(float("nan") if face.landmarks is None else float(mouth_opening(face.landmarks)))
        piece.yaws.append(float(face.yaw or 0))
        piece.lowers.append(np.full(NUM_LOWER, np.nan, np.float32) if look is None else look.lower)

    def _align(self, piece: Piece, is_end: bool = False) -> None:
        for face, scale in self._aligner.take(is_end):
            piece.faces.append(face)
            piece.scales.append(scale)

    def _ended(self, piece: Piece, by: str) -> Iterator[Piece | Gap]:
        if len(piece) < self._min:
            seconds = len(piece) / FPS
            yield Gap(piece.time, len(piece), f"shorter than {self._min / FPS:g} s: {seconds:.2f} s until {by}")
        else:
            self._align(piece, is_end=True)
            yield from self._checked(piece)
        self._aligner.drop()

    def _checked(self, piece: Piece) -> Iterator[Piece | Gap]:
        if piece.covered > MAX_COVERED:
            yield Gap(piece.time, len(piece), f"something lies over the mouth in {piece.covered:.0%} of it")
        else:
            yield piece
