"""Locks between processes that the system releases even if a process is killed."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL = 0.1  # s


@contextlib.contextmanager
def locked(path: Path, *, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock.

    on_wait: called once when another process has it, which is then waited for; None: raise BlockingIOError instead.
    The file is removed afterwards where the system allows that.
    """
    waited = False
    while True:
        file = path.open("a")
        if _try_lock(file) and _is_still(file, path):
            break
        file.close()
        if on_wait is None:
            raise BlockingIOError(f"{path} is held by another process")
        if not waited:
            on_wait()
        waited = True
        time.sleep(POLL)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps open files
            path.unlink()
        file.close()
        if os.name == "nt":
            with contextlib.suppress(OSError):  # another process may have it open by now
                path.unlink()


def _try_lock(file) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(file, path: Path) -> bool:
    """Whether the locked file is the one of that name: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
