"""Files, with nothing but Python's standard library: fingerprints, locks between processes, JSON written by others."""

import contextlib
import hashlib
import json
import os
import reprlib
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from .errors import CheckpointError, LatentSyncError


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content; read again only where its size or time has changed."""
    path = Path(path).resolve()
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# Locks between processes that the system releases even if a process is killed.

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


# JSON files written by others: descriptions of models, of adapters, of downloads.

MAX_BYTES = 4 * 2**20  # descriptions have a few kB; a file of this size describes nothing
MAX_SHOWN = 300  # characters of a value in a message
_SHORT = reprlib.Repr()  # looks only at the beginning of a value, which may hold itself a thousand million times
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxstring = 3, 12, 80


def read_json(
    path: str | Path, error: type[LatentSyncError] = CheckpointError, *, what: str = "", max_bytes: int = MAX_BYTES
) -> object:
    """What the file holds. what: which, for the message, as "describes the VAE".

    Raises `error` for a file that cannot be read, is larger than max_bytes, not UTF-8, or not JSON: also where it is
    nested too deeply or has a number too long to be one.
    """
    path = Path(path)
    told = f"{path}, which {what}," if what else str(path)
    try:
        if path.stat().st_size > max_bytes:
            raise error(
                f"{told} has {path.stat().st_size} bytes; expected at most {max_bytes} of this kind. Is it the "
                "right file?"
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{told} is not valid JSON ({reason}). Repair or remove it.") from reason
    except OSError as reason:
        raise error(f"{told} cannot be read ({reason}). Check its permissions.") from reason
    return parse_json(text, error, told=told)


def parse_json(text: str, error: type[LatentSyncError] = CheckpointError, *, told: str) -> object:
    """The same of text that lies elsewhere, as in a header; told: where, for the message."""
    try:
        return json.loads(text)
    except RecursionError as reason:
        raise error(f"{told} is not valid JSON (nested too deeply). Repair or remove it.") from reason
    except ValueError as reason:  # syntax, and numbers of more digits than Python converts
        raise error(f"{told} is not valid JSON ({reason}). Repair or remove it.") from reason


def shown(value: object) -> str:
    """A value from such a file in words, shortened for a message."""
    text = _SHORT.repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
