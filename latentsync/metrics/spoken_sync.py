"""How lips and sound of a clip go together by StableSyncNet: the score, and the offset between them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from ..errors import AudioError, ModelNotFoundError
from ..media.audio_reader import read_audio_blocks
from ..media.video_reader import VideoFrame, read_frames
from ..syncnet.pair_accuracy import THRESHOLD
from ..syncnet.stable_syncnet import StableSyncNet, stack_frames
from ..syncnet.sync_mel import FPS, SAMPLE_RATE, count_windows, mel_window, sync_mel
from ..syncnet.syncnet_files import BUNDLED_SYNCNET
from ..voice.offset import OffsetEstimate
from .network_files import STABLE_SYNCNET, find_network
from .spoken_faces import SpokenFaces, spoken_faces

SHIFT = 15  # frames to either side that are tried
UNRELATED = 6  # frames from which on lips and sound do not belong together
BATCH = 16  # windows
SURE = 0.25  # of the score: from half of it on an offset is worth telling a person


@dataclass(frozen=True)
class ClipSync:
    """cosines: (N, 31) float32, of the lips in N windows with the sound 15 frames earlier .. 15 later; NaN beyond its
    ends. seconds: that were looked at, from `start` on. notes: what to know of that."""

    cosines: np.ndarray
    start: float = 0.0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def curve(self) -> np.ndarray:
        """(31,), means over the windows; NaN where no window has sound."""
        known = np.isfinite(self.cosines)
        total = np.where(known, self.cosines, 0).sum(0)
        return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)

    @property
    def confidence(self) -> float:
        """By how much the largest of the curve is above its median: 0 where no shift is better than the others."""
        return float(np.nanmax(self.curve) - np.nanmedian(self.curve))

    @property
    def offset(self) -> int:
        """Frames at 25 a second by which the lips come later than the sound."""
        return self.cosines.shape[1] // 2 - int(np.nanargmax(self.curve))

    @property
    def offset_ms(self) -> float:
        return 1000 * self.offset / FPS

    @property
    def accuracy(self) -> float:
        """Share of pairs told right by a cosine over 0.5, half of them of lips with their own sound, half with sound
        that is 6 to 15 frames away. NaN for a clip too short for the latter."""
        middle = self.cosines.shape[1] // 2
        away = np.abs(np.arange(self.cosines.shape[1]) - middle) >= UNRELATED
        own, others = self.cosines[:, middle], self.cosines[:, away]
        others = others[np.isfinite(others)]
        return float(((own > THRESHOLD).mean() + (others <= THRESHOLD).mean()) / 2) if len(others) else float("nan")

    def estimate(self) -> OffsetEstimate:
        """As the report tells it."""
        return OffsetEstimate(self.offset_ms, float(np.clip(self.confidence / SURE, 0, 1)), "SyncNet")


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


@torch.inference_mode()
def window_cosines(syncnet: StableSyncNet, faces: np.ndarray, mel: np.ndarray, shift: int = SHIFT) -> np.ndarray:
    """faces (F, S, S, 3) uint8 RGB at 25 a second, aligned; mel (80, M) of the sound beside them -> ClipSync.cosines.

    Raises AudioError where both do not reach for one window.
    """
    length = syncnet.config.num_frames
    count = count_windows(len(faces), mel.shape[1], length)
    if count < 1:
        raise AudioError(
            f"{len(faces)} frames with {mel.shape[1]} mel columns; expected {length} frames and their sound"
        )
    device, dtype = next(syncnet.parameters()).device, syncnet.dtype
    pictures, sounds = [], []
    for first in range(0, count, BATCH):
        places = range(first, min(first + BATCH, count))
        clips = torch.from_numpy(np.stack([faces[place : place + length] for place in places])).to(device)
        clips = rearrange(clips, "b f h w c -> b c f h w").to(dtype) / 127.5 - 1
        pictures.append(syncnet.embed_frames(stack_frames(clips, syncnet.config)).cpu())
        heard = np.stack([mel_window(mel, place, length) for place in places])
        sounds.append(syncnet.embed_audio(torch.from_numpy(heard)[:, None].to(device, dtype)).cpu())
    alike = (torch.cat(pictures) @ torch.cat(sounds).T).numpy()
    rows, shifts = np.arange(count)[:, None], np.arange(-shift, shift + 1)
    inside = (rows + shifts >= 0) & (rows + shifts < count)
    return np.where(inside, alike[rows, np.clip(rows + shifts, 0, count - 1)], np.nan)


def sync_of(found: SpokenFaces, waveform: np.ndarray, syncnet: StableSyncNet) -> ClipSync:
    """waveform: (T,) float32 at 16 kHz of the whole clip."""
    first = round(found.start * SAMPLE_RATE)
    heard = waveform[first : first + round((found.seconds + 1 / FPS) * SAMPLE_RATE)]
    if not len(heard):
        raise AudioError(f"the sound ends before {found.start:.2f} s, where the face is seen; expected speech there")
    notes = []
    if found.seconds < found.clip - 1 / FPS:
        notes.append(
            f"sync was measured from {found.start:.2f} s to {found.start + found.seconds:.2f} s, the longest "
            f"stretch with a face of {found.clip:.2f} s"
        )
    cosines = window_cosines(syncnet, found.faces, sync_mel(heard))
    return ClipSync(cosines, found.start, found.seconds, tuple(notes))


def frames_sync(
    frames: Callable[[], Iterable[VideoFrame]], waveform: np.ndarray, syncnet: StableSyncNet, face: str = "largest"
) -> ClipSync:
    """frames: gives the clip's frames at 25 a second anew each time; waveform: (T,) float32 at 16 kHz.

    Raises FaceNotFoundError without a face through a whole window, AudioError without sound there.
    """
    config = syncnet.config
    return sync_of(spoken_faces(frames, config.resolution, face, least=config.num_frames), waveform, syncnet)


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
    blocks = read_audio_blocks(audio_path or path, sample_rate=SAMPLE_RATE, duration=longest)
    waveform = np.concatenate(list(blocks))
    found = frames_sync(partial(read_frames, path, fps=FPS, duration=longest), waveform, syncnet, face)
    if longest is None or found.start + found.seconds + 1 / FPS < longest:
        return found
    return ClipSync(
        found.cosines, found.start, found.seconds, (*found.notes, f"the first {longest:g} s were looked at")
    )
