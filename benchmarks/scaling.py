"""Time and memory of the command line by length of the clip and by number of faces, with the bundled model.

    python -m benchmarks.scaling                        # 10 s and 60 s with one face, 10 s with two
    python -m benchmarks.scaling --seconds 10 600 --inference_steps 1    # ten minutes, of less work for each frame

Small pictures and the preset draft, so that it ends soon; neither changes how it grows. Each run is a process of its
own; its peak is what the operating system counts (ru_maxrss). Time is linear where a further second costs the same
between any two lengths, memory flat where the longest clip takes hardly more than the shortest.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip
from latentsync.synthetic.scenes import scene_of_two, write_scene

from .measure import FPS, peak_memory, repeat_video, write_speech

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 4.0  # drawn, then repeated
SIDE = 256  # px
MAX_MEMORY_RATIO = 1.15


@dataclass(frozen=True)
class Run:
    seconds: float
    faces: int
    cpu: float  # s
    peak: float  # bytes


def measure(source: Path, seconds: float, faces: int, folder: Path, options: list[str]) -> Run:
    name = f"{faces}_{seconds:g}"
    video = repeat_video(source, folder / f"video_{name}.mp4", seconds)
    speech = write_speech(folder / f"speech_{name}.wav", seconds)
    command = [sys.executable, "main.py", "--quiet", "--model", "tiny", "--no_track_cache", *options]
    command += ["--face", "all" if faces > 1 else "largest", "--video_path", video, "--audio_path", speech]
    peak, cpu = peak_memory([*map(str, command), "--video_out_path", str(folder / f"out_{name}.mp4")], ROOT)
    print(
        f"| {seconds:g} s | {faces} | {cpu:.0f} | {1000 * cpu / (seconds * FPS):.0f} | {peak / 1e9:.2f} GB |",
        flush=True,
    )
    return Run(seconds, faces, cpu, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 60])
    parser.add_argument("--preset", default="draft")
    parser.add_argument("--inference_steps", type=int, help="in place of the preset's")
    arguments = parser.parse_args()
    options = ["--preset", arguments.preset]
    if arguments.inference_steps:
        options += ["--inference_steps", str(arguments.inference_steps)]
    lengths = sorted(arguments.seconds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one, two = folder / "one.mp4", folder / "two.mp4"
        write_clip(AvatarClip(0, 0, SAMPLE_SECONDS), one, SIDE)
        write_scene(scene_of_two(duration=SAMPLE_SECONDS), two)
        print(f"{' '.join(options)}, {FPS} frames a second\n")
        print("| clip | faces | CPU s | CPU ms a frame | peak memory |\n|---|---|---|---|---|")
        runs = [measure(one, seconds, 1, folder, options) for seconds in lengths]
        measure(two, lengths[0], 2, folder, options)
    for shorter, longer in pairwise(runs):
        rate = (longer.cpu - shorter.cpu) / (longer.seconds - shorter.seconds)
        print(f"\nfrom {shorter.seconds:g} s to {longer.seconds:g} s: {rate:.2f} CPU s for each further second")
    if len(runs) > 1:
        ratio = runs[-1].peak / runs[0].peak
        flat = "flat" if ratio <= MAX_MEMORY_RATIO else "NOT flat"
        print(f"memory of the longest over the shortest: {ratio:.3f}, {flat} (at most {MAX_MEMORY_RATIO})")


if __name__ == "__main__":
    main()
