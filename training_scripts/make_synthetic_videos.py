"""Raw videos of drawn avatars speaking, as input of prepare_data.py where no footage is at hand.

Writes avatar_00.mp4, ... of various frame rates and sizes, with sound. With --faults also: broken.mp4 (not a video),
cut_off.mp4 (half of the first), silent.mp4 (no sound), late.mp4 (its sound comes 160 ms too late), blurred.mp4,
two_shots.mp4 (a cut in the middle) and a copy of the first.

Exit codes: 0 done, 1 failed, 2 wrong arguments.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from latentsync.errors import LatentSyncError, OptionError
from latentsync.given_paths import given_path
from latentsync.media.video_writer import AudioSource, VideoWriter, write_wav
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.speech import SAMPLE_RATE

FIRST_SEED = 2_000_000  # nobody here is in the small model's training set or among the avatars held out
RATES = (Fraction(25), Fraction(30000, 1001), Fraction(24), Fraction(50))
ASPECTS = (1.0, 16 / 9, 4 / 3)
LATE = 0.16  # s, four frames at 25 fps


@dataclass(frozen=True)
class RawVideo:
    """seeds: of who is seen, one shot each; delay: s by which the sound comes too late; blur: sigma, px."""

    name: str
    seeds: tuple[int, ...]
    rate: Fraction
    width: int
    height: int
    seconds: float
    delay: float = 0.0
    blur: float = 0.0
    has_sound: bool = True


def plan(count: int, height: int, seconds: float, faults: bool) -> list[RawVideo]:
    """What to write; the first ones are without fault."""
    videos = []
    for number in range(count):
        width = 2 * round(ASPECTS[number % len(ASPECTS)] * height / 2)
        rate = RATES[number % len(RATES)]
        videos.append(RawVideo(f"avatar_{number:02}", (FIRST_SEED + number,), rate, width, height, seconds))
    if faults:

        def one(name: str, place: int, **facts) -> RawVideo:
            return RawVideo(name, (FIRST_SEED + 1000 + place,), RATES[0], height, height, seconds, **facts)

        two = (FIRST_SEED + 2000, FIRST_SEED + 2001)
        videos += [
            one("late", 0, delay=LATE),
            one("silent", 1, has_sound=False),
            one("blurred", 2, blur=height / 60),
            RawVideo("two_shots", two, RATES[0], height, height, seconds),
        ]
    return videos


def write_video(video: RawVideo, folder: Path) -> Path:
    """Draw it; each shot lasts video.seconds. Raises OutputError."""
    clips = [AvatarClip(seed, seed, video.seconds, float(video.rate)) for seed in video.seeds]
    sound = np.concatenate([clip.speech.waveform for clip in clips])
    shift = round(abs(video.delay) * SAMPLE_RATE)
    still = np.zeros(shift, np.float32)
    if video.delay > 0:
        sound = np.concatenate([still, sound])[: len(sound)]
    elif shift:
        sound = np.concatenate([sound[shift:], still])
    target, wav = folder / f"{video.name}.mp4", folder / f".{video.name}.wav"
    write_wav(wav, sound, SAMPLE_RATE)
    try:
        audio = AudioSource(wav) if video.has_sound else None
        with VideoWriter(target, video.width, video.height, rate=video.rate, audio=audio) as writer:
            for clip in clips:
                for index in range(clip.num_frames):
                    pixels = clip.frame(index, video.height, video.width)
                    writer.write(cv2.GaussianBlur(pixels, (0, 0), video.blur) if video.blur else pixels)
    finally:
        wav.unlink()
    return target


def write_videos(folder: Path, videos: list[RawVideo], faults: bool, log: Callable[[str], None]) -> list[Path]:
    """All files, those that are there already included. Raises OutputError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for video in videos:
        path = folder / f"{video.name}.mp4"
        if not path.exists():
            write_video(video, folder)
            log(f"{path}: {video.width}x{video.height}, {float(video.rate):.2f} fps")
        written.append(path)
    if faults:
        first = written[0]
        (folder / "broken.mp4").write_bytes(b"this is no video" * 64)
        (folder / "cut_off.mp4").write_bytes(first.read_bytes()[: first.stat().st_size // 2])
        (folder / "more").mkdir(exist_ok=True)
        shutil.copyfile(first, folder / "more" / first.name)
        written += [folder / "broken.mp4", folder / "cut_off.mp4", folder / "more" / first.name]
    return written


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=given_path, required=True, metavar="DIR")
    parser.add_argument("--count", type=int, default=8, help="videos without fault (default: 8)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of each shot (default: 12)")
    parser.add_argument("--height", type=int, default=288, metavar="PX", help="of the picture (default: 288)")
    parser.add_argument("--faults", action="store_true", help="also the broken and faulty ones")
    parsed = parser.parse_args(arguments)
    try:
        if parsed.count < 1 or not 1 <= parsed.seconds <= 600 or not 96 <= parsed.height <= 2160:
            raise OptionError("expected a --count from 1 on, --seconds of 1 to 600 and a --height of 96 to 2160")
        videos = plan(parsed.count, parsed.height, parsed.seconds, parsed.faults)
        written = write_videos(parsed.output, videos, parsed.faults, print)
    except LatentSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    print(f"{len(written)} videos in {parsed.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
