"""Looking at a media file in a process of its own, so that a file which crashes a decoder takes no server with it.

As a program: ``python -m latentsync.media.isolation FILE BUDGET MEMORY``. Only PyAV and NumPy are imported there, which
takes about 0.3 s. What lies beyond the part that was decoded is not vouched for.
"""

import contextlib
import logging
import os
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path

import av

from ..errors import LatentSyncError, MediaError
from .container import open_media

logger = logging.getLogger(__name__)

BUDGET = 5.0  # s of processor time for decoding; a server waits no longer for a file that is fine
MEMORY = 8 << 30  # bytes for the file, where the system can limit it; 8K at ten bits takes the most
PATIENCE = 120.0  # s for the whole process, which may have to share its processor
OUT_OF_MEMORY = 3  # exit status
_ROOT = Path(__file__).parents[2]


def check_apart(path: str | os.PathLike, error: type[MediaError] = MediaError, budget: float = BUDGET) -> None:
    """Decode the beginning of a file in a child process, for `budget` seconds; once for each version of it.

    Raises `error` where that process dies, takes more than MEMORY, or does not end. What else is wrong with the file
    is not told here: the readers do, and can, as the decoder lived through it.
    """
    facts = Path(path).stat() if Path(path).is_file() else None
    if facts is None or not sys.executable:
        return
    if reason := _reason(str(Path(path).absolute()), facts.st_size, facts.st_mtime_ns, budget):
        raise error(f"'{path}' {reason}: it is damaged, or made to do harm. Export it again, or take another file.")


@lru_cache(maxsize=64)
def _reason(path: str, size: int, modified: int, budget: float) -> str | None:
    try:
        # This Python and a module of ours; the file is one argument, no shell reads it.
        done = subprocess.run(_command(path, budget), cwd=_ROOT, capture_output=True, timeout=PATIENCE)  # noqa: S603
    except subprocess.TimeoutExpired:
        return f"could not be read within {PATIENCE:g} s"
    if done.returncode < 0 or done.returncode >= 0xC000_0000:  # a signal; an exception of Windows
        return f"crashes the decoder ({done.returncode if done.returncode < 0 else hex(done.returncode)})"
    if done.returncode == OUT_OF_MEMORY:
        return f"takes more than {MEMORY >> 30} GB of memory to be read"
    if done.returncode:  # not the file's doing
        logger.warning(
            "'%s' was not looked at in a process of its own: %s", path, done.stderr[-1000:].decode("utf-8", "replace")
        )
    return None


def _command(path: str, budget: float) -> list[str]:
    return [sys.executable, "-m", "latentsync.media.isolation", path, str(budget), str(MEMORY)]


def decode_beginning(path: str, budget: float) -> int:
    """Decode pictures and sound for so many seconds of processor time; how many frames. Raises MediaError."""
    frames, end = 0, time.process_time() + budget
    with open_media(path) as container:
        streams = [stream for stream in container.streams if stream.type in ("video", "audio") and stream.codec_context]
        packets = container.demux(streams)
        while time.process_time() < end:
            with contextlib.suppress(av.FFmpegError, ValueError):  # damage that the decoder noticed
                packet = next(packets, None)
                if packet is None:
                    break
                frames += len(packet.decode())
    return frames


def limit_memory(size: int) -> None:
    """To so many bytes of address space beyond what the process has by now, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    status = Path("/proc/self/statm")  # with many processor cores, libraries reserve gigabytes that they never touch
    taken = int(status.read_text(encoding="ascii").split()[0]) * resource.getpagesize() if status.is_file() else 0
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = size + taken
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    limit_memory(int(sys.argv[3]))
    try:
        decode_beginning(sys.argv[1], float(sys.argv[2]))
    except LatentSyncError:
        pass  # the caller's own reader says it
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
