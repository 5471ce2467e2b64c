"""The frames of a run on their way: their faces are seen, made to speak, and pasted back.

`seen`, `spoken`, `finished` and `pasted` take frames in order and give them in order; each may run in a thread of its
own (see threads.py).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..faces.align import warp_faces
from ..faces.blend import FacePaster
from ..faces.detect import mouth_opening
from ..faces.finder import FaceFinder, FaceTracker
from ..faces.people import ClipFaces, FacePath
from ..faces.place import PlacedFace, Placement, place
from ..media.video_reader import VideoFrame
from ..model.loading import LipSyncModel
from ..model.whisper import AudioFeatureStream, TokenWindows, window_centre_at
from ..options import LipSyncOptions
from ..restoration.restore import FaceRestoration
from ..restoration.restorers import Restorer
from ..voice_activity import OffsetEstimate, estimate_offset
from .chunks import ChunkGenerator, Denoiser, Denoising, FaceFrame, SourceCache
from .report import FaceRecords, FrameRecord
from .speech import Speaker, Speech, assign_faces
from .threads import StageTimes
from .timeline import Timeline

# Frames that wait for their faces: those of several people are denoised at different times.


@dataclass(frozen=True)
class FinishedFace:
    """A generated face and where it belongs.

    face      (3, S', S') float32, about [-1, 1]
    aligned   (S', S', 3) uint8, the source's
    placed    its place; weight: 0..1 of the generated one in the frame
    restored  whether super-resolution changed it
    """

    face: Tensor
    aligned: np.ndarray
    placed: PlacedFace
    weight: float
    restored: bool = False


@dataclass(eq=False)
class WaitingFrame:
    """A frame of the result on its way.

    protect  (H, W) float32 0..1, 1 keeps the source; None for nothing
    awaited  faces that are still to be denoised; finished: by number of the speaker
    is_tail  comes after the speech
    """

    frame: VideoFrame
    protect: np.ndarray | None = None
    is_tail: bool = False
    awaited: int = 0
    finished: dict[int, FinishedFace] = field(default_factory=dict)


class FrameQueue:
    """First in, first out, and only with all faces denoised: holds about one chunk of frames."""

    def __init__(self):
        self._waiting: deque[WaitingFrame] = deque()

    def add(self, frame: WaitingFrame) -> None:
        self._waiting.append(frame)

    def ready(self) -> Iterator[WaitingFrame]:
        while self._waiting and not self._waiting[0].awaited:
            yield self._waiting.popleft()


# One face on its way through a run: aligned, made to speak, restored, handed to its waiting frames.

MAX_GAP = 0.25  # s of the source between two frames of one movement; more is a jump, as where a loop begins again
# What a run keeps of frames that come again, of all its faces together: 341 and 3,640 frames at 256 px.
ALIGNED_BYTES, ENCODED_BYTES = 64 * 2**20, 128 * 2**20


FaceWork = Callable[[], None]  # done once, after those before it


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

    def take(self, seen: SeenFace | None, hear: Callable[[], Tensor]) -> Denoising[list[FaceWork]]:
        """Work on the next frame. hear: gives its audio tokens (K, D)."""
        if seen is None:
            return (yield from self.flush())
        row = seen.waiting.frame.source_index
        jobs = (yield from self.flush()) if self._jumps(row) else []
        self._last = row
        seen.waiting.awaited += 1
        final = yield from self._chunks.push(FaceFrame(seen.aligned, hear(), seen, key=row))
        return [*jobs, *self._jobs(final)]

    def flush(self) -> Denoising[list[FaceWork]]:
        """End what is in work; what comes next does not continue it."""
        final = yield from self._chunks.flush()
        self._last = None
        return [*self._jobs(final), *([self._restoration.reset] if self._restoration else [])]

    def _jumps(self, row: int) -> bool:
        if self._last is None:
            return False
        gap = abs(self._times[row] - self._times[self._last])
        return gap > MAX_GAP or self._placement.stretches[row] != self._placement.stretches[self._last]

    def _jobs(self, final: list[FaceFrame]) -> list[FaceWork]:
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


# What is told of each frame of a run.


class Part:
    """Who plays whom: a speaker's face, and what is told of it.

    number   among the parts; speaker: number of who speaks; index: of the face in the clip
    path     the face through the clip
    """

    def __init__(self, number: int, speaker: int, index: int, path: FacePath, face: SpeakingFace):
        self.number, self.speaker, self.index, self.path, self.face = number, speaker, index, path, face
        self.rows = {int(row): place for place, row in enumerate(path.rows)}
        self.records: list[FrameRecord] = []


class FrameRecorder:
    """Notes each finished frame. mesh_reader: reads the mouth's opening in it; None for not.

    num_faces: frames with a generated face; last_time: s, of the latest frame.
    """

    def __init__(
        self,
        speakers: list[Speaker],
        speeches: list[Speech],
        offset_ms: float,
        mesh_reader: FaceTracker | None,
        stages: StageTimes,
    ):
        self._speakers, self._speeches, self._offset = speakers, speeches, offset_ms / 1000
        self._mesh_reader, self._stages = mesh_reader, stages
        self.num_faces, self.last_time = 0, 0.0

    def add(self, waiting: WaitingFrame, parts: list[Part], pixels: np.ndarray) -> None:
        """pixels: (H, W, 3) uint8, the finished frame."""
        self.num_faces += bool(waiting.finished)
        self.last_time = waiting.frame.time
        for part in parts:
            part.records.append(self._record(waiting, part, pixels))

    def faces(self, parts: list[Part]) -> tuple[FaceRecords, ...]:
        return tuple(FaceRecords(part.index, self._speakers[part.speaker].face, tuple(part.records)) for part in parts)

    def offset(self, part: Part, duration: float) -> OffsetEstimate | None:
        """Of a face's lips to its speech, where they were measured."""
        times, openings = [frame.time for frame in part.records], [frame.opening for frame in part.records]
        return estimate_offset(times, openings, self._speeches[part.speaker].peaks(duration))

    def _record(self, waiting: WaitingFrame, part: Part, pixels: np.ndarray) -> FrameRecord:
        voice = float(self._speeches[part.speaker].gate.at(waiting.frame.time - self._offset))
        row = None if waiting.is_tail else part.rows.get(waiting.frame.source_index)
        if row is None:
            return FrameRecord(waiting.frame.time, False, 0.0, faded=float(waiting.is_tail), voice=voice)
        done = waiting.finished.get(part.number)
        return FrameRecord(
            waiting.frame.time,
            True,
            float(part.path.confidence[row]),
            _known(part.path.opening[row]),
            None if done is None else self._opening(pixels, done),
            faded=1.0 if done is None else 1 - done.weight,
            yaw=_known(part.path.yaw[row]),
            voice=voice,
            restored=done is not None and done.restored,
        )

    def _opening(self, pixels: np.ndarray, done: FinishedFace) -> float | None:
        """Of the mouth in a finished frame, read where the source's face is."""
        if self._mesh_reader is None or done.placed.region is None:
            return None
        with self._stages.stage("measure"):
            found = self._mesh_reader.follow(pixels, done.placed.region)
        return None if found is None else mouth_opening(found.landmarks)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# The flow


