"""What is told of each frame of a run."""

import numpy as np

from .faces.detect import mouth_opening
from .faces.finder import FaceTracker
from .faces.people import FacePath
from .frame_queue import FinishedFace, WaitingFrame
from .report import FaceRecords, FrameRecord
from .speakers import Speaker, Speech
from .speaking_face import SpeakingFace
from .stage_times import StageTimes
from .voice_activity import OffsetEstimate, estimate_offset


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
