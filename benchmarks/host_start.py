"""What the pack adds to ComfyUI's start: the median of several starts with and without it, in turn.

    python -m benchmarks.host_start [--starts 5]

A start lasts from the process to the server's first answer. CPU time is the verdict, as other work on the machine does
not count there: exit code 1 if the pack adds half a second of it.
"""

import argparse
import re
import statistics
import sys
import tempfile
from pathlib import Path

from tests.comfy.server import ComfyServer
from tests.comfy.setup_host import ROOT

GOAL = 0.5  # s
PACK = "latentsync-nodes"
IMPORT_TIME = re.compile(r"([\d.]+) seconds(?: \(IMPORT FAILED\))?: .*" + PACK)


def start(packs: dict[str, Path]) -> tuple[float, float, float | None]:
    """Seconds of one start, CPU seconds of it, and the seconds that the host itself counts for the pack's import."""
    import psutil

    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base), packs) as server:
        if server.failed_imports():
            raise RuntimeError(f"the pack was not imported:\n{server.log_text()[-3000:]}")
        times = psutil.Process(server.process.pid).cpu_times()
        own = IMPORT_TIME.search(server.log_text())
        return server.start_seconds, times.user + times.system, float(own[1]) if own else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="of each kind (default: 5)")
    given = parser.parse_args()
    start({PACK: ROOT})  # fills the disk's cache and compiles modules
    runs = [(start({}), start({PACK: ROOT})) for _ in range(given.starts)]
    medians = []
    print("| | CPU time, median | wall time, median | all wall times |\n|---|---|---|---|")
    for name, kind in (("without the pack", [run[0] for run in runs]), ("with it", [run[1] for run in runs])):
        walls, cpus = sorted(run[0] for run in kind), [run[1] for run in kind]
        medians.append(statistics.median(cpus))
        shown = ", ".join(f"{seconds:.1f}" for seconds in walls)
        print(f"| {name} | {medians[-1]:.2f} s | {statistics.median(walls):.2f} s | {shown} |")
    added = medians[1] - medians[0]
    own = [run[1][2] for run in runs]
    said = "not in ComfyUI's list of imports" if None in own else f"ComfyUI's own list says at most {max(own):.1f} s"
    print(f"\nadded {added:+.2f} s of CPU time (goal: under {GOAL}); the pack's import: {said}")
    return 0 if added < GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
