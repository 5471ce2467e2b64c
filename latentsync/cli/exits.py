"""How the command line ends: exit codes, signals, errors as the user sees them."""

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

from ..errors import LatentSyncError, OptionError

DONE, FAILED, WRONG_ARGUMENTS, KILLED = 0, 1, 2, 128  # KILLED plus the signal's number
OUT_OF_MEMORY = "not enough memory. Close other programs, or try a shorter --duration, --dtype float16 or --device cpu"


@contextlib.contextmanager
def clean_stops() -> Iterator[None]:
    """Inside, being terminated or losing the terminal raises KeyboardInterrupt, so that nothing is left behind."""

    def interrupt(number: int, _) -> None:
        raise KeyboardInterrupt(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup's choice is kept
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def complain(error: Exception, verbose: bool) -> int:
    """Tell the user what went wrong, with the stack trace where that was not foreseen; returns the exit code."""
    memory_is_full = isinstance(error, MemoryError) or (
        # torch's own errors, on GPUs and on the CPU
        isinstance(error, RuntimeError) and any(part in str(error) for part in ("out of memory", "can't allocate"))
    )
    if verbose or not (memory_is_full or isinstance(error, LatentSyncError | OSError)):
        traceback.print_exception(error)
    message = OUT_OF_MEMORY if memory_is_full else str(error)
    print(f"error: {message or type(error).__name__}", file=sys.stderr)
    return WRONG_ARGUMENTS if isinstance(error, OptionError) else FAILED
