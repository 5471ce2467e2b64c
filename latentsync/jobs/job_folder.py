"""Where the journals of unfinished runs are kept."""

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..faces.scan_cache import cache_folder
from ..files import locked
from .chunk_journal import ChunkJournal
from .journal import Journal

logger = logging.getLogger(__name__)

VERSION = 2  # of what the latents depend on and how they are kept
MAX_BYTES = 8 * 2**30  # of all unfinished jobs but the one in work; the oldest go first
MAX_AGE = 14 * 86_400  # s since it was worked on, after which an unfinished job goes
SUFFIX = ".journal"


def default_job_folder() -> Path:
    """In the user's cache folder, see scan_cache.cache_folder: a job is found there whatever its result is called."""
    return cache_folder().parent / "jobs"


@dataclass(frozen=True)
class Job:
    """A run in work. name: of the job, the same when it goes on; chunks: what it has made."""

    name: str
    chunks: ChunkJournal


@dataclass(frozen=True)
class JobFolder:
    """Journals in `folder`, which need not exist and may be deleted at any time while no run is in work.

    resume: whether a run goes on where an equal one was interrupted; otherwise that one's journal is replaced.
    """

    folder: Path
    resume: bool = True
    max_bytes: int = MAX_BYTES
    max_age: float = MAX_AGE

    @contextlib.contextmanager
    def job(self, facts: dict) -> Iterator[Job | None]:
        """The job of these facts, locked for this process; None where another process is at it, or where the folder
        cannot be used: a run is then done without, and a warning is logged.

        The journal is removed when the block is left without an error, or before a chunk was made; else it is kept.
        """
        text = json.dumps({"version": VERSION, **facts}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        try:
            with contextlib.ExitStack() as stack:
                chunks = self._opened(name, json.loads(text), stack)
                if chunks is None:
                    yield None
                    return
                is_done = False
                try:
                    yield Job(name, chunks)
                    is_done = True
                finally:
                    with contextlib.suppress(OSError):  # a full disk, of which the journal has told, hides no error
                        chunks.close()
                    if is_done or not chunks.holds_chunks:
                        with contextlib.suppress(OSError):
                            (self.folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
        finally:
            with contextlib.suppress(OSError):  # where others have jobs in it
                self.folder.rmdir()

    def _opened(self, name: str, facts: dict, stack: contextlib.ExitStack) -> ChunkJournal | None:
        """The journal, and its lock on the stack."""
        try:
            for is_last in (False, True):
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(locked(self.folder / f"{name}.lock"))
                    break
                except FileNotFoundError:  # another run has just removed the folder, which was empty
                    if is_last:
                        raise
            self._prune(name)
            return self._begun(self.folder / f"{name}{SUFFIX}", facts)
        except BlockingIOError:
            logger.warning("an equal run is in work; this one is done anew, and cannot be resumed if interrupted")
        except OSError as error:
            logger.warning("%s cannot be used (%s); the run cannot be resumed if interrupted", self.folder, error)
        return None

    def _begun(self, path: Path, facts: dict) -> ChunkJournal:
        """The journal with its first record. Raises OSError, and leaves no new file then."""
        is_new = not path.exists()
        journal = Journal(path)
        try:
            return ChunkJournal(journal, facts, self.resume)
        except OSError:
            with contextlib.suppress(OSError):  # what it could not write it tries again
                journal.close()
            if is_new:
                path.unlink(missing_ok=True)
            raise

    def _prune(self, current: str) -> None:
        """Remove jobs that nobody will go on with, except those in work."""
        with contextlib.suppress(OSError):
            kept = [(path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob(f"*{SUFFIX}")]
            kept = sorted(job for job in kept if job[2].stem != current)
            total = sum(size for _, size, _ in kept)
            for changed, size, path in kept:
                if total <= self.max_bytes and time.time() - changed <= self.max_age:
                    break
                with contextlib.suppress(BlockingIOError), locked(path.with_suffix(".lock")):
                    path.unlink(missing_ok=True)
                    total -= size
