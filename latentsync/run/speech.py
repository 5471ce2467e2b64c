"""Who speaks what: the speakers of a run, a speech that is read from its file, and one that is kept in memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import AudioError, OptionError
from ..faces.choice import choose
from ..faces.finder import FaceFinder
from ..faces.people import ClipFaces
from ..media.audio_reader import read_audio_blocks
from ..model.device import own_threads
from ..model.loading import LipSyncModel
from ..model.whisper import SAMPLE_RATE, AudioFeatureStream, audio_tokens, resample_mono, window_centre_at
from ..options import LipSyncOptions
from ..voice_activity import PEAKS_PER_SECOND, SpeechActivity, VoiceGate, WaveformPeaks, gated_blocks, speech_activity

# Speakers and what they say

SILENCE = SAMPLE_RATE  # samples of a block of silence
KEPT = 120 * SAMPLE_RATE  # samples of a speech that are held, 8 MB, and not decoded again


@dataclass(frozen=True)
class Speaker:
    """audio_path: a file with the speech; face: whose, see faces.choice ("all": everyone says the same)."""

    audio_path: str | Path
    face: str = "largest"


class Speech:
    """One speech of a run, of which a few numbers a frame are held, and the samples where it is short.

    source: its file or samples; activity: where somebody speaks; gate: opens and closes by it; num_samples: at 16 kHz;
    notices: what a person should know of the sound, a line each.
    `features(num_samples)` is what the model hears, continued by silence to that length.
    """

    def __init__(
        self,
        source: str | Path | np.ndarray,
        model: LipSyncModel,
        options: LipSyncOptions,
        check: Callable[[], None] = lambda: None,
    ):
        """Read the speech once.

        Args:
            source: a file, of which `start` and `duration` of the options are heard, or samples (T,) float32 in [-1, 1]
                at 16 kHz, all of which are.
            check: is called for every block of sound and may raise to stop.
        """
        self.source, self._model, self._options, self._check = source, model, options, check
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
            f"no voice was heard in '{self.source}', so the mouth rests. If it should move, turn the gate for pauses "
            "off (silence off)"
        )

    def peaks(self, duration: float | None = None) -> tuple[float, ...]:
        """Return the outline, 50 a second, 0..1, of so many seconds; None for all."""
        return self._outline.peaks()[: None if duration is None else int(np.ceil(duration * PEAKS_PER_SECOND))]

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
        if isinstance(self.source, np.ndarray):
            return iter([self.source])
        part = {"start": self._options.start, "duration": self._options.duration, **more}
        return read_audio_blocks(self.source, sample_rate=SAMPLE_RATE, **part)

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


def assign_faces(speakers: Sequence[Speaker], clip: ClipFaces, finder: FaceFinder) -> list[tuple[int, int]]:
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


# A whole speech as the model hears it, kept in memory: for a staged run, and for a second take on the same faces.


@dataclass(frozen=True)
class SpeechFeatures:
    """A speech, encoded.

    features  (L, n, D) float32 on the CPU: n hidden states of Whisper, 50 rows a second; 77 kB a second with tiny
    fps       frame rate of the frames that are to speak it
    duration  s
    peaks     the largest |sample| in each fiftieth of a second, 0..1
    gate      opens and closes with the voice, see voice_activity.py
    notices   what a person should know of the sound, a line each
    """

    features: torch.Tensor
    fps: float
    duration: float
    gate: VoiceGate
    peaks: tuple[float, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        """As many frames as the speech lasts, at least 1."""
        return frames_in(self.duration, self.fps)

    def voice(self, times: np.ndarray) -> np.ndarray:
        """0..1 at these times (s), any shape: 1 while somebody speaks, 0 in a pause."""
        return self.gate.at(times)

    def tokens(self, times: Sequence[float]) -> torch.Tensor:
        """What frames at these times (s) hear: (F, 50, D); times after the end hear the end."""
        return audio_tokens(self.features, [window_centre_at(time) for time in times])


def frames_in(duration: float, fps: float) -> int:
    """Frames that cover so many seconds, at least 1."""
    return max(1, math.ceil(duration * fps - 1e-6))


@own_threads()
def encode_speech(
    model: LipSyncModel,
    waveform: np.ndarray | torch.Tensor,
    sample_rate: int,
    fps: float,
    windows: str = "overlap",
    silence: str = "close",
) -> SpeechFeatures:
    """Encode a speech with the model's Whisper.

    waveform: (T,) or (C, T) float in [-1, 1] at `sample_rate` Hz; mixed by `resample_mono`. fps: of the frames that are
    to speak it, 1 to 240. windows: see whisper.encoder_windows. silence: with "close" the model hears digital
    silence in the pauses, whatever sounds there. Raises AudioError where there are no samples or some are not finite,
    OptionError for an impossible rate.
    """
    if not 1 <= fps <= 240:  # nan is neither
        raise OptionError(f"fps is {fps:g}; expected the frame rate of the video, 1 to 240")
    if not 1000 <= sample_rate <= 384_000:
        raise AudioError(f"the sample rate is {sample_rate}; expected 1000 to 384000 Hz")
    notices: list[str] = []
    mono = resample_mono(waveform, sample_rate, notices.append)
    with torch.inference_mode():
        speech = Speech(mono, model, LipSyncOptions(audio_windows=windows, silence=silence))
        features = torch.cat([block.float().cpu() for block in speech.features(speech.num_samples)])
    seconds = waveform.shape[-1] / sample_rate
    return SpeechFeatures(features, float(fps), seconds, speech.gate, speech.peaks(), tuple(notices))
