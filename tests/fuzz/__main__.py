"""Damaged files for every reader of the project: python -m tests.fuzz --files 2000

Prints each fault as it is found and figures at the end; exit code 1 where there was one. The same seed makes the same
files. `--only KIND` and `--first N` look at a part again; `--keep FOLDER` keeps the files that showed a fault.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

from .campaign import Results, run

MOST_GROWTH = 100.0  # MB of the child's memory over the last two thirds of a run


def listed(counts: Counter) -> str:
    return ", ".join(f"{number} {name}" for name, number in counts.most_common())


def told(results: Results, seconds: float) -> str:
    """The figures of a run in words."""
    answers = results.answers
    if not answers:
        return "no files"
    slowest = max(answers, key=lambda answer: answer["cpu"])
    largest = max(answers, key=lambda answer: answer["peak"] - answer["memory"])
    return "\n".join(
        [
            f"{len(answers)} files in {seconds:.0f} s: {listed(results.counts('outcome'))}",
            f"by kind: {listed(results.counts('kind'))}",
            f"by way: {listed(results.counts('way'))}",
            f"slowest: {slowest['cpu']:.1f} CPU-s ({slowest['name']})",
            f"most memory for one file: {(largest['peak'] - largest['memory']) / 1e6:.0f} MB ({largest['name']})",
            f"growth of memory from the second third to the end: {results.growth():.1f} MB",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", metavar="KIND")
    parser.add_argument("--first", type=int, default=0, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--log", type=Path, metavar="FILE", help="every answer, one JSON object a line")
    arguments = parser.parse_args(argv)
    log = arguments.log.open("w", encoding="utf-8") if arguments.log else None

    def on_answer(answer: dict) -> None:
        if log:
            print(json.dumps(answer), file=log, flush=True)
        if answer["outcome"] == "fault":
            print(f"FAULT {answer['name']} ({answer['way']})\n{answer['said']}\n", flush=True)

    began = time.monotonic()
    results = run(
        arguments.files,
        arguments.seed,
        only=arguments.only,
        first=arguments.first,
        on_answer=on_answer,
        keep=arguments.keep,
    )
    print(told(results, time.monotonic() - began))
    return 1 if results.faults or results.growth() > MOST_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
