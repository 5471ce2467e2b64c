"""Clips of several avatars with cuts, turned, covered and absent faces, of which everything is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import cv2
import numpy as np

from ..media.marking import DRAWN, Marking
from ..media.video_writer import AudioSource, VideoWriter
from .avatar import Identity, Pose, draw_frame
from .clips import AvatarClip

HEAD_RADII = (0.31, 0.48)  # head units, across and down, of the round head that is turned
BAR = (0.62, 0.2, 0.24)  # head units: width, height and place below the head's middle of what covers a mouth
BAR_COLOUR = (52, 60, 84)
CIRCLE = math.tau


@dataclass(frozen=True)
class SceneFace:
    """What is true of one avatar in one frame.

    person   its identity seed
    centre   (x, y) px of the head's middle, between eyes and nose
    unit     px of one head unit; a face is about 0.52 wide
    yaw      degrees, positive turned to the picture's right
    opening  of the lips, 0..1
    covered  something lies over its mouth
    present  its head's middle is within its part of the picture
    """

    person: int
    centre: tuple[float, float]
    unit: float
    yaw: float
    opening: float
    covered: bool
    present: bool


@dataclass(frozen=True)
class Actor:
    """One avatar in one shot; functions are of the time in s since the shot began.

    clip     who, and what is said through the whole scene
    shift    how far it is moved, (x, y) in units of the frame's height
    turn     degrees it is turned about the vertical axis
    covered  whether a bar lies over its mouth
    zoom     factor of its size
    """

    clip: AvatarClip
    shift: Callable[[float], tuple[float, float]] = lambda time: (0.0, 0.0)
    turn: Callable[[float], float] = lambda time: 0.0
    covered: Callable[[float], bool] = lambda time: False
    zoom: float = 1.0

    def pose(self, index: int, time: float) -> Pose:
        pose = self.clip.pose(index)
        x, y = self.shift(time)
        return replace(pose, x=pose.x + x, y=pose.y + y, scale=pose.scale * self.zoom)


@dataclass(frozen=True)
class Shot:
    """`actors` beside each other, each in an equal part of the picture, for `duration` s."""

    duration: float
    actors: tuple[Actor, ...]


@dataclass(frozen=True)
class Scene:
    """Shots with cuts between them; frames are drawn on demand."""

    shots: tuple[Shot, ...]
    height: int = 288
    width: int = 512
    fps: float = 25.0

    @property
    def num_frames(self) -> int:
        return self._starts[-1]

    @property
    def cuts(self) -> list[int]:
        """Frames at which another shot begins, without the first."""
        return self._starts[1:-1]

    @property
    def _starts(self) -> list[int]:
        return [0, *accumulate(round(shot.duration * self.fps) for shot in self.shots)]

    def _place(self, index: int) -> tuple[Shot, float]:
        number = max(i for i, start in enumerate(self._starts[:-1]) if start <= index)
        return self.shots[number], (index - self._starts[number]) / self.fps

    def frame(self, index: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB."""
        shot, time = self._place(index)
        part = self.width // len(shot.actors)
        frame = np.zeros((self.height, self.width, 3), np.uint8)
        for number, actor in enumerate(shot.actors):
            pose = actor.pose(index, time)
            picture = draw_frame(actor.clip.identity, pose, self.height, part)
            picture = turned(picture, pose, actor.turn(time), actor.clip.identity)
            if actor.covered(time):
                _cover(picture, pose)
            frame[:, number * part : (number + 1) * part] = picture
        return frame

    def faces(self, index: int) -> list[SceneFace]:
        """The truth about a frame, from left to right."""
        shot, time = self._place(index)
        part = self.width / len(shot.actors)
        found = []
        for number, actor in enumerate(shot.actors):
            pose = actor.pose(index, time)
            x, y = _pixel(pose, 0.0, 0.0, self.height, part)
            found.append(
                SceneFace(
                    person=actor.clip.identity_seed,
                    centre=(number * part + x, y),
                    unit=pose.scale * self.height,
                    yaw=actor.turn(time) + math.degrees(pose.yaw) / 2,  # parallax is half of a true turn
                    opening=pose.opening,
                    covered=actor.covered(time),
                    present=0 <= x < part and 0 <= y < self.height,
                )
            )
        return found


