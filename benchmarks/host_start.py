"""What the pack adds to ComfyUI's start: the median of several starts with and without it, in turn.

    python -m benchmarks.host_start [--starts 5]

A start is timed from the process to the server's first answer. Exit code 1 if the pack adds more than half a second.
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


def start(packs: dict[str, Path]) -> tuple[float, float | None]:
    """Seconds of one start, and those that the host itself counts for the pack's import."""
    with tempfile.TemporaryDirectory() as base, ComfyServer(Path(base), packs) as server:
        if server.failed_imports():
            raise RuntimeError(f"the pack was not imported:\n{server.log_text()[-3000:]}")
        own = IMPORT_TIME.search(server.log_text())
        return server.start_seconds, float(own[1]) if own else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="of each kind (default: 5)")
    given = parser.parse_args()
    start({PACK: ROOT})  # fills the disk's cache and compiles modules
    without, with_pack, own = [], [], []
    for _ in range(given.starts):
        without.append(start({})[0])
        seconds, imported = start({PACK: ROOT})
        with_pack.append(seconds)
        own.append(imported)
    print("| | median | all (s) |\n|---|---|---|")
    for name, seconds in (("without the pack", without), ("with it", with_pack)):
        print(f"| {name} | {statistics.median(seconds):.2f} s | {', '.join(f'{s:.2f}' for s in sorted(seconds))} |")
    added = statistics.median(with_pack) - statistics.median(without)
    said = max(own) if None not in own else float("nan")
    print(f"\nadded {added:+.2f} s (goal: under {GOAL}); ComfyUI's own list says at most {said:.1f} s for the import")
    return 0 if added < GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
