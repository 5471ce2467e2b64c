"""How far a download is: one line that changes on a terminal, a few lines elsewhere."""

import sys
import time
from typing import TextIO

EVERY = {True: 0.2, False: 20.0}  # s between reports, on a terminal and elsewhere


class Progress:
    """Reports of one file."""

    def __init__(self, name: str, stream: TextIO | None = None):
        self._name, self._stream = name, stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._began: tuple[float, int] | None = None  # time in s, bytes that were there then
        self._told = time.monotonic()
        self._open = False

    def __call__(self, done: int, total: int | None) -> None:
        """Bytes that are there, and of how many."""
        now = time.monotonic()
        if self._began is None or done < self._began[1]:
            self._began = now, done
        if now - self._told < EVERY[self._terminal] and done != total:
            return
        self._told = now
        speed = (done - self._began[1]) / max(now - self._began[0], 1e-3)
        text = f"{self._name}: {size_text(done)}"
        if total:
            text = f"{self._name}: {100 * done // total:3d} % of {size_text(total)}"
        if speed > 0 and now - self._began[0] > 1:
            text += f", {size_text(speed)}/s"
            if total and total > done:
                text += f", {time_text((total - done) / speed)} left"
        self._write(text)

    def _write(self, text: str) -> None:
        if self._terminal:
            self._stream.write(f"\r{text[:110]:<78}")
            self._open = True
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """A line of its own."""
        self.close()
        self._stream.write(f"{self._name}: {text}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False


def size_text(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def time_text(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
