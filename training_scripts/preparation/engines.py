"""Who does the work of a stage: a pool of processes on this machine, or Ray. Stages know neither."""

import json
import logging
import os
import platform
import signal
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Protocol

from latentsync.errors import LatentSyncError
from latentsync.ray_session import start_ray

from .settings import PrepareSettings, one_line

# Of workers, before they import what reads it: they share the cores, and floats come out the same wherever they are
# summed. Other libraries than these have no threads of their own here.
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"),
    "OPENCV_FOR_THREADS_NUM": "1",
}
PATIENCE = 60.0  # s for a process to end
TRIES = 2  # for an item of which a process died

Stage = Callable[[dict, PrepareSettings], dict]
"""A function of a module, of an item and the settings, both as JSON has them."""


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    result          of the stage; {"rejected": reason} where the process died of it or the program has a fault, of which
                    `trace` tells then: nothing is recorded, so that the next run tries again
    began, ended    s since 1970
    cpu             s of processor time
    worker          who did it; "" where that one died
    """

    result: dict
    began: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0
    worker: str = ""
    trace: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def lost(reason: str) -> Outcome:
    """Of an item whose process died."""
    return Outcome({"rejected": f"a process died of it {TRIES} times ({reason})"}, trace=reason)


class Engine(Protocol):
    """name: as the command line has it; workers: how many work at once."""

    name: str
    workers: int

    def run(self, stage: Stage, items: Sequence[dict], settings: PrepareSettings, on_done: Callable) -> list[Outcome]:
        """The outcomes, in the items' order. `on_done(index, outcome)` is called as they come, in any order."""
        ...

    def close(self) -> None: ...


def perform(stage: Stage, item: dict, settings: PrepareSettings) -> Outcome:
    """Do one item in this process, whose environment is ONE_THREAD.

    Raises what the item is not to blame for and the next one would meet too: LatentSyncError (a missing model, a full
    disk), OSError, MemoryError.
    """
    began, cpu, trace = time.time(), _cpu_seconds(), ""
    try:
        result = stage(item, settings)
    except (LatentSyncError, OSError, MemoryError):
        raise
    except Exception as error:  # one odd file in a million must not end the run
        result, trace = {"rejected": f"a fault of the program: {one_line(error)}"}, traceback.format_exc()
    ended = time.time()
    return Outcome(result, began, ended, _cpu_seconds() - cpu, f"{platform.node()}:{os.getpid()}", trace)


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def longest_first(items: Sequence[dict]) -> list[int]:
    """The order in which items are begun: what is begun last is short, so that nobody waits long for the last one."""
    return sorted(range(len(items)), key=lambda index: (-items[index]["cost"], index))


def distribution(outcomes: Sequence[Outcome], workers: int) -> dict:
    """How a stage's work was spread.

    busy: s of each worker; cpu: s of all, of processor time; last_finish: s from the first beginning to the last end;
    ideal: s if all workers had been busy until the end, or if one item alone takes longer, that; stretch: last_finish
    in units of ideal.
    """
    if not outcomes:
        return {"items": 0, "busy": {}, "cpu": 0.0, "last_finish": 0.0, "ideal": 0.0, "stretch": 1.0}
    busy: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        busy[outcome.worker] += outcome.seconds
    total, longest = sum(busy.values()), max(outcome.seconds for outcome in outcomes)
    last_finish = max(outcome.ended for outcome in outcomes) - min(outcome.began for outcome in outcomes)
    ideal = max(total / workers, longest, 1e-9)
    return {
        "items": len(outcomes),
        "busy": {name: round(seconds, 3) for name, seconds in sorted(busy.items())},
        "cpu": round(sum(outcome.cpu for outcome in outcomes), 3),
        "last_finish": round(last_finish, 3),
        "ideal": round(ideal, 3),
        "stretch": round(last_finish / ideal, 3),
    }


class ProcessPool:
    """Processes that each take the next item when they are free, the longest items first.

    They are started when there is work for them and stay for the next stage. One that dies, of a decoder's crash or for
    want of memory, costs its item only: that is tried once more by another process and then reported. Nobody outlives
    the main process, even one that is killed.
    """

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


class RayEngine:
    """The same stages by Ray Data, one task an item, on this machine or on a cluster.

    address: of a running cluster, whose machines all see sources and output under the same paths; None starts Ray here,
    with `workers` processes, and ends it.
    """

    name = "ray"

    def __init__(self, workers: int, address: str | None = None):
        self._ray = ray = start_ray(address, num_cpus=workers, environment=ONE_THREAD, part="ray.data")
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        logging.getLogger("ray.data").setLevel(logging.WARNING)  # plans and durations of each stage
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1  # of an item whose process died no row comes, and the others go on

    def run(self, stage: Stage, items: Sequence[dict], settings: PrepareSettings, on_done: Callable) -> list[Outcome]:
        rows = [{"index": index, "item": json.dumps(items[index])} for index in longest_first(items)]
        if not rows:
            return []
        made = self._ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _perform, fn_args=(stage, settings.as_dict()), num_cpus=1, ray_remote_args_fn=_retries
        )
        outcomes: list[Outcome | None] = [None] * len(items)
        for row in made.iter_rows():
            if row["error"]:
                raise LatentSyncError(row["error"])
            outcomes[row["index"]] = Outcome(**json.loads(row["outcome"]))
            on_done(row["index"], outcomes[row["index"]])
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                outcomes[index] = lost("see Ray's logs")
                on_done(index, outcomes[index])
        return outcomes

    def close(self) -> None:
        self._ray.shutdown()


def _retries() -> dict:
    return {"max_retries": TRIES - 1}  # Ray Data's own are without end


def _perform(row: dict, stage: Stage, settings: dict) -> dict:
    try:
        outcome = perform(stage, json.loads(row["item"]), PrepareSettings.from_dict(settings))
    except (LatentSyncError, OSError, MemoryError) as error:  # as a row: Ray takes what is raised for the item's fault
        return {"index": row["index"], "error": f"{type(error).__name__}: {error}", "outcome": ""}
    return {"index": row["index"], "error": "", "outcome": json.dumps(asdict(outcome))}
