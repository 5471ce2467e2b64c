"""Doing runs one after the other, with what they need loaded once, whatever becomes of each."""

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ..commands import is_foreseen, user_message
from ..errors import Cancelled
from ..files import sha256_of
from ..model.device import free_unused
from ..session import ModelChoice, Say, Session, SessionCache
from .batch_results import Outcome
from .run import Job, work

Waiting = tuple[int, Job, Outcome]  # index of a job, the job, and where it stands
OnDone = Callable[[int, Outcome], None]  # index of a job, what became of it


class BatchEngine(Protocol):
    """Does the runs of a batch: in this process (LocalEngine), or in many (ray_engine.RayEngine)."""

    def work(self, waiting: Sequence[Waiting], keep: OnDone) -> None:
        """Do all that waits, in any order, and give `keep` what became of each. An interrupt ends the work cleanly."""
        ...


class LocalEngine:
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

    def do(self, job: Job, outcome: Outcome, should_stop: Callable[[], bool] | None = None) -> Outcome:
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
