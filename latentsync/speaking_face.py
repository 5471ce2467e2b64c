"""One face on its way through a run: aligned, made to speak, restored, handed to its waiting frames."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .chunks import ChunkGenerator, FaceFrame
from .faces.alignment import frame_pixels_per_crop_pixel, resized_matrix, warp_faces
from .frame_queue import FinishedFace, WaitingFrame
from .models import LipSyncModel
from .options import LipSyncOptions
from .pipeline import OnEstimate, OnStep
from .restoration.face_restoration import FaceRestoration
from .restoration.restorers import Restorer
from .stage_times import StageTimes
from .tracks.placement import PlacedFace, Placement

MAX_GAP = 0.25  # s of the source between two frames of one movement; more is a jump, as where a loop begins again


@dataclass(eq=False)
class _Work:
    """What goes with a face through generation."""

    waiting: WaitingFrame
    placed: PlacedFace
    weight: float
    aligned: np.ndarray
    restored: bool = False


class SpeakingFace:
    """Frames in, faces out: `take` gives each frame's face into work, which comes back to the frame when it is final.

    number      by which waiting frames know the face
    placement   where it is in each frame of the source; times: (N,) s of these
    restorer    of the generated face, None for none
    """

    def __init__(
        self,
        number: int,
        model: LipSyncModel,
        options: LipSyncOptions,
        placement: Placement,
        times: np.ndarray,
        restorer: Restorer | None = None,
        stages: StageTimes | None = None,
        on_step: OnStep | None = None,
        on_estimate: OnEstimate | None = None,
    ):
        self._number, self._model, self._options = number, model, options
        self._placement, self._times = placement, times
        self._stages = stages or StageTimes()
        self._restoration = restorer and FaceRestoration(restorer, model.resolution, options, model.blend_mask)
        generator = torch.Generator("cpu").manual_seed((options.seed + number) % 2**63)
        finish = self._restored if self._restoration else None
        self._chunks = ChunkGenerator(model, options, generator, on_step, on_estimate, finish)
        placed = map(placement.at, range(len(times)))
        self._stretches = np.cumsum([face is not None and face.restart for face in placed])  # of each row
        self._last: int | None = None  # row of the frame before

    @property
    def warning(self) -> str | None:
        """What is doubtful about the faces made so far."""
        return self._chunks.warning

    def take(self, waiting: WaitingFrame, hear: Callable[[], Tensor], voice: float) -> None:
        """The next frame. hear: gives its audio tokens (K, D); voice: 0..1, how far the generated face may show."""
        row = waiting.frame.source_index
        placed = self._placement.at(row)
        weight = placed.weight * voice if placed else 0.0
        if placed is None or weight <= 0:
            self.flush()
            return
        if self._jumps(row):
            self.flush()
        self._last = row
        with self._stages.stage("align"):
            matrix = placed.matrix[None]
            aligned = warp_faces([waiting.frame.pixels], matrix, self._model.resolution, self._options.sampling)[0]
        waiting.awaited += 1
        self._hand_out(self._chunks.push(FaceFrame(aligned, hear(), _Work(waiting, placed, weight, aligned))))

    def flush(self) -> None:
        """Finish what is in work; what comes next does not continue it."""
        self._hand_out(self._chunks.flush())
        self._last = None
        if self._restoration:
            self._restoration.reset()

    def _jumps(self, row: int) -> bool:
        if self._last is None:
            return False
        gap = abs(self._times[row] - self._times[self._last])
        return gap > MAX_GAP or self._stretches[row] != self._stretches[self._last]

    def _hand_out(self, pairs: Iterator[tuple[FaceFrame, Tensor]]) -> None:
        for item, face in self._stages.timed("generate", pairs):
            work: _Work = item.payload
            finished = FinishedFace(face, work.aligned, work.placed, work.weight, work.restored)
            work.waiting.finish(self._number, finished)

    def _restored(self, frames: list[FaceFrame], faces: Tensor) -> Tensor:
        """Generated faces (F, 3, S, S) -> (F, 3, S', S'), notes at each whether it was restored."""
        with self._stages.stage("restore"):
            side = self._restoration.side
            works: list[_Work] = [frame.payload for frame in frames]
            matrices = [resized_matrix(work.placed.matrix, self._model.resolution, side) for work in works]
            pictures = [work.waiting.frame.pixels for work in works]
            sources = warp_faces(pictures, np.stack(matrices), side, self._options.sampling)
            scales = [frame_pixels_per_crop_pixel(work.placed.matrix, self._model.resolution) for work in works]
            faces, restored = self._restoration(faces, sources, np.array(scales))
            for work, source, was_restored in zip(works, sources, restored, strict=True):
                work.aligned, work.restored = source, bool(was_restored)
        return faces
