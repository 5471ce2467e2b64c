"""Who does the work of a stage: a pool of processes on this machine, or Ray. Stages know neither."""

import os
import platform
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from latentsync.errors import LatentSyncError

from .records import one_line
from .settings import PrepareSettings

# Of workers, before they import what reads it: they share the cores, and floats come out the same wherever they are
# summed. Other libraries than these have no threads of their own here.
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"),
    "OPENCV_FOR_THREADS_NUM": "1",
}
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