class FrameFlow:
    """parts: who speaks; shown: which of the source's frames were handed on so far; warnings: for a person to read."""

    def __init__(
        self,
        model: LipSyncModel,
        options: LipSyncOptions,
        speakers: Sequence[Speaker],
        speeches: Sequence[Speech],
        features: Sequence[AudioFeatureStream],
        timeline: Timeline,
        clip: ClipFaces,
        finder: FaceFinder,
        restorer: Restorer | None,
        stages: StageTimes,
    ):
        """Gives everyone who speaks a face. Raises OptionError where one is not there or would speak twice."""
        self._model, self._options, self._stages = model, options, stages
        self._speeches, self._speech_end, self._restorer = speeches, timeline.speech, restorer
        self._windows = [TokenWindows(stream) for stream in features]
        self._paste = FacePaster(
            model.resolution, options, model.blend_mask, model.resolution * options.sr_ratio if restorer else None
        )
        roles = assign_faces(speakers, clip, finder)
        share = 1 / len(roles) if timeline.repeats else 0.0
        self.parts = [
            Part(
                number,
                speaker,
                index,
                clip.paths[index],
                SpeakingFace(
                    number,
                    model,
                    options,
                    place(clip.paths[index], clip, model.resolution, options, model.framing),
                    clip.times,
                    restorer,
                    stages,
                    share,
                ),
            )
            for number, (speaker, index) in enumerate(roles)
        ]
        self.shown: list[int] = []
        self.warnings: list[str] = [] if restorer is None else list(restorer.warnings)

    def seen(
        self, frames: Iterable[tuple[VideoFrame, np.ndarray | None]]
    ) -> Iterator[tuple[WaitingFrame, list[SeenFace | None]]]:
        """Frames and what is protected in each -> the frames with the aligned face of each part."""
        for frame, protect in frames:
            is_tail = bool(frame.index) and frame.time >= self._speech_end - 1e-6
            waiting, moment = WaitingFrame(frame, protect, is_tail), self._moment(frame)
            yield waiting, [part.face.look(waiting, self._voice(part, moment)) for part in self.parts]
            del frame, waiting  # nothing is held here while the next one is made

    def spoken(
        self, frames: Iterable[tuple[WaitingFrame, list[SeenFace | None]]], denoiser: Denoiser
    ) -> Iterator[tuple[WaitingFrame, list[FaceWork]]]:
        """The same frames, each once all its faces are denoised, and what is to be done to faces before it goes on."""
        queue, jobs = FrameQueue(), []

        def handed_on() -> Iterator[tuple[WaitingFrame, list[FaceWork]]]:
            for waiting in queue.ready():
                self.shown.append(waiting.frame.source_index)
                now, jobs[:] = jobs[:], []
                yield waiting, now
                del waiting, now

        for waiting, faces in frames:
            queue.add(waiting)
            hear = self._hearing(waiting)
            jobs += self._denoised(
                denoiser, [part.face.take(face, hear(part)) for part, face in zip(self.parts, faces, strict=True)]
            )
            del waiting, faces, hear
            yield from handed_on()
        jobs += self._denoised(denoiser, [part.face.flush() for part in self.parts])
        yield from handed_on()

    def finished(self, frames: Iterable[tuple[WaitingFrame, list[FaceWork]]]) -> Iterator[WaitingFrame]:
        """The frames with their faces: decoded, judged, in the source's colours, restored."""
        for waiting, jobs in frames:
            with self._stages.stage("finish faces"):
                for job in jobs:
                    job()
            if jobs:
                self._note_warnings()
            yield waiting
            del waiting, jobs

    def pasted(
        self, frames: Iterable[WaitingFrame], recorder: FrameRecorder
    ) -> Iterator[tuple[VideoFrame, np.ndarray]]:
        """The frames with their finished pixels (H, W, 3) uint8."""
        for waiting in frames:
            pixels = waiting.frame.pixels
            for number in sorted(waiting.finished):
                done = waiting.finished[number]
                with self._stages.stage("paste"):
                    pixels = self._paste(
                        pixels,
                        done.face,
                        done.aligned,
                        done.placed.matrix,
                        waiting.protect,
                        contour=done.placed.contour,
                        weight=done.weight,
                    )
            recorder.add(waiting, self.parts, pixels)
            yield waiting.frame, pixels
            del waiting, pixels

    def finish(self) -> None:
        """Tell what was asked for and came to nothing."""
        frames = [frame for part in self.parts for frame in part.records]
        if self._restorer is not None and self._options.sr_strength and not any(frame.restored for frame in frames):
            self.warnings.append(
                f"{self._restorer.name} restored nothing: the frames show the face no larger than the "
                f"{self._model.resolution} px at which it is generated, so there is nothing to gain"
            )

    def _denoised(self, denoiser: Denoiser, works: list[Denoising[list[FaceWork]]]) -> list[FaceWork]:
        with self._stages.stage("generate"):
            return [job for jobs in denoiser.together(works) for job in jobs]

    def _note_warnings(self) -> None:
        for warning in filter(None, (part.face.warning for part in self.parts)):
            if warning not in self.warnings:
                self.warnings.append(warning)

    def _moment(self, frame: VideoFrame) -> float:
        """s of the speech that the frame hears."""
        return frame.time - self._options.audio_offset_ms / 1000

    def _voice(self, part: Part, moment: float) -> float:
        return float(self._speeches[part.speaker].gate.at(moment)) if self._options.silence == "source" else 1.0

    def _hearing(self, waiting: WaitingFrame) -> Callable[[Part], Callable[[], Tensor]]:
        """What each part hears with a frame; speakers' tokens are made once, when they are needed."""
        heard: dict[int, Tensor] = {}
        moment = self._moment(waiting.frame)

        def hear(speaker: int) -> Tensor:
            if speaker not in heard:
                with self._stages.stage("listen"):
                    heard[speaker] = self._windows[speaker].tokens([window_centre_at(moment)])[0]
            return heard[speaker]

        return lambda part: lambda: hear(part.speaker)