def turned(picture: np.ndarray, pose: Pose, degrees: float, identity: Identity) -> np.ndarray:
    """A drawn frame (H, W, 3) whose head is turned about its axis as if the face were painted on an egg."""
    if not degrees:
        return picture
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    matrix = pose.head_from_frame()
    x, y = (columns + 0.5) / height + (1 - width / height) / 2, (rows + 0.5) / height
    across = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    down = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    radius = HEAD_RADII[0] * identity.half_width / 0.26 * np.sqrt(np.clip(1 - (down / HEAD_RADII[1]) ** 2, 1e-6, 1))
    angle = np.arcsin(np.clip(across / radius, -1, 1)) - math.radians(degrees)
    source = radius * np.sin(np.clip(angle, -CIRCLE / 4, CIRCLE / 4))
    moved = np.where((np.abs(across) < radius) & (np.abs(down) < HEAD_RADII[1]), source - across, 0) * pose.scale
    moved *= height
    x_map, y_map = columns + moved * math.cos(pose.roll), rows + moved * math.sin(pose.roll)
    return cv2.remap(picture, x_map.astype(np.float32), y_map.astype(np.float32), cv2.INTER_LINEAR)


def _cover(picture: np.ndarray, pose: Pose) -> None:
    """Paint a bar over the mouth."""
    height, width = picture.shape[:2]
    half_width, half_height, below = BAR[0] / 2, BAR[1] / 2, BAR[2]
    corners = [(sx * half_width, below + sy * half_height) for sx, sy in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    outline = np.array([_pixel(pose, *corner, height, width) for corner in corners])
    cv2.fillConvexPoly(picture, np.rint(outline).astype(np.int32), BAR_COLOUR, cv2.LINE_AA)


def _pixel(pose: Pose, x: float, y: float, height: int, width: float) -> tuple[float, float]:
    """Place of a point given in head units, px."""
    cosine, sine = math.cos(pose.roll) * pose.scale, math.sin(pose.roll) * pose.scale
    column = (pose.x + cosine * x - sine * y - (1 - width / height) / 2) * height - 0.5
    return column, (pose.y + sine * x + cosine * y) * height - 0.5


def scene_of_everything(first: int = 3, second: int = 4, third: int = 7, fps: float = 25.0) -> Scene:
    """Twelve seconds: two speakers, of whom the right one leaves and returns; a cut to the left one, who turns to
    profile; a cut to a third person, whose mouth is covered for a while; a cut to the two, in each other's places."""
    left, right, other = (AvatarClip(seed, seed, duration=12.0, fps=fps) for seed in (first, second, third))

    def leaves(time: float) -> tuple[float, float]:
        return (1.1 * _bump(time, 1.0, 2.4, 0.5), 0.0)

    def turns(time: float) -> float:
        return 85.0 * _bump(time, 0.8, 1.8, 0.6)

    return Scene(
        (
            Shot(3.6, (Actor(left, zoom=0.8), Actor(right, zoom=0.8, shift=leaves))),
            Shot(3.0, (Actor(left, turn=turns),)),
            Shot(3.0, (Actor(other, covered=lambda time: 1.0 <= time < 1.8),)),
            Shot(2.4, (Actor(right, zoom=0.8), Actor(left, zoom=0.8))),
        ),
        fps=fps,
    )


def scene_of_two(first: int = 3, second: int = 4, duration: float = 4.0, fps: float = 25.0) -> Scene:
    """Two people beside each other, each saying something else."""
    clips = (AvatarClip(seed, seed, duration=duration, fps=fps) for seed in (first, second))
    return Scene((Shot(duration, tuple(Actor(clip, zoom=0.8) for clip in clips)),), fps=fps)


def _bump(time: float, begin: float, end: float, ramp: float) -> float:
    """0, rising over `ramp` s from `begin`, 1, and back to 0 from `end` on."""
    rise, fall = (min(max((time - start) / ramp, 0.0), 1.0) for start in (begin, end))
    return (math.cos(math.pi * fall) - math.cos(math.pi * rise)) / 2


def write_scene(scene: Scene, path: Path, audio: Path | None = None) -> None:
    """The scene as a video file, with the sound of the file ``audio`` if given. Raises OutputError."""
    rate = Fraction(scene.fps).limit_denominator(1001)
    sound = AudioSource(audio) if audio else None
    mark = Marking(comment=DRAWN)
    with VideoWriter(path, scene.width, scene.height, rate=rate, audio=sound, mark=mark) as writer:
        for index in range(scene.num_frames):
            writer.write(scene.frame(index))
