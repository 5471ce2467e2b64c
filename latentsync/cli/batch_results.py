"""What became of each run of a batch: kept as JSON to go on from, as CSV for a spreadsheet, and as a table to read."""

import csv
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from ..errors import OptionError
from ..files import read_json
from ..media.output_file import written_whole

logger = logging.getLogger(__name__)

VERSION, EARLIER = 2, (1,)  # of the file; of those before, fingerprints were made from other values
MAX_BYTES = 2**28  # of the results of some 100,000 runs
Status = Literal["done", "failed", "waiting"]


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    line            of the job file
    message         why it failed
    num_frames      of the result; num_faces: of those with new lips
    seconds         that it took, without loading
    fingerprint     of all that the result depends on: inputs, models, settings
    output_sha256   of the result
    """

    line: int
    video_path: str
    video_out_path: str
    status: Status = "waiting"
    message: str = ""
    num_frames: int = 0
    num_faces: int = 0
    seconds: float = 0.0
    seed: int | None = None
    warnings: tuple[str, ...] = ()
    fingerprint: str = ""
    output_sha256: str = ""


def read_results(path: Path) -> list[Outcome]:
    """Return those of an earlier start; none if there was none, or an earlier release wrote them.

    Raises OptionError for a file that is something else.
    """
    if not path.exists():
        return []
    try:
        content = read_json(path, OptionError, max_bytes=MAX_BYTES)
        if content["version"] in EARLIER:
            logger.warning(
                "%s is of an earlier release, which knew equal runs by other values: all are done again", path
            )
            return []
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        return [Outcome(**{**job, "warnings": tuple(job["warnings"])}) for job in content["jobs"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise OptionError(
            f"{path} does not hold the results of a batch ({type(error).__name__}: {error}). Rename it, or name "
            "another file with --results"
        ) from error


def write_results(path: Path, outcomes: Iterable[Outcome]) -> None:
    """`path` and the table beside it, each whole. Raises OutputError."""
    jobs = [asdict(outcome) for outcome in outcomes]
    with written_whole(path) as part:
        text = json.dumps({"version": VERSION, "jobs": jobs}, indent=1, ensure_ascii=False)
        part.write_text(text, encoding="utf-8")
    with written_whole(path.with_suffix(".csv")) as part, part.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, [field.name for field in fields(Outcome)])
        table.writeheader()
        table.writerows({**job, "warnings": "; ".join(job["warnings"])} for job in jobs)


def table_of(outcomes: Iterable[Outcome], done_before: set[int], folder: Path) -> str:
    """For a terminal, one line a run. done_before: lines of the runs that an earlier start did."""
    rows = [("line", "", "frames", "seconds", "result")]
    for outcome in outcomes:
        status = "done before" if outcome.line in done_before else outcome.status
        path = Path(outcome.video_out_path)
        shown = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
        is_done = outcome.status == "done"
        frames, seconds = (str(outcome.num_frames), f"{outcome.seconds:.1f}") if is_done else ("", "")
        rows.append(
            (str(outcome.line), status, frames, seconds, f"{shown}: {outcome.message}" if outcome.message else shown)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (1, 4)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
