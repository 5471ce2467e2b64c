"""Which of a clip's faces a user means."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ImageOps

from ..errors import FaceNotFoundError, OptionError
from ..given_paths import PICTURES, check_there
from ..media.container import NoPictureError, opened_picture
from ..media.video_reader import VideoFrame
from ..options import LipSyncOptions
from .detect import Framing
from .finder import FaceFinder, FaceTracker
from .people import ClipFaces, FacePath, face_look, look_distance
from .place import Placement, place
from .scan import scan_faces

PLACES = ("largest", "left", "right", "centre", "all")
EXPECTED = (
    "largest, left, right, centre, all, a face's number (0, 1, ..), a point x,y of the picture (in pixels, or as "
    "fractions like 0.25,0.4) or a picture of the person (png, jpg, webp)"
)
MOST_NAMED = 3  # other faces
MIN_PRESENCE = 0.2  # of the time of whom is seen longest: who is seen for less is not the one at the left
MAX_UNLIKE = 0.5  # look distance to a picture, which has another light and other clothes than the clip
# A face on a wall or a sign: its points keep within that share of its side, and so do its lips, in eye distances. Heads
# sway by 0.04 and more within a second, lips that speak move by 0.03 and more; printed faces by 0.001.
STILL, STILL_LIPS = 0.008, 0.03
LEAST_SEEN = 0.8  # s; less tells neither of a face that it moves nor of another that it does not
LEAST_SIDE = 32.0  # px; a smaller face is nobody's choice, see usability.py
POINT_MARGIN = 0.15  # of a face's box, by which a point may miss it

_NUMBER = re.compile(r"\d+")
_POINT = re.compile(r"(\d*\.?\d+)\s*[,;]\s*(\d*\.?\d+)")


@dataclass(frozen=True)
class FaceChoice:
    """What a user said, see `parse_choice`. `point` is (x, y) in px, or as fractions of width and height."""

    kind: Literal["largest", "left", "right", "centre", "all", "index", "point", "picture"]
    index: int = 0
    point: tuple[float, float] = (0.0, 0.0)
    is_fraction: bool = False
    picture: Path | None = None


def parse_choice(text: str) -> FaceChoice:
    """A choice of faces as a user writes it.

    "largest", "left", "right", "centre", "all"; a number as the list of faces gives it; "x,y", a point of the picture:
    fractions of its width and height where both have a decimal point and are 1 at most, else px; or the path of a
    picture of the person. Raises OptionError for anything else, or a picture that is not there.
    """
    text = text.strip()
    word = {"center": "centre"}.get(text.lower(), text.lower())
    if word in PLACES:
        return FaceChoice(word)
    if _NUMBER.fullmatch(text):
        return FaceChoice("index", index=int(text))
    if match := _POINT.fullmatch(text):
        x, y = match.groups()
        is_fraction = all("." in value and float(value) <= 1 for value in (x, y))
        return FaceChoice("point", point=(float(x), float(y)), is_fraction=is_fraction)
    if Path(text).suffix.lower() in PICTURES:
        check_there(text, "picture of the person", OptionError)
        return FaceChoice("picture", picture=Path(text))
    raise OptionError(f"unknown choice of the face '{text}'; expected {EXPECTED}")


def choose(clip: ClipFaces, choice: FaceChoice | str, finder: FaceFinder | None = None) -> list[int]:
    """Indices of the chosen paths, one but for "all"; empty where the clip has no face.

    "largest" passes over a face that never moves, as a photo on the wall does, where another one moves. "left", "right"
    and "centre" go by where a face is most of the time, of those seen for a fifth of the time of the
    one seen longest. A point means the face that is there first. `finder` reads the face of a picture.

    Raises OptionError for a number or a point without a face, a picture without one, or one that resembles nobody.
    """
    if isinstance(choice, str):
        choice = parse_choice(choice)
    if not clip.paths:
        return []
    if choice.kind == "all":
        return list(range(len(clip.paths)))
    if choice.kind == "index":
        if choice.index >= len(clip.paths):
            raise OptionError(f"there is no face {choice.index}; the clip has {described(clip)}")
        return [choice.index]
    if choice.kind == "point":
        return [_at_point(clip, choice)]
    if choice.kind == "picture":
        return [_like_picture(clip, choice.picture, finder)]
    if choice.kind == "largest":
        return [_largest(clip)]
    return [min(_lasting(clip), key=lambda index: _preference(clip.paths[index], choice.kind, clip.frame_size))]


@dataclass(frozen=True)
class FoundPerson:
    """Someone in a clip. index: of the face among all of the clip."""

    clip: ClipFaces
    index: int

    @property
    def path(self) -> FacePath:
        return self.clip.paths[self.index]

    def placement(self, resolution: int, options: LipSyncOptions, framing: Framing = "insightface") -> Placement:
        """Return where the face is to be generated in each frame, see faces.place.place."""
        return place(self.path, self.clip, resolution, options, framing)


def find_person(
    frames: Iterable[VideoFrame],
    choice: str = "largest",
    finder: FaceFinder | None = None,
    *,
    on_frame: Callable[[int], None] | None = None,
    advice: str = "Choose other frames",
    video: str | Path | None = None,
) -> FoundPerson:
    """Find everyone in consecutive frames, and whom `choice` means; the first of "all".

    finder: None for the built-in one. frames, on_frame: see scan_faces. advice, video: for the error. Raises MediaError
    for no frames, FaceNotFoundError where nobody is seen, OptionError as `choose` does.
    """
    finder = finder or FaceTracker()
    clip = scan_faces(frames, finder, on_frame=on_frame)
    check_seen(clip, advice, video)
    return FoundPerson(clip, choose(clip, choice, finder)[0])


def check_seen(clip: ClipFaces, advice: str, video: str | Path | None = None) -> None:
    """Raise FaceNotFoundError for a clip in which nobody is seen. advice: what to do."""
    if not clip.paths:
        where = "" if video is None else f" of '{video}'"
        raise FaceNotFoundError(
            f"no face was found in any of the {clip.num_frames} frames{where}; expected a visible face, frontal or "
            f"half turned, at least some 50 pixels and a twentieth of the frame wide. {advice}"
        )


def choice_notice(clip: ClipFaces, choice: str, chosen: int) -> str | None:
    """What a person should know who left the choice to "largest" where there are several faces: who speaks.

    Faces that are seen for a moment only, or are too small to speak, are no choice and not told.
    """
    others = [index for index in _lasting(clip) if _is_candidate(clip, index) and index != chosen]
    if choice.strip().lower() != "largest" or not others:
        return None
    passed = [index for index in others if index < chosen and _never_moves(clip, clip.paths[index])]
    told = f"{len(others) + 1} faces are in the clip; face {_placed(clip, chosen)} speaks, the largest one"
    if passed:
        told += f" that moves (face {_placed(clip, passed[0])} never moves, like a picture)"
    elif len(others) <= MOST_NAMED:
        told += f", and not {' or '.join(_placed(clip, index) for index in others)}"
    return f"{told}. Choose another by its number or place (face, on the command line --face)"


def _placed(clip: ClipFaces, index: int) -> str:
    x, y = np.median(clip.paths[index].centres, axis=0)
    return f"{index} at {x:.0f},{y:.0f}"


def _is_candidate(clip: ClipFaces, index: int) -> bool:
    path = clip.paths[index]
    return len(path) * clip.interval >= LEAST_SEEN and bool(np.median(path.side) >= LEAST_SIDE)


def _largest(clip: ClipFaces) -> int:
    """Paths come largest first."""
    among = list(range(len(clip.paths)))
    moving = [index for index in among if _is_candidate(clip, index) and not _never_moves(clip, clip.paths[index])]
    still = [index for index in among if _never_moves(clip, clip.paths[index])]
    if moving and still:
        among = moving
    longest = max(len(clip.paths[index]) for index in among)
    return next(index for index in among if len(clip.paths[index]) >= MIN_PRESENCE * longest)


def _never_moves(clip: ClipFaces, path: FacePath) -> bool:
    if len(path) * clip.interval < LEAST_SEEN:
        return False
    lips = path.opening[np.isfinite(path.opening)]
    return _range(path.points) < STILL * np.median(path.side) and (not len(lips) or _range(lips) < STILL_LIPS)


def _range(values: np.ndarray) -> float:
    """The widest way of any column (n, ...) in nine tenths of the time."""
    return float(np.ptp(np.percentile(values, (5, 95), axis=0), axis=0).max())


def described(clip: ClipFaces) -> str:
    """All faces of the clip, with what tells them apart, for a person to choose from."""
    lines = []
    for index, path in enumerate(clip.paths):
        x, y = np.median(path.centres, axis=0)
        lines.append(
            f"{index} at {x:.0f},{y:.0f} ({np.median(path.side):.0f} px, seen for {len(path) * clip.interval:.1f} s "
            f"from {clip.times[path.rows[0]]:.1f} s)"
        )
    if not lines:
        return "no face"
    return f"{len(lines)} face{'s' * (len(lines) > 1)}, largest first: {', '.join(lines)}"


def _lasting(clip: ClipFaces) -> list[int]:
    longest = max(map(len, clip.paths))
    return [index for index, path in enumerate(clip.paths) if len(path) >= MIN_PRESENCE * longest]


def _preference(path: FacePath, kind: str, frame_size: tuple[int, int]) -> float:
    """The least is chosen, of "left", "right" and "centre"."""
    x, y = np.median(path.centres, axis=0)
    if kind == "centre":
        return float(np.hypot(x - (frame_size[1] - 1) / 2, y - (frame_size[0] - 1) / 2))
    return float(x if kind == "left" else -x)


def _at_point(clip: ClipFaces, choice: FaceChoice) -> int:
    scale = clip.frame_size[::-1] if choice.is_fraction else (1, 1)
    point = np.array(choice.point) * scale
    found = []
    for index, path in enumerate(clip.paths):
        margin = POINT_MARGIN * path.side[:, None]
        inside = ((point >= path.box[:, :2] - margin) & (point <= path.box[:, 2:] + margin)).all(1)
        if inside.any():
            at = int(np.argmax(inside))
            found.append((int(path.rows[at]), float(np.linalg.norm(path.centres[at] - point)), index))
    if not found:
        raise OptionError(f"no face comes to the point {point[0]:.0f},{point[1]:.0f}; the clip has {described(clip)}")
    return min(found)[2]


def _like_picture(clip: ClipFaces, picture: Path, finder: FaceFinder | None) -> int:
    if finder is None:
        raise OptionError("a face is chosen by a picture, which needs a detector of faces; choose it by its number")
    try:
        with opened_picture(picture, OptionError, "the picture of the person") as image:
            pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except NoPictureError as error:
        raise OptionError(f"'{picture}' cannot be read as a picture; give a png, jpg or webp file") from error
    faces = finder.detect(pixels)
    look = face_look(pixels, faces[0].points) if faces else None
    if look is None:
        raise OptionError(f"no face seen from the front was found in '{picture}'; give a picture of the person's face")
    distances = [look_distance(look.person, path.look) if len(path.look) else np.inf for path in clip.paths]
    if min(distances) > MAX_UNLIKE:
        raise OptionError(f"nobody in the clip looks like '{picture}'; choose by number: {described(clip)}")
    return int(np.argmin(distances))
