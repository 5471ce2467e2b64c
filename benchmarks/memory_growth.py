"""Memory of one process after each of many short runs, as in a server that is never started anew.

    python -m benchmarks.memory_growth --runs 30

Each run loads the model, finds the faces, generates, encodes and writes the report's figures, with the drawn avatar and
the bundled model. Resident memory is read after each; the first two, which fill caches, do not count.
"""

import argparse
import gc
import sys
import tempfile
from pathlib import Path

from latentsync.engine import lip_sync
from latentsync.given_paths import path_or_word
from latentsync.model.loading import find_model, load_model
from latentsync.options import LipSyncOptions
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech

MAX_GROWTH = 60e6  # bytes, from the second run to the last
WARM_UP = 2  # runs
SIDE = 192  # px


def resident_memory() -> float:
    """Bytes of this process in memory; where the system does not tell, the most it ever had."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.48, help="of each result (default: 0.48, twelve frames)")
    parser.add_argument("--model", type=path_or_word, default="tiny", help="as for main.py (default: the bundled one)")
    arguments = parser.parse_args(argv)
    clip = AvatarClip(identity_seed=3, speech_seed=3, duration=max(1.0, arguments.seconds))
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0, duration=arguments.seconds)
    memory = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_speech(clip, folder / "speech.wav")
        write_clip(clip, folder / "clip.mp4", SIDE, audio=folder / "speech.wav")
        for number in range(arguments.runs):
            model = load_model(find_model(arguments.model, Path("checkpoints")))
            report = lip_sync(
                folder / "clip.mp4", folder / "speech.wav", folder / "out.mp4", model, options, measure_opening=True
            )
            report.to_json()
            del model, report
            gc.collect()
            memory.append(resident_memory())
            print(f"run {number + 1}: {memory[-1] / 1e6:.0f} MB", flush=True)
    growth = memory[-1] - memory[min(WARM_UP, len(memory)) - 1]
    met = growth <= MAX_GROWTH
    print(
        f"growth after the first {WARM_UP}: {growth / 1e6:.1f} MB (goal: {MAX_GROWTH / 1e6:.0f}): "
        f"{'met' if met else 'NOT met'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
