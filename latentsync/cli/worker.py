"""Doing runs one after the other, with what they need loaded once, whatever becomes of each."""

import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import Cancelled
from ..files import sha256_of
from ..model.device import free_unused
from .batch_results import Outcome
from .exits import is_foreseen, message_of
from .networks import NetworkChoice, Networks, Say, load_networks
from .run import Job, work

OnDone = Callable[[int, Outcome], None]  # index of the job, what became of it


class Worker:
    """say: is told what happens; None: nobody is."""

    def __init__(self, say: Say | None = None):
        self._say = say or (lambda text: None)
        self._choice: NetworkChoice | None = None
        self._networks: Networks | None = None
        self._reason: Exception | None = None  # why the networks of that choice could not be loaded

    def do(self, job: Job, outcome: Outcome, should_stop: Callable[[], bool] | None = None) -> Outcome:
        """The outcome with what became of the job: an error is told in it. Raises Cancelled where it was stopped."""
        started = time.monotonic()
        try:
            networks = self._networks_for(NetworkChoice.of(job.arguments))
            started = time.monotonic()
            report = work(job, networks, self._say, should_stop)
        except Cancelled:
            raise
        except Exception as error:
            if job.arguments.verbose or not is_foreseen(error):
                traceback.print_exception(error, file=sys.stderr)
            free_unused()  # of a job that was too large, for the next
            return replace(outcome, status="failed", message=message_of(error), seconds=time.monotonic() - started)
        return replace(
            outcome,
            status="done",
            message="",
            num_frames=report.num_frames,
            num_faces=report.num_faces,
            seconds=round(time.monotonic() - started, 2),
            seed=job.options.seed,
            warnings=tuple(report.warnings),
            output_sha256=sha256_of(Path(outcome.video_out_path)),
        )

    def _networks_for(self, choice: NetworkChoice) -> Networks:
        """Raises what their loading raised, without trying again."""
        if choice != self._choice:
            self._choice, self._networks, self._reason = choice, None, None  # never two sets in memory
            try:
                self._networks = load_networks(choice, self._say)
            except Exception as error:
                self._reason = error
        if self._networks is None:
            raise self._reason
        return self._networks
