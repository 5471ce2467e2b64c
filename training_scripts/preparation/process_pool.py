"""The embedded engine: processes that each take the next item when they are free, the longest items first.

A process that dies, of a decoder's crash or for want of memory, costs its item only: that is tried once more by another
process and then reported. Nobody outlives the main process, even one that is killed.
"""

import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

from latentsync.errors import LatentSyncError

from .engines import ONE_THREAD, TRIES, Outcome, Stage, longest_first, lost, perform
from .settings import PrepareSettings

PATIENCE = 60.0  # s for a process to end


class ProcessPool:
    """Processes are started when there is work for them and stay for the next stage."""

    name = "pool"

    def __init__(self, workers: int):
        self.workers = workers
        self._context = get_context("spawn")
        self._processes: dict[Connection, object] = {}

    def run(self, stage: Stage, items: Sequence[dict], settings: PrepareSettings, on_done: Callable) -> list[Outcome]:
        try:
            return self._run(stage, items, settings, on_done)
        except BaseException:
            self.close()  # what they are at is not waited for
            raise

    def _run(self, stage: Stage, items: Sequence[dict], settings: PrepareSettings, on_done: Callable) -> list[Outcome]:
        waiting = longest_first(items)[::-1]
        outcomes: list[Outcome | None] = [None] * len(items)
        tries = [0] * len(items)
        busy: dict[Connection, int] = {}
        while waiting or busy:
            while waiting and (free := self._free(busy)) is not None:
                index = waiting.pop()
                try:
                    free.send((stage, items[index], settings.as_dict()))
                except OSError:  # it died while it had nothing to do
                    self._buried(free)
                    waiting.append(index)
                    continue
                busy[free] = index
                tries[index] += 1
            for connection in wait(list(busy)):
                index = busy.pop(connection)
                try:
                    outcome = connection.recv()
                except (EOFError, OSError):
                    reason = self._buried(connection)
                    if tries[index] < TRIES:
                        waiting.append(index)
                        continue
                    outcome = lost(reason)
                if isinstance(outcome, BaseException):
                    raise outcome
                outcomes[index] = outcome
                on_done(index, outcome)
        return outcomes

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for connection, process in self._processes.items():
            process.join(PATIENCE)
            connection.close()
        self._processes.clear()

    def _free(self, busy: dict[Connection, int]) -> Connection | None:
        for connection in self._processes:
            if connection not in busy:
                return connection
        if len(self._processes) >= self.workers:
            return None
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there,), daemon=True)
        process.start()
        there.close()
        self._processes[here] = process
        return here

    def _buried(self, connection: Connection) -> str:
        process = self._processes.pop(connection)
        connection.close()
        process.join(PATIENCE)
        code = process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _work(connection: Connection) -> None:
    """Do what comes until the main process is gone."""
    os.environ.update(ONE_THREAD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the main process decides
    while True:
        try:
            stage, item, settings = connection.recv()
        except EOFError:
            return
        try:
            outcome = perform(stage, item, PrepareSettings.from_dict(settings))
        except (LatentSyncError, OSError, MemoryError) as error:  # the main process tells, and ends the run
            outcome = error
        try:
            connection.send(outcome)
        except BrokenPipeError:
            return
