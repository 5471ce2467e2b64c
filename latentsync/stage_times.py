"""How long each stage of a run takes."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class StageTimes:
    """Wall time by stage: `seconds[name]`. A stage inside another counts for itself alone.

    Stages may run in several threads at once: together they then take longer than the run does.
    """

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._own = threading.local()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        running = self._running()
        self._switch(running)
        running.append(name)
        try:
            yield
        finally:
            self._switch(running)
            running.pop()

    def timed(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; making each of them counts for the stage, what is done with them does not."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
            del item  # nothing is held here while the next one is made

    def _running(self) -> list[str]:
        """Of this thread, from the outermost stage to the innermost."""
        if not hasattr(self._own, "running"):
            self._own.running, self._own.since = [], 0.0
        return self._own.running

    def _switch(self, running: list[str]) -> None:
        """Give the time since the last change to the stage that ran."""
        now = time.perf_counter()
        if running:
            with self._lock:
                self.seconds[running[-1]] = self.seconds.get(running[-1], 0.0) + now - self._own.since
        self._own.since = now
