"""How far a run is, for someone who waits at a terminal or reads a log."""

import sys
import time

from tqdm import tqdm

from ..engine import Progress


class ProgressBar:
    """A bar with frames per second and time left, on standard error.

    Frames come in chunks, with nothing in between for minutes on a slow machine. So the steps of the chunk in work
    count as shares of its frames, and the speed is the average of the run so far.
    """

    FORMAT = "{percentage:3.0f}%|{bar}| {desc} [{elapsed} gone, {remaining} left, {rate_noinv_fmt}]"

    def __init__(self):
        self._bar: tqdm | None = None  # until there is something to show, so that warnings before it have their lines
        self._interval = 0.1 if sys.stderr.isatty() else 10.0  # s; every line stays in a log
        self._shown = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._shown < self._interval and progress.frames_done < progress.frames_total:
            return
        self._shown = now
        if self._bar is None:
            look = {"bar_format": self.FORMAT, "dynamic_ncols": True, "file": sys.stderr}
            self._bar = tqdm(total=progress.frames_total, unit=" frames", smoothing=0, **look)
            self._bar.start_t -= progress.seconds  # counts from the run's begin
        self._bar.total = progress.frames_total
        self._bar.n = progress.fraction * progress.frames_total
        step = f", step {progress.step}/{progress.num_steps}" if progress.step else ""
        self._bar.set_description_str(f"{progress.frames_done}/{progress.frames_total} frames{step}", refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
