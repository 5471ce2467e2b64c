"""How far a run is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .options import LipSyncOptions

SCAN_SHARE = 0.05  # of the progress, for finding the faces


@dataclass(frozen=True)
class Progress:
    """Where a run stands. frames_total is exact for a constant frame rate, else an estimate."""

    frames_done: int  # generated, on their way to the file
    frames_total: int
    step: int  # of the chunk in work
    num_steps: int
    seconds: float  # since the start of the run
    fraction: float = 0.0  # of the run, 0..1; counts the steps of the chunk in work and never falls
    stage: str = "generate"  # or "find faces"


class ProgressTeller:
    """Tells how far a run is, and asks whether it should stop; in the thread that called for the run."""

    def __init__(
        self,
        num_frames: int,
        options: LipSyncOptions,
        started: float,
        on_progress: Callable[[Progress], None] | None,
        check: Callable[[], None],
    ):
        self._total, self._options, self._started = num_frames, options, started
        self._on_progress, self.check = on_progress, check
        self._fraction = 0.0

    def scanned(self, index: int) -> None:
        """Frame `index` of the source was searched."""
        self.check()
        self._tell(0, 0, min(SCAN_SHARE, SCAN_SHARE * (index + 1) / max(self._total, 1)), "find faces")

    def generated(self, frames_done: int, step: int = 0) -> None:
        """So many frames are done and so many steps of the next chunk."""
        self.check()
        coming = step / self._options.num_inference_steps
        coming *= self._options.chunk_frames - self._options.chunk_overlap
        done = (frames_done + coming) / max(self._total, frames_done, 1)
        self._tell(frames_done, step, SCAN_SHARE + (1 - SCAN_SHARE) * min(1.0, done))

    def finish(self, num_frames: int) -> None:
        """Nothing is left to do, also where the number of frames was only an estimate."""
        self._total = num_frames
        self.generated(num_frames)

    def _tell(self, frames_done: int, step: int, fraction: float, stage: str = "generate") -> None:
        self._fraction = max(self._fraction, fraction)
        if self._on_progress is not None:
            total, seconds = max(self._total, frames_done), time.monotonic() - self._started
            num_steps = self._options.num_inference_steps
            self._on_progress(Progress(frames_done, total, step, num_steps, seconds, self._fraction, stage))
