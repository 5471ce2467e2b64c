"""One face on its way through a run: aligned, made to speak, restored, handed to its waiting frames."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .chunks import ChunkGenerator, FaceFrame
from .denoising import Denoising
from .faces.align import warp_faces
from .faces.place import PlacedFace, Placement
from .frame_queue import FinishedFace, WaitingFrame
from .model.loading import LipSyncModel
from .options import LipSyncOptions
from .restoration.restore import FaceRestoration
from .restoration.restorers import Restorer
from .source_cache import SourceCache
from .stage_times import StageTimes

MAX_GAP = 0.25  # s of the source between two frames of one movement; more is a jump, as where a loop begins again
# What a run keeps of frames that come again, of all its faces together: 341 and 3,640 frames at 256 px.
ALIGNED_BYTES, ENCODED_BYTES = 64 * 2**20, 128 * 2**20


Job = Callable[[], None]  # done once, after those before it


@dataclass(eq=False)
class SeenFace:
    """A face of a frame that is to be generated.

    placed   its place; weight: over 0 .. 1 of the generated one in the frame
    aligned  (S, S, 3) uint8; once it is restored: what the source shows at the restored size
    """

    waiting: WaitingFrame
    placed: PlacedFace
    weight: float
    aligned: np.ndarray
    restored: bool = False


class SpeakingFace:
    """Frames in, faces out: `look` sees a frame, `take` gives what was seen into work, in the same order, and returns
    what is left to do to faces that are denoised: these jobs hand them to their frames. The three may run in threads of
    their own, the jobs in their order.

    number      by which waiting frames know the face
    placement   where it is in each frame of the source; times: (N,) s of these
    restorer    of the generated face, None for none
    share       of the bytes that are kept of frames that come again; 0 where none will
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
        share: float = 0.0,
    ):
        self._number, self._model, self._options = number, model, options
        self._placement, self._times = placement, times
        self._stages = stages or StageTimes()
        self._restoration = restorer and FaceRestoration(restorer, model.resolution, options, model.blend_mask)
        generator = torch.Generator("cpu").manual_seed((options.seed + number) % 2**63)
        finish = self._restored if self._restoration else None
        encoded = SourceCache(int(share * ENCODED_BYTES))
        self._chunks = ChunkGenerator(model, options, generator, finish=finish, encoded=encoded)
        self._aligned: SourceCache[np.ndarray] = SourceCache(int(share * ALIGNED_BYTES))
        self._last: int | None = None  # row of the frame before

    @property
    def warning(self) -> str | None:
        """What is doubtful about the faces made so far."""
        return self._chunks.warning

    def look(self, waiting: WaitingFrame, voice: float) -> SeenFace | None:
        """The face in the next frame, None where it is not to be generated. voice: 0..1, how far it may show."""
        row = waiting.frame.source_index
        placed = None if waiting.is_tail else self._placement.at(row)
        weight = placed.weight * voice if placed else 0.0
        if placed is None or weight <= 0:
            return None
        aligned = self._aligned.get(row)
        if aligned is None:
            with self._stages.stage("align"):
                matrix = placed.matrix[None]
                aligned = warp_faces([waiting.frame.pixels], matrix, self._model.resolution, self._options.sampling)[0]
            self._aligned.put(row, aligned, aligned.nbytes)
        return SeenFace(waiting, placed, weight, aligned)

    def take(self, seen: SeenFace | None, hear: Callable[[], Tensor]) -> Denoising[list[Job]]:
        """Work on the next frame. hear: gives its audio tokens (K, D)."""
        if seen is None:
            return (yield from self.flush())
        row = seen.waiting.frame.source_index
        jobs = (yield from self.flush()) if self._jumps(row) else []
        self._last = row
        seen.waiting.awaited += 1
        final = yield from self._chunks.push(FaceFrame(seen.aligned, hear(), seen, key=row))
        return [*jobs, *self._jobs(final)]

    def flush(self) -> Denoising[list[Job]]:
        """End what is in work; what comes next does not continue it."""
        final = yield from self._chunks.flush()
        self._last = None
        return [*self._jobs(final), *([self._restoration.reset] if self._restoration else [])]

    def _jumps(self, row: int) -> bool:
        if self._last is None:
            return False
        gap = abs(self._times[row] - self._times[self._last])
        return gap > MAX_GAP or self._placement.stretches[row] != self._placement.stretches[self._last]

    def _jobs(self, final: list[FaceFrame]) -> list[Job]:
        for item in final:
            item.payload.waiting.awaited -= 1
        return [partial(self._finish, final)] if final else []

    def _finish(self, final: list[FaceFrame]) -> None:
        for item, face in self._chunks.finished(final):
            seen: SeenFace = item.payload
            item.payload = None  # the picture itself is no longer needed
            finished = FinishedFace(face, seen.aligned, seen.placed, seen.weight, seen.restored)
            seen.waiting.finished[self._number] = finished

    def _restored(self, frames: list[FaceFrame], faces: Tensor) -> Tensor:
        """Generated faces (F, 3, S, S) -> (F, 3, S', S'), notes at each whether it was restored."""
        with self._stages.stage("restore"):
            all_seen: list[SeenFace] = [frame.payload for frame in frames]
            pictures = [seen.waiting.frame.pixels for seen in all_seen]
            matrices = [seen.placed.matrix for seen in all_seen]
            faces, sources, restored = self._restoration.in_frames(faces, pictures, matrices, self._options.sampling)
            for seen, source, was_restored in zip(all_seen, sources, restored, strict=True):
                seen.aligned, seen.restored = source, bool(was_restored)
        return faces
