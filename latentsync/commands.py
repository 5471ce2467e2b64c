"""What every command of this project shares: a parser that says which option was meant, exit codes, signals, errors."""

import argparse
import contextlib
import difflib
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from .errors import LatentSyncError, OptionError, dependency_error, is_out_of_memory

DONE, FAILED, WRONG_ARGUMENTS, KILLED = 0, 1, 2, 128  # KILLED plus the signal's number
OUT_OF_MEMORY = (
    "not enough memory. Close other programs, or try --low_memory fp8, on a GPU also --dtype float16, --low_memory "
    "offload or --device cpu. A shorter clip needs no less"
)

# How other programs name what `main.py` has, in its spelling. Names that are merely misspelt are found without.
ELSEWHERE = {
    "output": "video_out_path",
    "out": "video_out_path",
    "result": "video_out_path",
    "video": "video_path",
    "input": "video_path",
    "audio": "audio_path",
    "speech": "audio_path",
    "steps": "inference_steps",
    "num_inference_steps": "inference_steps",
    "cfg": "guidance_scale",
    "guidance": "guidance_scale",
    "unet": "model",
    "checkpoint": "model",
}


class OptionParser(argparse.ArgumentParser):
    """Takes no beginnings of names: --out would be --output_audio. A mistake is one line, without a list of options."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        """As argparse's; what is unknown is told before what is missing, since it may be that."""
        args = list(sys.argv[1:] if args is None else args)
        if unknown := self._unknown(args):
            self.error(", ".join(self._told(option) for option in unknown))
        return super().parse_args(args, namespace)

    def _unknown(self, args: list[str]) -> list[str]:
        """Options by name that are none here; all after -- are no options."""
        before = args[: args.index("--")] if "--" in args else args
        names = (text.partition("=")[0] for text in before if text.startswith("--"))
        return [name for name in dict.fromkeys(names) if name not in self._option_string_actions]

    def _told(self, option: str) -> str:
        """That an option is unknown, and which one may be meant."""
        known = {name.lstrip("-"): name for name in self._option_string_actions if name.startswith("--")}
        plain = option.lstrip("-").lower().replace("-", "_")
        spelled = {name.replace("-", "_"): name for name in known}
        near = spelled.get(plain) or (ELSEWHERE.get(plain) if ELSEWHERE.get(plain) in known else None)
        near = near or next(
            (spelled[name] for name in difflib.get_close_matches(plain, spelled, n=1, cutoff=0.7)), None
        )
        return f"there is no option {option}" + (f": did you mean {known[near]}?" if near else "")

    def error(self, message: str) -> NoReturn:
        """One line, and where the options are listed."""
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help lists the options)\n")


@contextlib.contextmanager
def clean_stops() -> Iterator[None]:
    """Raise KeyboardInterrupt inside when terminated or without a terminal, so that nothing is left behind."""

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
    """Print what went wrong, with the stack trace where that was not foreseen, and return the exit code."""
    if verbose or not is_foreseen(error):
        traceback.print_exception(error)
    print(f"error: {user_message(error)}", file=sys.stderr)
    return WRONG_ARGUMENTS if isinstance(error, OptionError) else FAILED


def is_foreseen(error: Exception) -> bool:
    """Return whether the message says what to do, so that a stack trace would only be in the way."""
    if is_out_of_memory(error) or isinstance(error, LatentSyncError | OSError):
        return True
    return dependency_error(error) is not None


def user_message(error: Exception) -> str:
    """Return what the user is shown of an error."""
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    broken = None if isinstance(error, LatentSyncError) else dependency_error(error)
    return str(broken or error) or type(error).__name__
