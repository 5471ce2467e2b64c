"""ComfyUI's peak memory while the all-in-one node works on a short and a long 1080x1920 clip.

    python -m benchmarks.host_memory [--seconds 10 60] [--steps 1]

Each run has a server of its own, so that nothing of the other is cached; the peak is that of the run, not of the start.
Linux only. Few denoising steps are taken, because their number changes the time and not the memory.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.comfy.graphs import all_in_one
from tests.comfy.server import ComfyServer
from tests.comfy.setup_host import ROOT

from .measure import FPS, HEIGHT, WIDTH, repeat_video, write_portrait, write_speech

MAX_RATIO = 1.15
SAMPLE_SECONDS = 4


def peak(folder: Path, sample: Path, seconds: float, steps: int) -> tuple[float, float, float]:
    """MiB before the run, MiB at its peak, seconds that it took."""
    with ComfyServer(folder / f"base_{seconds:g}", {"latentsync-nodes": ROOT}) as server:
        video = server.add_input(repeat_video(sample, folder / f"video_{seconds:g}.mp4", seconds))
        speech = server.add_input(write_speech(folder / f"speech_{seconds:g}.wav", seconds))
        idle = server.rss()
        run = server.run(all_in_one(video, speech, steps=steps, guidance_scale=1.5), timeout=36_000)
        if run.status != "success" or run.peak_rss is None:
            raise RuntimeError(f"{run.status}: {run.message or 'this system does not tell the peak memory'}")
        return idle, run.peak_rss, run.seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs=2, default=(10, 60), metavar=("SHORT", "LONG"))
    parser.add_argument("--steps", type=int, default=1)
    given = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        sample = write_portrait(Path(name) / "sample.mp4", SAMPLE_SECONDS * FPS)
        print(f"{WIDTH}x{HEIGHT} at {FPS} fps, bundled model, {given.steps} denoising step(s), guidance 1.5\n")
        print("| clip | before | peak | time |\n|---|---|---|---|", flush=True)
        for seconds in given.seconds:
            idle, most, took = peak(Path(name), sample, seconds, given.steps)
            peaks.append(most)
            print(f"| {seconds:g} s | {idle:.0f} MiB | {most:.0f} MiB | {took:.0f} s |", flush=True)
    ratio = peaks[1] / peaks[0]
    print(f"\nratio {ratio:.3f} (goal: at most {MAX_RATIO}): {'met' if ratio <= MAX_RATIO else 'NOT met'}")
    return 0 if ratio <= MAX_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
