"""Peak memory of the whole command line on a short and a long 1080x1920 clip.

    python -m benchmarks.memory

Each run is a process of its own, measured by the operating system (ru_maxrss). Few denoising steps are taken, because
their number changes the time and not the memory.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from latentsync.given_paths import given_path, path_or_word
from latentsync.media.video_reader import probe_video

from .measure import FPS, peak_memory, repeat_video, write_portrait, write_speech

ROOT = Path(__file__).resolve().parents[1]
MAX_RATIO, MAX_BYTES = 1.15, 2.5e9
SAMPLE_SECONDS = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=given_path, help="sample whose frames are repeated (default: a drawn avatar)")
    parser.add_argument("--model", type=path_or_word, default="tiny", help="as for main.py (default: the bundled one)")
    parser.add_argument("--inference_steps", type=int, default=1)
    parser.add_argument("--guidance_scale", type=float, default=1.5)
    parser.add_argument("--seconds", type=float, nargs=2, default=(10, 60), metavar=("SHORT", "LONG"))
    arguments = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = arguments.video or write_portrait(folder / "sample.mp4", SAMPLE_SECONDS * FPS)
        facts = probe_video(sample)
        print(
            f"{facts.width}x{facts.height} at {float(facts.fps):g} fps, model {arguments.model}, "
            f"{arguments.inference_steps} denoising step(s), guidance {arguments.guidance_scale:g}\n"
        )
        print("| clip | peak memory | CPU time |\n|---|---|---|")
        for seconds in arguments.seconds:
            video = repeat_video(sample, folder / f"video_{seconds:g}.mp4", seconds)
            speech = write_speech(folder / f"speech_{seconds:g}.wav", seconds)
            command = [sys.executable, "main.py", "--quiet", "--model", arguments.model]
            command += ["--video_path", str(video), "--audio_path", str(speech)]
            command += ["--video_out_path", str(folder / f"out_{seconds:g}.mp4")]
            command += ["--inference_steps", str(arguments.inference_steps)]
            command += ["--guidance_scale", str(arguments.guidance_scale)]
            peak, cpu = peak_memory(command, ROOT)
            peaks.append(peak)
            print(f"| {seconds:g} s | {peak / 1e9:.3f} GB | {cpu:.0f} s |", flush=True)
    ratio = peaks[1] / peaks[0]
    passed = ratio <= MAX_RATIO and max(peaks) <= MAX_BYTES
    print(
        f"\nratio {ratio:.3f} (goal: at most {MAX_RATIO}), largest {max(peaks) / 1e9:.2f} GB "
        f"(goal: at most {MAX_BYTES / 1e9}): {'met' if passed else 'NOT met'}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
