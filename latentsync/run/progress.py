"""How far a run is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..model.loading import LipSyncModel
from ..model.vae import decode
from ..options import LipSyncOptions

# Looks at a face while it is being made.

OnPreview = Callable[[np.ndarray], None]


class FacePreview:
    """`preview(clean)`: shows the middle face of the chunk that these latents (F, C, h, w) would become.

    on_preview  given (S, S, 3) uint8 RGB; may raise to stop
    interval    s between two of them at least; each costs the decoding of one face. 0: each time
    """

    def __init__(self, model: LipSyncModel, on_preview: OnPreview, interval: float = 0.5):
        self._model, self._on_preview, self._interval = model, on_preview, interval
        self._last: float | None = None

    def __call__(self, clean: Tensor) -> None:
        now = time.monotonic()
        if self._last is not None and now - self._last < self._interval:
            return
        self._last = now
        middle = len(clean) // 2
        face = decode(self._model.draft_decoder or self._model.vae, clean[middle : middle + 1].to(self._model.device))
        self._on_preview(as_picture(face[0]))


def as_picture(face: Tensor) -> np.ndarray:
    """Face (3, S, S), about [-1, 1] -> (S, S, 3) uint8; values that are not numbers become grey."""
    levels = face.detach().float().nan_to_num(0).clamp(-1, 1).add(1).mul(127.5).round()
    return rearrange(levels.to(torch.uint8).cpu(), "c h w -> h w c").contiguous().numpy()


# Progress

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
