"""Stages in threads: order, bounds, errors from anywhere, stopping; no thread is left."""

import threading
import time
from collections.abc import Iterator

import pytest

from latentsync.run.threads import ThreadedStages


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Broken(Exception):
    pass


def numbers(count: int, broken_at: int | None = None, made: list | None = None) -> Iterator[int]:
    for number in range(count):
        if number == broken_at:
            raise Broken(f"at {number}")
        if made is not None:
            made.append(number)
        yield number


def doubled(items) -> Iterator[int]:
    for item in items:
        yield 2 * item


def run(count: int, *, first=None, second=None, here=None, last=None, check=lambda: None, put_length=3) -> list[int]:
    """Numbers through four stages of which `here` is the caller's; each may break at a number."""
    out = []

    def collect() -> None:
        for item in finished:
            if last is not None and item == 2 * last:
                raise Broken(f"at {last}")
            out.append(item)

    with ThreadedStages(check) as threads:
        source = threads.ahead("first", numbers(count, first), 2)
        seen = threads.ahead("second", (item for item in doubled(source) if _unbroken(item, second)), 3)
        finished = threads.queue(put_length)
        threads.start("last", collect)
        for item in seen:
            if here is not None and item == 2 * here:
                raise Broken(f"at {here}")
            finished.put(item)
        finished.end()
        threads.join()
    return out


def _unbroken(item: int, second: int | None) -> bool:
    if second is not None and item == 2 * second:
        raise Broken(f"at {second}")
    return True


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_everything_passes_in_order(count):
    assert run(count) == [2 * number for number in range(count)]


@pytest.mark.parametrize("stage", ["first", "second", "here", "last"])
@pytest.mark.parametrize("number", [0, 20, 49])
def test_the_error_of_any_stage_is_raised_as_it_is(stage, number):
    with pytest.raises(Broken, match=f"at {number}") as raised:
        run(50, **{stage: number})
    assert type(raised.value) is Broken


def test_work_ahead_is_bounded():
    made: list[int] = []
    with ThreadedStages() as threads:
        items = iter(threads.ahead("source", numbers(100, made=made), 4))
        next(items)
        deadline = time.monotonic() + 60
        while len(made) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == 6  # one used, four waiting, one that waits for room


@pytest.mark.parametrize("waits", ["for items", "for room", "for the end"])
def test_the_caller_is_asked_while_it_waits(waits):
    """Also where the other threads do nothing for long."""
    release, asked = threading.Event(), []

    def check() -> None:
        asked.append(True)
        if len(asked) > 2:
            release.set()  # else the thread could not end: it is not waiting for a queue
            raise Broken("stop")

    def wait() -> None:
        with ThreadedStages(check) as threads:
            queue = threads.queue(1)
            threads.start("idle", release.wait)
            if waits == "for items":
                next(iter(queue))
            if waits == "for room":
                for item in range(2):
                    queue.put(item)
            threads.join()

    with pytest.raises(Broken, match="stop"):
        wait()


def test_an_error_ends_threads_that_wait_for_each_other():
    def wait() -> None:
        with ThreadedStages() as threads:
            never, full = threads.queue(1), threads.queue(1)
            threads.start("waits", lambda: next(iter(never)))
            threads.start("is full", lambda: [full.put(item) for item in range(3)])
            threads.start("breaks", lambda: list(numbers(3, 2)))
            threads.join()

    with pytest.raises(Broken, match="at 2"):
        wait()


def test_the_first_error_counts():
    def break_twice() -> None:
        with ThreadedStages() as threads:
            threads.start("one", lambda: list(numbers(1, 0)))
            while threads._threads[0].is_alive():
                time.sleep(0.01)
            threads.start("two", lambda: list(numbers(9, 8)))
            threads.join()

    with pytest.raises(Broken, match="at 0"):
        break_twice()
