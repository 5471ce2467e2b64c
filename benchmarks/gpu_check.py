"""What a graphics card makes of LatentSync, in one command of at most six minutes, into one dated file.

    python -m benchmarks.gpu_check            # into benchmarks/results; nothing is downloaded
    python -m benchmarks.gpu_check --small    # seconds, on any CPU: whether the check itself works

Measured: the demo with the bundled model; the U-Net and the VAE of the released size with random weights at 256 and
512 px, in the formats and ways to save memory that there are; whether they fit into a card of 8 or 12 GB (torch is
allowed no more than such a card leaves it); and that the card computes what the CPU does, within a stated tolerance.

Rows are done in a child process in the order of what people ask first. What fails, for want of memory or otherwise, is
said in its row; a row that takes the process down is marked, and the next begins in a new one. Rows for which no time
is left are named. Exit code 1 where a result is not that of the CPU or nothing could be measured, else 0.
"""

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch

from latentsync import __version__
from latentsync.errors import is_out_of_memory
from latentsync.given_paths import given_path
from latentsync.model.loading import choose_device

from . import gpu_rows
from .gpu_rows import KEPT_FREE, LIMITS, SECONDS
from .measure import wait_for
from .stages import DECODE, ENCODE, describe

RESULTS = Path(__file__).with_name("results")
ELSEWHERE = Path("output/gpu_check")  # of small runs, which are not worth keeping
MARGIN = 10.0  # s at the end, to stop and to write
BROKEN = 3  # exit code of a child whose GPU answers no more
NO_MEMORY = "out of memory"


class Journal:
    """What became of each row, a line of JSON each, so that nothing is lost with the process."""

    def __init__(self, path: Path):
        self._path = path

    def write(self, key: str, **facts: object) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"row": key, **facts}) + "\n")

    def read(self) -> dict[str, dict]:
        """By row, in the order in which they began; what was begun and no more has "begun" alone."""
        found: dict[str, dict] = {}
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        for line in lines:
            facts = json.loads(line)
            found[facts.pop("row")] = facts
        return found


def work(check: gpu_rows.Check, journal: Journal, until: float) -> int:
    """Do the rows that are not in the journal yet, until that time.time(); the exit code of the child."""
    known = journal.read()
    taken: dict[str, float] = {}
    for row in check.rows():
        if row.key in known:
            continue
        left, needed = until - time.time(), 1.5 * taken[row.kind] if row.kind in taken else row.guess
        if needed > left:
            journal.write(row.key, skipped=f"no time left: about {needed:.0f} s are needed")
            continue
        print(f"\n{row.key}", flush=True)
        journal.write(row.key, begun=True)
        started = time.perf_counter()
        try:
            facts = row.work()
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            facts = {"failed": NO_MEMORY if is_out_of_memory(error) else f"{type(error).__name__}: {first}"}
        if "failed" in facts:
            check.forget()
        seconds = time.perf_counter() - started
        taken[row.kind] = max(taken.get(row.kind, 0.0), seconds)
        journal.write(row.key, **facts, row_seconds=seconds)
        print(facts.get("failed") or facts.get("skipped") or f"done in {seconds:.1f} s", flush=True)
        try:
            wait_for(check.device)
        except RuntimeError:
            return BROKEN
    return 0


def run_rows(command: list[str], journal: Journal, ends: float) -> bool:
    """Children until all rows are in the journal or the time is over; False where they fail outside of the rows."""
    while True:
        before = len(journal.read())
        child = subprocess.Popen(command, cwd=RESULTS.parents[1])
        try:
            code = child.wait(timeout=max(1.0, ends - MARGIN / 2 - time.time()))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            child.kill()
            child.wait()
        rows = journal.read()
        for key, facts in rows.items():
            if facts == {"begun": True}:
                journal.write(key, failed="cut off: no time left" if code is None else f"ended the process ({code})")
        if code in (0, None) or len(rows) == before:  # done, no time left, or it does not even begin
            return code in (0, None)


