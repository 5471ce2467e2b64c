"""Stages of one run that work at the same time, each in a thread of its own, with bounded queues between them.

    with ThreadedStages(check) as threads:
        frames = threads.ahead(decoded, 4)          # made in a thread, at most 4 of them wait
        finished = threads.queue(16)
        threads.start("encode", lambda: encode(finished))
        for frame in work_on(frames):               # here, in the caller's thread
            finished.put(frame)
        finished.end()
        threads.join()

An error in any of the threads ends all of them and is raised, as it is, in the caller's: where it waits for a queue, in
`check` and in `join`. However the block is left, no thread is left behind.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Generic, TypeVar

import torch

# How long each stage of a run takes.

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


# The threads


WAIT = 0.2  # s after which the caller's thread, waiting for another, asks again whether it should stop


class _Ended(BaseException):
    """The run is over for a thread that waits."""


class ThreadedStages:
    """The threads of a run. check: asked by the caller's thread while it waits; may raise to stop."""

    def __init__(self, check: Callable[[], None] = lambda: None):
        self._ask, self._caller = check, threading.current_thread()
        self._changed = threading.Condition()  # of any queue, or of what follows
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._over = False

    def queue(self, length: int) -> "Queue":
        """An empty queue that holds at most so many items."""
        return Queue(self, length)

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Do the work in a thread. It sees queues of this run that are ended as exhausted."""
        settings = copy_context(), torch.get_num_threads()
        thread = threading.Thread(target=self._run, args=(work, *settings), name=f"latentsync-{name}")
        self._threads.append(thread)
        thread.start()

    def ahead(self, name: str, items: Iterable[Item], length: int) -> "Queue[Item]":
        """The same items, made in a thread; at most `length` of them, and the one in work, are ahead of their use."""
        queue = self.queue(length)

        def make() -> None:
            for item in items:
                queue.put(item)
                del item  # nothing is held here while the next one is made
            queue.end()

        self.start(name, make)
        return queue

    def check(self) -> None:
        """Raise what a thread has raised, or what the caller's own `check` raises."""
        if self._error is not None:
            raise self._error
        self._ask()

    def join(self) -> None:
        """Wait until all work is done. Raises as `check` does."""
        for thread in self._threads:
            while thread.is_alive():
                thread.join(WAIT)
                self.check()
        self.check()

    def __enter__(self) -> "ThreadedStages":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self, work: Callable[[], None], context: Context, num_threads: int) -> None:
        try:
            torch.set_num_threads(num_threads)  # which is each thread's own, as are the context and the mode
            with torch.inference_mode():
                context.run(work)
        except _Ended:
            pass
        except BaseException as error:
            with self._changed:
                self._error, self._over = self._error or error, True
                self._changed.notify_all()

    def _until(self, ready: Callable[[], bool]) -> None:
        """Wait, holding the lock, until `ready`."""
        is_caller = threading.current_thread() is self._caller
        while not self._over and not ready():
            # On some systems a waiting main thread hears of no signal, so it never waits for long.
            self._changed.wait(WAIT if is_caller else None)
            if is_caller:
                self.check()
        if self._over:
            raise self._error if is_caller and self._error is not None else _Ended


class Queue(Generic[Item]):
    """First in, first out, between two threads of a run."""

    def __init__(self, threads: ThreadedStages, length: int):
        self._owner, self._length = threads, length
        self._items: deque[Item] = deque()
        self._ended = False

    def put(self, item: Item) -> None:
        """Add one, as soon as there is room."""
        with self._owner._changed:
            self._owner._until(lambda: len(self._items) < self._length)
            self._items.append(item)
            self._owner._changed.notify_all()

    def end(self) -> None:
        """Nothing more comes."""
        with self._owner._changed:
            self._ended = True
            self._owner._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._owner._changed:
                self._owner._until(lambda: bool(self._items) or self._ended)
                if not self._items:
                    return
                item = self._items.popleft()
                self._owner._changed.notify_all()
            yield item
            del item  # while the next one is waited for
