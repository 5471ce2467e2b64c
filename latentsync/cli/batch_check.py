"""Whether all rows of a job file can be done, before the first is."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..commands import user_message
from ..model import loading
from .job_file import BadRowsError, Row
from .run import Job, check_job


def check_rows(path: Path, rows: list[Row], own: list[Path]) -> list[Job]:
    """Return the jobs of a job file. own: the files of the batch itself.

    Raises BadRowsError with all that cannot be done.
    """
    jobs, problems = [], {}
    for row in rows:
        try:
            job = check_job(row.arguments, set(row.given))
            jobs.append(job)
            job.request.models.check_files()
            if row.arguments.engine == "local":  # else it is the workers' to have
                loading.choose_device(job.request.models.device)
        except Exception as error:  # whatever a damaged file gives, the other rows are looked at too
            problems.setdefault(row.line, []).append(user_message(error))
    for line, reason in _collisions(rows, own):
        problems.setdefault(line, []).append(reason)
    if problems:
        raise BadRowsError(path, problems)
    return jobs


def _collisions(rows: list[Row], own: list[Path]) -> Iterator[tuple[int, str]]:
    """Rows that would write what another one writes or reads, each with the reason."""
    reading: dict[str, int] = {}
    for row in rows:
        for file in _inputs(row):
            reading.setdefault(_identity(file), row.line)
    writing: dict[str, int] = {}
    taken = {_identity(file) for file in own}
    for row in rows:
        for file in _outputs(row):
            key = _identity(file)
            if key in taken:
                yield row.line, f"{file} is a file of the batch itself; expected another name"
            if key in writing:
                yield row.line, f"{file} is written by line {writing[key]} too; expected a name for each"
            if reading.get(key, row.line) != row.line:
                yield row.line, f"{file} is read by line {reading[key]}, and inputs are never changed"
            writing.setdefault(key, row.line)


def _inputs(row: Row) -> list[Path]:
    arguments = row.arguments
    sounds = [file for _, file in arguments.track]
    files = (arguments.video_path, arguments.audio_path, *sounds, arguments.output_audio, arguments.protect)
    return [file for file in files if file is not None]


def _outputs(row: Row) -> list[Path]:
    report = row.arguments.report
    return [row.arguments.video_out_path, *([] if report is None else [report, report.with_suffix(".png")])]


def _identity(path: Path) -> str:
    return os.path.normcase(path.resolve())
