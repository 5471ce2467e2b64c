"""One run after the other, whoever asks: who waits, who is at work, and stopping either."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from latentsync.errors import Cancelled, LatentSyncError


class QueueFull(LatentSyncError):
    """Too many wait already, or the same visitor does."""


class QueuedWork:
    """One visitor's work. `work(job)` runs in the queue's thread and leaves in `state` what others may look at."""

    def __init__(self, owner: str, work: Callable[["QueuedWork"], Any]):
        self.owner, self._work = owner, work
        self.state: Any = None
        self.future: Future = Future()
        self._stop = threading.Event()

    def stop(self) -> None:
        """As soon as may be: the future is cancelled at once while it waits, else ends with the library's Cancelled."""
        self._stop.set()
        self.future.cancel()

    def should_stop(self) -> bool:
        return self._stop.is_set()

    def check(self) -> None:
        """Raises Cancelled where it should stop."""
        if self.should_stop():
            raise Cancelled("stopped as asked")

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self._work(self))
        except BaseException as error:  # for whoever asks for the result
            self.future.set_exception(error)

    async def until_done(self, every: float) -> AsyncIterator[None]:
        """Comes back every so many seconds while it waits or works."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
        while not self.future.done():
            yield
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(ended.wait(), every)


class RunQueue:
    """waiting: how many may wait behind the one at work."""

    def __init__(self, waiting: int):
        self._waiting = waiting
        self._jobs: list[QueuedWork] = []  # those not done yet, in their order
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="run")

    def submit(self, owner: str, work: Callable[[QueuedWork], Any]) -> QueuedWork:
        """Raises QueueFull where the queue is full or `owner` has a job already."""
        job = QueuedWork(owner, work)
        with self._lock:
            if any(other.owner == owner and not other.should_stop() for other in self._jobs):
                raise QueueFull("You have a run already; wait for it, or cancel it first.")
            if len(self._jobs) > self._waiting:
                raise QueueFull(f"As many as may are waiting already ({self._waiting}). Try again later.")
            self._jobs.append(job)
        job.future.add_done_callback(lambda _: self._forget(job))
        self._worker.submit(job.run)
        return job

    def ahead(self, job: QueuedWork) -> int:
        """How many come before it; 0 for the one at work."""
        with self._lock:
            return self._jobs.index(job) if job in self._jobs else 0

    def stop(self, owner: str) -> bool:
        """Stop the visitor's jobs; whether there were any."""
        with self._lock:
            own = [job for job in self._jobs if job.owner == owner]
        for job in own:
            job.stop()
        return bool(own)

    def close(self) -> None:
        """Stop everything and wait for the end of it."""
        with self._lock:
            jobs = list(self._jobs)
        for job in jobs:
            job.stop()
        self._worker.shutdown()

    def _forget(self, job: QueuedWork) -> None:
        with self._lock:
            self._jobs.remove(job)
