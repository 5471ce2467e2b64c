"""Many runs from one job file: all checked first, then done one by one, each for itself."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..commands import DONE, FAILED, KILLED, user_message
from ..errors import OptionError
from ..files import locked, sha256_of
from ..media.output_file import check_output, writing_errors
from ..model import loading
from ..session import ModelChoice, Say
from .job_file import BadRowsError, Row, read_rows
from .run import CheckedRun, check_job
from .worker import BatchEngine, LocalBatch, Outcome, RayBatch, read_results, table_of, write_results

# Whether all rows of a job file can be done, before the first is.


def check_rows(path: Path, rows: list[Row], own: list[Path]) -> list[CheckedRun]:
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


# The batch


def run_batch(arguments: argparse.Namespace, given: set[str]) -> int:
    """Do what the job file asks for; returns the exit code: DONE, FAILED where some failed, or that of the signal.

    Raises OptionError, before anything is done, for a job file that cannot be done as it is.
    """
    path: Path = arguments.batch
    results: Path = arguments.results or path.with_suffix(".results.json")
    table = results.with_suffix(".csv")
    check_output(results, [path], suffixes=[".json"])
    check_output(table, [path], suffixes=[".csv"])
    say: Say = (lambda text: None) if arguments.quiet else (lambda text: tqdm.write(text, file=sys.stderr))
    rows = read_rows(path, arguments, given)
    jobs = check_rows(path, rows, [path, results, table])
    with writing_errors(results):
        results.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(results.with_name(results.name + ".lock")):
            outcomes = _where_they_stand(rows, jobs, read_results(results))
            before = {outcome.line for outcome in outcomes if outcome.status == "done"}

            def keep(index: int, outcome: Outcome) -> None:
                outcomes[index] = outcome
                write_results(results, outcomes)
                if outcome.status == "failed":
                    print(f"error: line {outcome.line}, {outcome.video_out_path}: {outcome.message}", file=sys.stderr)

            write_results(results, outcomes)
            interrupted = None
            try:
                waiting = [(index, jobs[index], outcomes[index]) for index in _waiting(jobs, outcomes)]
                if waiting:
                    _engine(arguments, say).work(waiting, keep)
            except KeyboardInterrupt as stop:
                interrupted = stop.args[0] if stop.args else signal.SIGINT
    except BlockingIOError as error:
        raise OptionError(f"another process is at work on {results}; wait for it, or name other --results") from error
    done, failed = (sum(outcome.status == status for outcome in outcomes) for status in ("done", "failed"))
    say("\n" + table_of(outcomes, before, path.absolute().parent))
    earlier = f" ({len(before)} before)" if before else ""
    say(f"{done} of {len(jobs)} done{earlier}, {failed} failed; the same as a table: {table}")
    if interrupted is not None:
        print("interrupted; the same command goes on", file=sys.stderr)
        return KILLED + interrupted
    if not arguments.quiet:
        print(results)
    return FAILED if failed else DONE


def _where_they_stand(rows: list[Row], jobs: list[CheckedRun], before: list[Outcome]) -> list[Outcome]:
    """Of each job: as it was left, if it is done and nothing has changed since, else waiting. Paths do not count."""
    earlier = {(one.fingerprint, one.output_sha256): one for one in before if one.status == "done"}
    outcomes = []
    for row, job in zip(rows, jobs, strict=True):
        output, report = job.request.video_out_path, job.report
        outcome = Outcome(row.line, str(job.request.video_path), str(output), fingerprint=_fingerprint(job))
        if output.is_file() and (report is None or report.is_file()):
            known = earlier.get((outcome.fingerprint, sha256_of(output)))
            if known is not None:
                paths = {"video_path": outcome.video_path, "video_out_path": outcome.video_out_path}
                outcome = replace(known, line=row.line, **paths)
        outcomes.append(outcome)
    return outcomes


def _fingerprint(job: CheckedRun) -> str:
    """Return what tells whether a result is still what its inputs and settings would give."""
    request = job.request
    if job.any_seed:  # each check of the job draws another
        request = replace(request, options=replace(request.options, seed=0))
    return request.identity(any_seed=job.any_seed, sync_score=job.sync_score)


def _waiting(jobs: list[CheckedRun], outcomes: list[Outcome]) -> list[int]:
    """Indices of what is to be done; those that share what is loaded stand together."""
    groups: dict[ModelChoice, list[int]] = {}
    for index, (job, outcome) in enumerate(zip(jobs, outcomes, strict=True)):
        if outcome.status == "waiting":
            groups.setdefault(job.request.models, []).append(index)
    return [index for group in groups.values() for index in group]


def _engine(arguments: argparse.Namespace, say: Say) -> BatchEngine:
    if arguments.engine == "ray":
        return RayBatch(say, workers=arguments.workers, address=arguments.ray_address)
    return LocalBatch(say)
