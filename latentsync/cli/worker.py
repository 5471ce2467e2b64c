"""The runs of a batch: what becomes of each, a worker that loads once for many, and the engines that have workers."""

import csv
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol

from ..commands import is_foreseen, user_message
from ..errors import Cancelled, OptionError
from ..files import read_json, sha256_of
from ..media.output_file import written_whole
from ..model.device import free_unused
from ..ray_session import ray_session
from ..session import ModelChoice, Say, Session, SessionCache
from .run import CheckedRun, work

# What becomes of each run: kept as JSON to go on from, as CSV for a spreadsheet, and as a table to read

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


# The worker, and the engine of this process

Waiting = tuple[int, CheckedRun, Outcome]  # index of a job, the job, and where it stands
OnDone = Callable[[int, Outcome], None]  # index of a job, what became of it


class BatchEngine(Protocol):
    """Does the runs of a batch: in this process (LocalBatch), or in many (RayBatch)."""

    def work(self, waiting: Sequence[Waiting], keep: OnDone) -> None:
        """Do all that waits, in any order, and give `keep` what became of each. An interrupt ends the work cleanly."""
        ...


class LocalBatch:
    """One run after the other."""

    def __init__(self, say: Say):
        self._say = say

    def work(self, waiting: Sequence[Waiting], keep: OnDone) -> None:
        worker = Worker(self._say)
        for number, (index, job, outcome) in enumerate(waiting, 1):
            self._say(f"\n[{number}/{len(waiting)}] {outcome.video_path} -> {outcome.video_out_path}")
            keep(index, worker.do(job, outcome))


class Worker:
    """say: is told what happens; None: nobody is."""

    def __init__(self, say: Say | None = None):
        self._say = say or (lambda text: None)
        self._sessions = SessionCache(self._say)
        self._failed: tuple[ModelChoice, Exception] | None = None  # what could not be loaded last, and why

    def do(self, job: CheckedRun, outcome: Outcome, should_stop: Callable[[], bool] | None = None) -> Outcome:
        """The outcome with what became of the job: an error is told in it. Raises Cancelled where it was stopped."""
        started = time.monotonic()
        try:
            session = self._session_for(job.request.models)
            started = time.monotonic()
            report = work(job, session, self._say, should_stop)
        except Cancelled:
            raise
        except Exception as error:
            if job.verbose or not is_foreseen(error):
                traceback.print_exception(error, file=sys.stderr)
            free_unused()  # of a job that was too large, for the next
            return replace(outcome, status="failed", message=user_message(error), seconds=time.monotonic() - started)
        return replace(
            outcome,
            status="done",
            message="",
            num_frames=report.num_frames,
            num_faces=report.num_faces,
            seconds=round(time.monotonic() - started, 2),
            seed=job.request.options.seed,
            warnings=tuple(report.warnings),
            output_sha256=sha256_of(Path(outcome.video_out_path)),
        )

    def _session_for(self, choice: ModelChoice) -> Session:
        """Raises what loading raised, without trying again."""
        if self._failed is not None and self._failed[0] == choice:
            raise self._failed[1]
        self._failed = None
        try:
            return self._sessions.session(choice)
        except Exception as error:
            self._failed = choice, error
            raise


# The engine on Ray: an actor for each GPU or worker, with the model loaded once in each

STOP_TIMEOUT = 60.0  # s for a run to end at its next step and remove what it began


class _Actor:
    """A worker in a process of its own, which can be told to stop while it works."""

    def __init__(self, make_worker: Callable[[], Worker], folder: str):
        os.chdir(folder)  # the command line's paths start there
        self._worker, self._stop = make_worker(), threading.Event()

    def do(self, job: CheckedRun, outcome: Outcome) -> Outcome:
        return self._worker.do(job, outcome, self._stop.is_set)

    def stop(self) -> None:
        self._stop.set()


class RayBatch:
    """Runs in processes of Ray's. One whose process dies has failed; another process does the next one."""

    def __init__(
        self,
        say: Say,
        *,
        workers: int | None = None,
        address: str | None = None,
        make_worker: Callable[[], Worker] = Worker,
    ):
        """workers: how many; None for one for each GPU, else one for each machine. Raises OptionError."""
        if workers is not None and workers < 1:
            raise OptionError(f"--workers is {workers}; expected 1 or more")
        self._say, self._workers, self._address, self._make_worker = say, workers, address, make_worker

    def work(self, waiting: Sequence[Waiting], keep: OnDone) -> None:
        """Raises OptionError, LatentSyncError."""
        devices = [job.request.models.device for _, job, _ in waiting]
        if numbered := [device for device in devices if ":" in device]:
            raise OptionError(
                f"the device {numbered[0]!r} is one of many; with --engine ray, which gives each worker a "
                "GPU of its own, expected auto, cpu or cuda"
            )
        with ray_session(self._address) as ray:
            count, share = _share(ray, waiting, self._workers)
            actor_class = ray.remote(_Actor).options(max_concurrency=2, **share)
            pool = _Pool(ray, lambda: actor_class.remote(self._make_worker, os.getcwd()), count, self._say)
            pool.work(waiting, keep)


def _share(ray: ModuleType, waiting: Sequence[Waiting], workers: int | None) -> tuple[int, dict[str, float]]:
    """How many actors, and what each may take."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = sum(machine.get("GPU", 0) for machine in machines)
    if all(job.request.models.device == "cpu" for _, job, _ in waiting):
        gpus = 0
    count = workers or int(gpus) or len(machines)
    count = min(count, len(waiting), max(1, sum(cpus)))
    share = {"num_cpus": max(1, min(sum(cpus) // count, min(filter(None, cpus), default=1)))}
    if gpus:
        share["num_gpus"] = 1 if count <= gpus else gpus / count
    return count, share


class _Pool:
    """Actors, and what each is at."""

    def __init__(self, ray: ModuleType, make_actor: Callable, count: int, say: Say):
        self._ray, self._make_actor, self._say = ray, make_actor, say
        self._free = [make_actor() for _ in range(count)]
        self._running: dict = {}  # reference of the outcome -> (index, outcome so far, actor)

    def work(self, waiting: Sequence[Waiting], keep: OnDone) -> None:
        coming, total, done = deque(waiting), len(waiting), 0
        self._say(f"{total} runs on {len(self._free)} workers of Ray")
        try:
            while coming or self._running:
                while coming and self._free:
                    index, job, outcome = coming.popleft()
                    actor = self._free.pop()
                    quiet = replace(job, quiet=True)  # no bars of many workers
                    self._running[actor.do.remote(quiet, outcome)] = index, outcome, actor
                (ready, *_), _ = self._ray.wait(list(self._running))
                index, outcome = self._result(ready)
                done += 1
                if outcome.status == "done":
                    self._say(f"[{done}/{total}] {outcome.video_out_path} in {outcome.seconds:.1f} s")
                keep(index, outcome)
        except BaseException:
            self._stop()
            raise

    def _result(self, ready) -> tuple[int, Outcome]:
        """Of a run that has ended; its actor is free again, or another one in its place."""
        index, outcome, actor = self._running.pop(ready)
        try:
            outcome = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            outcome = replace(outcome, status="failed", message=f"the worker's process ended: {reason[0]}")
            self._ray.kill(actor)
            actor = self._make_actor()
        self._free.append(actor)
        return index, outcome

    def _stop(self) -> None:
        """Let all end what they are at, so that nothing half-written is left."""
        for _, _, actor in self._running.values():
            actor.stop.remote()
        if self._running:
            self._ray.wait(list(self._running), num_returns=len(self._running), timeout=STOP_TIMEOUT)
