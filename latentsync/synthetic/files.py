"""Avatar clips as files, as a user would bring them."""

from fractions import Fraction
from pathlib import Path

from ..media.marking import DRAWN, Marking
from ..media.video_writer import AudioSource, VideoWriter, write_wav
from .clips import AvatarClip
from .speech import SAMPLE_RATE


def write_speech(clip: AvatarClip, path: Path) -> None:
    """What the clip says, as a 16 kHz mono wav file. Raises OutputError."""
    write_wav(path, clip.speech.waveform, SAMPLE_RATE)


def write_clip(clip: AvatarClip, path: Path, side: int = 512, audio: Path | None = None) -> None:
    """The clip as a square video of ``side`` px, with the sound of the file ``audio`` if given. Raises OutputError."""
    sound = AudioSource(audio) if audio else None
    rate = Fraction(clip.fps).limit_denominator(1001)
    with VideoWriter(path, side, side, rate=rate, audio=sound, mark=Marking(comment=DRAWN)) as writer:
        for index in range(clip.num_frames):
            writer.write(clip.frame(index, side, side))