def facts_of(device: torch.device) -> dict:
    """The machine and the programs, as plain values."""
    facts = {
        "date": datetime.date.today().isoformat(),
        "hardware": describe(device) if device.type != "mps" else f"Apple {platform.machine()} (MPS)",
        "system": platform.platform(),
        "python": platform.python_version(),
        "latentsync": __version__,
        **{name: version(name) for name in ("torch", "diffusers")},
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["memory"] = properties.total_memory
        facts["compute capability"] = f"{properties.major}.{properties.minor}"
        facts["CUDA"], facts["cuDNN"] = (
            torch.version.cuda or f"ROCm {torch.version.hip}",
            torch.backends.cudnn.version(),
        )
    return facts


def page_of(facts: dict, rows: dict[str, dict], small: bool) -> str:
    """The results as Markdown."""
    size = "narrow networks, to try out the check" if small else "the released size, random weights"
    lines = [f"# {facts['hardware']}, {facts['date']}", ""]
    lines += [f"- {name}: {_gb(value) if name == 'memory' else value}" for name, value in facts.items()]
    lines += ["", f"`python -m benchmarks.gpu_check{' --small' if small else ''}`: {size}.", ""]
    if any(key.startswith("fits/") for key in rows):
        lines += _table(
            "What fits",
            f"A chunk of 16 frames as `balanced` has it, where torch may take what a card of that size has beside "
            f"{KEPT_FREE:g} GB for screen and driver.",
            ["format", "face", *(f"{limit} GB" for limit in LIMITS)],
            [
                [mode, f"{side} px", *(_fit(rows.get(f"fits/{mode}/{side}/{limit}", {})) for limit in LIMITS)]
                for mode, side in _modes(rows)
            ],
        )
    lines += _table(
        "Cost of the networks",
        f"Of 16 frames each, in seconds; clip: {SECONDS:g} s with one face in `balanced`, without the work on frames; "
        "peak: of what tensors take on the card, on a CPU of the whole process.",
        ["format", "face", "U-Net, guided", "deep features kept", "VAE, in", "VAE, out", "clip", "weights", "peak"],
        [[mode, f"{side} px", *_costs(rows[f"full/{mode}/{side}"])] for mode, side in _modes(rows)],
    )
    if demo := rows.get("demo"):
        said = _failure(demo) or (
            f"{demo['frames']} frames in {demo['seconds']:.1f} s ({demo['dtype']}, with the first use of the card), "
            f"peak {_gb(demo['peak'])}"
        )
        lines += ["## Demo, bundled model", "", said, ""]
    lines += _table(
        "The same as on the CPU",
        "Against float32 on the CPU, as a share of the result's deviation: the bundled model's latents after all steps "
        "of `balanced`; of the large U-Net one call; of the demo the PSNR of its frames.",
        ["what", "error", "tolerance", ""],
        [[key.removeprefix("equal/"), *_equality(found)] for key, found in rows.items() if key.startswith("equal/")],
    )
    if missing := _missing(rows):
        lines += ["## Not measured", "", *missing, ""]
    return "\n".join(lines)


def _table(title: str, text: str, head: list[str], body: list[list[str]]) -> list[str]:
    rows = [head, ["---"] * len(head), *body]
    return [f"## {title}", "", text, "", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _modes(rows: dict[str, dict]) -> list[tuple[str, str]]:
    return [tuple(key.split("/")[1:]) for key in rows if key.startswith("full/")]


def _failure(found: dict) -> str | None:
    return found.get("failed") or found.get("skipped")


def _missing(rows: dict[str, dict]) -> list[str]:
    """Why rows have no figure, each reason once; that something does not fit is a figure."""
    reasons: dict[str, list[str]] = {}
    for key, found in rows.items():
        why = _failure(found)
        if why and not (key.startswith("fits/") and why == NO_MEMORY):
            reasons.setdefault(why, []).append(f"`{key}`")
    return [f"- {why}: {', '.join(keys)}" for why, keys in reasons.items()]


def _fit(found: dict) -> str:
    if found.get("failed") == NO_MEMORY:
        return "**no**"
    return "yes" if found.get("fits") else "not measured"


def _costs(found: dict) -> list[str]:
    if why := _failure(found):
        return [why, *[""] * 6]
    stages = found["stages"]
    kept = next(value for name, value in stages.items() if "guided, deep" in name and "unguided" not in name)
    seconds = (found["guided"], kept, stages[ENCODE], stages[DECODE])
    peaks = [peak for peak in found["peak"].values() if peak is not None]
    return [
        *(f"{value:.3f}" for value in seconds), f"{found['clip']:.1f}", _gb(found["weights"]),
        _gb(max(peaks, default=None)),
    ]  # fmt: skip


def _equality(found: dict) -> list[str]:
    if why := _failure(found):
        return [why, "", ""]
    error, limit = (
        (f"{found['psnr']:.1f} dB", f"{found['least']:g} dB")
        if "psnr" in found
        else (f"{found['error']:.2g}", f"{found['tolerance']:g}")
    )
    return [error, limit, "passed" if found["passed"] else "**FAILED**"]


def _gb(count: float | None) -> str:
    return "" if count is None else f"{count / 1e9:.2f} GB"


def write_results(folder: Path, facts: dict, rows: dict[str, dict], small: bool) -> Path:
    """The page, and beside it the same as JSON; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    hardware = re.sub(r"[^A-Za-z0-9.]+", "-", facts["hardware"].split(",")[0]).strip("-")
    page = folder / f"{'small' if small else 'full-size'}_{hardware}_{facts['date']}.md"
    page.write_text(page_of(facts, rows, small), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1), encoding="utf-8")
    return page


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:1, mps, cpu (default: auto)")
    parser.add_argument("--minutes", type=float, default=6.0, help="for all of it (default: 6)")
    parser.add_argument("--small", action="store_true", help="narrow networks; always so on a CPU")
    parser.add_argument("--output", type=given_path, metavar="FOLDER", help=f"default: {RESULTS}; small: {ELSEWHERE}")
    parser.add_argument("--journal", type=given_path, help=argparse.SUPPRESS)  # of the child
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    started = time.time()
    device = choose_device(arguments.device)
    arguments.small = arguments.small or device.type == "cpu"
    if arguments.journal is not None:
        return work(gpu_rows.Check(device, arguments.small), Journal(arguments.journal), arguments.until)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        journal, ends = Journal(path), started + 60 * arguments.minutes
        command = [sys.executable, "-m", "benchmarks.gpu_check", "--journal", str(path), "--until", str(ends - MARGIN)]
        command += ["--device", arguments.device, *(["--small"] if arguments.small else [])]
        whole = run_rows(command, journal, ends)
        rows = journal.read()
    page = write_results(
        arguments.output or (ELSEWHERE if arguments.small else RESULTS), facts_of(device), rows, arguments.small
    )
    print(f"\n{page.read_text(encoding='utf-8')}\n{time.time() - started:.0f} s; {page} and .json")
    return 0 if whole and not any(found.get("passed") is False for found in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
