"""How the command line ends: exit codes, signals, errors as the user sees them."""

import contextlib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

from ..errors import LatentSyncError, OptionError, dependency_error, is_out_of_memory

DONE, FAILED, WRONG_ARGUMENTS, KILLED = 0, 1, 2, 128  # KILLED plus the signal's number
OUT_OF_MEMORY = (
    "not enough memory. Close other programs, or try --low_memory fp8, on a GPU also --dtype float16, --low_memory "
    "offload or --device cpu. A shorter clip needs no less"
)


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
    if verbose or not is_foreseen(error):
        traceback.print_exception(error)
    print(f"error: {message_of(error)}", file=sys.stderr)
    return WRONG_ARGUMENTS if isinstance(error, OptionError) else FAILED


def is_foreseen(error: Exception) -> bool:
    """Whether its message tells a user what to do, so that a stack trace would only be in the way."""
    if is_out_of_memory(error) or isinstance(error, LatentSyncError | OSError):
        return True
    return dependency_error(error) is not None


def message_of(error: Exception) -> str:
    """What to tell the user."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    broken = None if isinstance(error, LatentSyncError) else dependency_error(error)
    return str(broken or error) or type(error).__name__
