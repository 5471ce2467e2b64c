"""Who does the work of a stage: a pool of processes on this machine, or Ray. Stages know neither."""

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .settings import PrepareSettings

Stage = Callable[[dict, PrepareSettings], dict]
"""A function of a module, of an item and the settings, both as JSON has them."""


@dataclass(frozen=True)
class Outcome:
    """What became of an item.

    result          of the stage; {"rejected": reason} where the process died of it
    began, ended    s since 1970
    worker          who did it
    """

    result: dict
    began: float
    ended: float
    worker: str

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Engine(Protocol):
    """name: as the command line has it; workers: how many work at once."""

    name: str
    workers: int

    def run(self, stage: Stage, items: Sequence[dict], settings: PrepareSettings, on_done: Callable) -> list[Outcome]:
        """The outcomes, in the items' order. `on_done(index, outcome)` is called as they come, in any order."""
        ...

    def close(self) -> None: ...


def perform(stage: Stage, item: dict, settings: PrepareSettings) -> Outcome:
    """Do one item in this process."""
    began = time.time()
    result = stage(item, settings)
    return Outcome(result, began, time.time(), f"{platform.node()}:{os.getpid()}")


def longest_first(items: Sequence[dict]) -> list[int]:
    """The order in which items are begun: what is begun last is short, so that nobody waits long for the last one."""
    return sorted(range(len(items)), key=lambda index: (-items[index]["cost"], index))


def distribution(outcomes: Sequence[Outcome], workers: int) -> dict:
    """How a stage's work was spread.

    busy: s of each worker; last_finish: s from the first beginning to the last end; ideal: s if all workers had been
    busy until the end, or if one item alone takes longer, that; stretch: last_finish in units of ideal.
    """
    if not outcomes:
        return {"items": 0, "busy": {}, "last_finish": 0.0, "ideal": 0.0, "stretch": 1.0}
    busy: dict[str, float] = defaultdict(float)
    for outcome in outcomes:
        busy[outcome.worker] += outcome.seconds
    total, longest = sum(busy.values()), max(outcome.seconds for outcome in outcomes)
    last_finish = max(outcome.ended for outcome in outcomes) - min(outcome.began for outcome in outcomes)
    ideal = max(total / workers, longest, 1e-9)
    return {
        "items": len(outcomes),
        "busy": {name: round(seconds, 3) for name, seconds in sorted(busy.items())},
        "last_finish": round(last_finish, 3),
        "ideal": round(ideal, 3),
        "stretch": round(last_finish / ideal, 3),
    }
