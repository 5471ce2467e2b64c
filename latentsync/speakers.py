"""Who speaks what: the faces of a run and their speeches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import OptionError
from .faces.choice import choose
from .faces.finder import FaceFinder
from .faces.people import ClipFaces
from .media.audio_reader import read_audio_blocks
from .model.loading import LipSyncModel
from .model.whisper import SAMPLE_RATE, AudioFeatureStream
from .options import LipSyncOptions
from .voice_activity import PEAKS_PER_SECOND, SpeechActivity, VoiceGate, WaveformPeaks, gated_blocks, speech_activity

SILENCE = SAMPLE_RATE  # samples of a block of silence
KEPT = 120 * SAMPLE_RATE  # samples of a speech that are held, 8 MB, and not decoded again


@dataclass(frozen=True)
class Speaker:
    """audio_path: a file with the speech; face: whose, see faces.choice ("all": everyone says the same)."""

    audio_path: str | Path
    face: str = "largest"


class Speech:
    """One speech of a run, of which a few numbers a frame are held, and the samples where it is short.

    activity: where somebody speaks; gate: opens and closes by it; peaks: the outline, 50 a second, 0..1;
    notices: what a person should know of the sound, a line each.
    `features(num_samples)` is what the model hears, continued by silence to that length.
    """

    def __init__(
        self,
        path: str | Path,
        model: LipSyncModel,
        options: LipSyncOptions,
        check: Callable[[], None] = lambda: None,
    ):
        """Reads the speech once. `check()` is called for every block of sound and may raise to stop."""
        self.path, self._model, self._options, self._check = path, model, options, check
        self._outline, self.num_samples = WaveformPeaks(SAMPLE_RATE), 0
        self.notices: list[str] = []
        self._held: list[np.ndarray] | None = []
        self.activity: SpeechActivity = speech_activity(self._outlined())
        self.gate = VoiceGate(self.activity)

    @property
    def warning(self) -> str | None:
        """What a person should know of a speech in which nobody speaks."""
        if len(self.gate.spoken):
            return None
        return (
            f"no voice was heard in '{self.path}', so the mouth rests. If it should move, turn the gate for pauses off "
            "(silence off)"
        )

    def peaks(self, duration: float) -> tuple[float, ...]:
        return self._outline.peaks()[: int(np.ceil(duration * PEAKS_PER_SECOND))]

    def features(self, num_samples: int) -> AudioFeatureStream:
        def blocks() -> Iterator[np.ndarray]:
            heard = self._blocks()
            yield from gated_blocks(heard, self.gate) if self._options.silence == "close" else heard
            for first in range(self.num_samples, num_samples, SILENCE):
                yield np.zeros(min(SILENCE, num_samples - first), np.float32)

        return AudioFeatureStream(blocks, self._model.whisper, self._options.audio_windows)

    def _blocks(self) -> Iterator[np.ndarray]:
        for block in self._read() if self._held is None else self._held:
            self._check()
            yield block

    def _read(self, **more) -> Iterator[np.ndarray]:
        part = {"start": self._options.start, "duration": self._options.duration, **more}
        return read_audio_blocks(self.path, sample_rate=SAMPLE_RATE, **part)

    def _outlined(self) -> Iterator[np.ndarray]:
        for block in self._read(on_notice=self.notices.append):
            self._check()
            self._outline.add(block)
            self.num_samples += len(block)
            if self._held is not None:
                self._held.append(block)
                if self.num_samples > KEPT:
                    self._held = None
            yield block


def cast(speakers: Sequence[Speaker], clip: ClipFaces, finder: FaceFinder) -> list[tuple[int, int]]:
    """(number of the speaker, number of the face) of everyone who speaks, in the speakers' order.

    finder: of the face in a picture of a person. Raises OptionError where a face is not there or would speak twice.
    """
    parts: list[tuple[int, int]] = []
    for number, speaker in enumerate(speakers):
        for path in choose(clip, speaker.face, finder):
            if taken := [speakers[other].face for other, face in parts if face == path]:
                raise OptionError(
                    f"the faces {taken[0]!r} and {speaker.face!r} are the same, number {path} of {len(clip.paths)}; "
                    "expected one speech a face. Choose by number, or by a point in the picture"
                )
            parts.append((number, path))
    return parts
