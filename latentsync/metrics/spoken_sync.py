"""How lips and sound of a clip go together by StableSyncNet: the score, and the offset between them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import AudioError, ModelNotFoundError
from ..media.audio_reader import read_audio
from ..media.video_reader import VideoFrame, read_frames
from ..model.device import own_threads
from ..syncnet.scoring import SyncScore, sync_score
from ..syncnet.stable_syncnet import StableSyncNet
from ..syncnet.sync_mel import FPS, SAMPLE_RATE
from ..syncnet.syncnet_files import BUNDLED_SYNCNET
from ..voice.offset import OffsetEstimate
from .network_files import STABLE_SYNCNET, find_network
from .spoken_faces import SpokenFaces, spoken_faces

HEARD_ON = 1.0  # s after the faces, with which lips that come early are compared
SURE = 0.25  # of a score: from half of it on an offset is worth telling a person


@dataclass(frozen=True)
class ClipSync:
    """A clip's SyncScore, from `start` on for `seconds`; notes: what to know of that."""

    score: SyncScore
    start: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    def estimate(self) -> OffsetEstimate:
        """As the report tells it."""
        confidence = float(np.clip(self.score.confidence / SURE, 0, 1))
        return OffsetEstimate(self.score.offset_ms, confidence, "SyncNet")


def find_syncnet(folders: Sequence[Path] = ()) -> Path:
    """The released one in one of the folders, else the bundled one. Raises ModelNotFoundError."""
    try:
        return find_network(STABLE_SYNCNET, folders)
    except ModelNotFoundError:
        if BUNDLED_SYNCNET.is_file():
            return BUNDLED_SYNCNET
        raise


def described_syncnet(path: Path) -> str:
    """For a person: which one it is and what it knows."""
    return "the bundled SyncNet, which knows drawn avatars only" if path == BUNDLED_SYNCNET else str(path)


def clip_text(found: ClipSync, syncnet: str) -> str:
    """A few lines for a person; syncnet: see described_syncnet."""
    score = found.score
    way = "after" if score.offset_frames > 0 else "before"
    offset = f"{abs(score.offset_ms):.0f} ms {way} the sound" if score.offset_frames else "with the sound"
    lines = [
        f"sync score {score.confidence:.3f}: the lips come {offset} ({found.seconds:.1f} s)",
        f"as it is: {100 * score.accuracy:.0f} % of the windows are taken for in sync, mean cosine {score.cosine:.3f}",
        f"by {syncnet}",
    ]
    return "\n".join([*lines, *found.notes])


def sync_of(found: SpokenFaces, waveform: np.ndarray, syncnet: StableSyncNet) -> ClipSync:
    """waveform: (T,) float32 at 16 kHz of the whole clip."""
    first = round(found.start * SAMPLE_RATE)
    heard = waveform[first : first + round((found.seconds + HEARD_ON) * SAMPLE_RATE)]
    if not len(heard):
        raise AudioError(f"the sound ends before {found.start:.2f} s, where the face is seen; expected speech there")
    notes = []
    if found.seconds < found.clip - 1 / FPS:
        notes.append(
            f"sync was measured from {found.start:.2f} s to {found.start + found.seconds:.2f} s, the longest "
            f"stretch with a face of {found.clip:.2f} s"
        )
    return ClipSync(sync_score(found.faces, heard, syncnet), found.start, found.seconds, tuple(notes))


@own_threads()
def frames_sync(
    frames: Callable[[], Iterable[VideoFrame]], waveform: np.ndarray, syncnet: StableSyncNet, face: str = "largest"
) -> ClipSync:
    """frames: gives the clip's frames at 25 a second anew each time; waveform: (T,) float32 at 16 kHz.

    Raises FaceNotFoundError without a face through a whole window, AudioError without sound there.
    """
    config = syncnet.config
    faces = spoken_faces(frames, config.resolution, face, least=config.num_frames, framing=syncnet.framing)
    return sync_of(faces, waveform, syncnet)


def clip_sync(
    path: str | Path,
    syncnet: StableSyncNet,
    *,
    face: str = "largest",
    longest: float | None = None,
    audio_path: str | Path | None = None,
) -> ClipSync:
    """Of a video file; longest: s from its beginning that are looked at, None for all; audio_path: in place of its own
    sound. Raises MediaError's subclasses, FaceNotFoundError."""
    waveform = read_audio(audio_path or path, sample_rate=SAMPLE_RATE, duration=longest)
    found = frames_sync(partial(read_frames, path, fps=FPS, duration=longest), waveform, syncnet, face)
    if longest is None or found.start + found.seconds + 1 / FPS < longest:
        return found
    return replace(found, notes=(*found.notes, f"the first {longest:g} s were looked at"))
