"""The frames of a run on their way: their faces are seen, made to speak, and pasted back.

`seen`, `spoken`, `finished` and `pasted` take frames in order and give them in order; each may run in a thread of its
own (see overlap.py).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from torch import Tensor

from .denoising import Denoiser, Denoising
from .faces.blend import FacePaster
from .faces.finder import FaceFinder
from .faces.people import ClipFaces
from .faces.place import place
from .frame_queue import FrameQueue, WaitingFrame
from .frame_records import FrameRecorder, Part
from .media.video_reader import VideoFrame
from .model.loading import LipSyncModel
from .model.whisper import AudioFeatureStream, TokenWindows, window_centre_at
from .options import LipSyncOptions
from .restoration.restorers import Restorer
from .speakers import Speaker, Speech, cast
from .speaking_face import Job, SeenFace, SpeakingFace
from .stage_times import StageTimes
from .timeline import Timeline


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
        roles = cast(speakers, clip, finder)
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
    ) -> Iterator[tuple[WaitingFrame, list[Job]]]:
        """The same frames, each once all its faces are denoised, and what is to be done to faces before it goes on."""
        queue, jobs = FrameQueue(), []

        def handed_on() -> Iterator[tuple[WaitingFrame, list[Job]]]:
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

    def finished(self, frames: Iterable[tuple[WaitingFrame, list[Job]]]) -> Iterator[WaitingFrame]:
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

    def _denoised(self, denoiser: Denoiser, works: list[Denoising[list[Job]]]) -> list[Job]:
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
