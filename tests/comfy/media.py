"""Clips for the host, drawn once: a speaking avatar with and without sound, another speech, and nobody at all."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from latentsync.media.video_reader import read_frames
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech
from latentsync.synthetic.scenes import Actor, Scene, Shot, write_scene

SIDE = 256  # px
SECONDS = 2.0
FPS = 25
IDENTITY, NEIGHBOUR, OWN, OTHER = 1_000_001, 1_000_004, 2_000_001, 3_000_001  # seeds that training does not draw


@dataclass(frozen=True)
class Clips:
    """Names in ``folder`` (and in the server's input/)."""

    folder: Path
    avatar: AvatarClip
    speech_of: AvatarClip
    talk: str = "talk.mp4"  # SECONDS at FPS, SIDE px, with sound
    silent: str = "silent.mp4"  # the same without sound
    speech: str = "speech.wav"  # another speech, 16 kHz mono, as long
    nobody: str = "nobody.mp4"  # moving colours, 12 frames
    two: str = "two.mp4"  # the avatar at the left and another one at the right, as long, 2 x SIDE px wide, silent

    def frames(self, name: str) -> np.ndarray:
        """(F, H, W, 3) uint8."""
        return decoded(self.folder / name)


def decoded(path: Path) -> np.ndarray:
    """(F, H, W, 3) uint8, with the reader of the library."""
    return np.stack([frame.pixels for frame in read_frames(path)])


def draw_clips(folder: Path) -> Clips:
    avatar, other = (AvatarClip(IDENTITY, seed, SECONDS, fps=FPS) for seed in (OWN, OTHER))
    clips = Clips(folder, avatar, other)
    write_speech(avatar, folder / "own.wav")
    write_speech(other, folder / clips.speech)
    write_clip(avatar, folder / clips.talk, side=SIDE, audio=folder / "own.wav")
    write_clip(avatar, folder / clips.silent, side=SIDE)
    write_nobody(folder / clips.nobody)
    second = AvatarClip(NEIGHBOUR, OTHER + 1, SECONDS, fps=FPS)
    scene = Scene((Shot(SECONDS, (Actor(avatar), Actor(second))),), SIDE, 2 * SIDE, FPS)
    write_scene(scene, folder / clips.two)
    return clips


def draw_talk(path: Path, seconds: float, fps: float) -> Path:
    """Another clip of the avatar, without sound."""
    write_clip(AvatarClip(IDENTITY, OWN, seconds, fps=fps), path, side=SIDE)
    return path


def write_nobody(path: Path, count: int = 12) -> None:
    ramp = np.linspace(0, 1, SIDE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for index in range(count):
            waves = [np.outer(np.sin(5 * ramp + index / 3 + shift), np.cos(3 * ramp + shift)) for shift in range(3)]
            pixels = (127 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Streams:
    """What a container says and holds, read with PyAV itself and not with the code under test."""

    num_frames: int
    fps: Fraction
    size: tuple[int, int]  # width, height
    duration: float  # s, of the picture
    sample_rate: int | None
    channels: int | None
    sound_duration: float | None  # s, from the samples that come out

    @staticmethod
    def of(path: Path) -> "Streams":
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            times = [frame.pts * frame.time_base for frame in container.decode(video)]
            fps, size = video.average_rate, (video.width, video.height)
        rate = channels = sound = None
        with av.open(str(path)) as container:
            if container.streams.audio:
                stream = container.streams.audio[0]
                rate, channels = stream.sample_rate, stream.channels
                sound = sum(frame.samples for frame in container.decode(stream)) / rate
        seconds = float(times[-1] - times[0] + 1 / fps)
        return Streams(len(times), fps, size, seconds, rate, channels, sound)
