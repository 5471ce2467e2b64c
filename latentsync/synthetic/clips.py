"""Clips of avatars speaking: a seed fixes who, how they move, what they say, and every pixel."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .avatar import Identity, Pose, draw, draw_frame
from .speech import Speech, Voice, synthesise


@dataclass(frozen=True)
class Motion:
    """Smooth wandering of the head, blinks and gaze. Everything is a function of time in seconds."""

    base: Pose
    waves: np.ndarray  # (6, 3, 3): amplitude, frequency (Hz), phase for x, y, scale, roll, yaw, pitch
    blinks: np.ndarray  # times, s
    glances: np.ndarray  # (n, 3): time, gaze x, gaze y

    @staticmethod
    def random(rng: np.random.Generator, duration: float) -> "Motion":
        base = Pose(
            x=rng.uniform(0.44, 0.56),
            y=rng.uniform(0.44, 0.52),
            scale=rng.uniform(0.78, 1.05),
            roll=rng.uniform(-0.06, 0.06),
            yaw=rng.uniform(-0.18, 0.18),
            pitch=rng.uniform(-0.1, 0.1),
        )
        reach = np.array([0.012, 0.012, 0.02, 0.03, 0.1, 0.07]) * rng.uniform(0.3, 1.3)
        waves = np.stack(
            [
                reach[:, None] * rng.uniform(0.2, 0.6, (6, 3)),
                rng.uniform(0.08, 0.7, (6, 3)),
                rng.uniform(0, 2 * np.pi, (6, 3)),
            ],
            -1,
        )
        blinks = np.cumsum(rng.uniform(1.2, 4.5, int(duration) + 2)) - rng.uniform(0, 2)
        num_glances = int((duration + 2) / 1.3) + 1
        glances = np.column_stack([np.arange(num_glances) * 1.3, rng.uniform(-1, 1, (num_glances, 2))])
        return Motion(base, waves, blinks, glances)

    def pose(self, time: float) -> Pose:
        amplitude, frequency, phase = np.moveaxis(self.waves, -1, 0)
        x, y, scale, roll, yaw, pitch = (amplitude * np.sin(2 * np.pi * frequency * time + phase)).sum(1)
        blink = float(np.clip(1.4 - np.abs(self.blinks - time).min() / 0.075, 0, 1))
        gaze = self.glances[np.searchsorted(self.glances[:, 0], time, "right") - 1, 1:]
        b = self.base
        return replace(
            b,
            x=b.x + x,
            y=b.y + y,
            scale=b.scale * (1 + scale),
            roll=b.roll + roll,
            yaw=b.yaw + yaw,
            pitch=b.pitch + pitch,
            blink=blink,
            gaze=(float(gaze[0]), float(gaze[1])),
        )


@dataclass(frozen=True)
class AvatarClip:
    """One avatar moving and speaking; frames are drawn on demand.

    Seeds are apart: the same ``identity_seed`` with another ``speech_seed`` is the same person, moving and looking
    the same, saying something else.
    """

    identity_seed: int
    speech_seed: int
    duration: float = 4.0
    fps: float = 25.0

    @property
    def num_frames(self) -> int:
        return int(self.duration * self.fps + 1e-6)

    @cached_property
    def identity(self) -> Identity:
        return Identity.random(np.random.default_rng([self.identity_seed, 1]))

    @cached_property
    def motion(self) -> Motion:
        return Motion.random(np.random.default_rng([self.identity_seed, 2]), self.duration)

    @cached_property
    def speech(self) -> Speech:
        """The voice goes with the speech, not with the face: any face may be given any voice."""
        return self.speech_by(0)

    def speech_by(self, voice: int) -> Speech:
        """The same words, with the same lips, in one of any number of voices; 0 is the clip's own."""
        rng = np.random.default_rng([self.speech_seed, 3])
        own = Voice.random(rng)
        other = Voice.random(np.random.default_rng([self.speech_seed, 4, voice]))
        return synthesise(rng, self.duration, replace(other, tempo=own.tempo) if voice else own)

    @cached_property
    def lips(self) -> np.ndarray:
        """(F, 2): true opening and spread of the lips at the middle of each frame's display time."""
        return self.speech.lips_at((np.arange(self.num_frames) + 0.5) / self.fps)

    def pose(self, index: int) -> Pose:
        opening, spread = self.lips[index]
        return replace(self.motion.pose(index / self.fps), opening=float(opening), spread=float(spread))

    def frame(self, index: int, height: int = 512, width: int = 512) -> np.ndarray:
        """(height, width, 3) uint8 RGB."""
        return draw_frame(self.identity, self.pose(index), height, width)

    def view(self, index: int, frame_from_pixel: np.ndarray, height: int, width: int) -> np.ndarray:
        """Any affine view of a frame, drawn directly rather than resampled; see `avatar.draw`."""
        return draw(self.identity, self.pose(index), frame_from_pixel, height, width)
