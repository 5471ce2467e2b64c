"""LSE-C and LSE-D of a video file."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ..errors import FaceNotFoundError
from ..faces.tracking import FaceTracker
from ..media.audio_reader import read_audio
from ..media.video_reader import read_frames
from .face_crops import MIN_FACE, MIN_TRACK, DetectBoxes, boxes_by_detection, boxes_by_tracking, crop_tracks
from .lip_sync_error import FPS, SAMPLES_PER_FRAME, LipSyncError, lip_sync_error
from .mfcc import SAMPLE_RATE
from .syncnet_v2 import SyncNetV2


@dataclass(frozen=True)
class VideoLipSyncError:
    """tracks: of each face and shot; the video's figures are their means, as in the reference."""

    tracks: tuple[LipSyncError, ...]

    @property
    def lse_c(self) -> float:
        return float(np.mean([track.lse_c for track in self.tracks]))

    @property
    def lse_d(self) -> float:
        return float(np.mean([track.lse_d for track in self.tracks]))

    @property
    def offset(self) -> int:
        """Frames at 25 a second by which the lips come later than the sound."""
        return int(np.mean([track.offset for track in self.tracks]))

    def rows(self) -> np.ndarray:
        """(N, 32): the number of the track before each window's distances."""
        parts = [np.insert(track.distances, 0, number, axis=1) for number, track in enumerate(self.tracks)]
        return np.concatenate(parts)


def error_of_rows(rows: np.ndarray) -> VideoLipSyncError:
    """The inverse of `VideoLipSyncError.rows`, for any choice of them."""
    numbers = np.unique(rows[:, 0])
    return VideoLipSyncError(tuple(LipSyncError(rows[rows[:, 0] == number, 1:]) for number in numbers))


def video_lip_sync_error(
    path: str | Path,
    network: SyncNetV2,
    detect: DetectBoxes | None = None,
    audio_path: str | Path | None = None,
    min_track: int = MIN_TRACK,
    min_face: float = MIN_FACE,
) -> VideoLipSyncError:
    """By the reference's recipe, but that frames are not compressed on the way (it writes JPEG twice and MPEG-4).

    detect: S3FD, as the reference; without it boxes are those of the product's tracker. audio_path: in place of the
    video's own sound. Raises FaceNotFoundError where no face lasts more than `min_track` frames at 25 a second and is
    more than `min_face` px large; MediaError, AudioError.
    """
    frames = read_frames(path, fps=FPS)
    boxes, shots = boxes_by_detection(frames, detect) if detect else boxes_by_tracking(frames, FaceTracker())
    tracks = crop_tracks(boxes, shots, min_track, min_face)
    if not tracks:
        raise FaceNotFoundError(
            f"no face in '{path}' lasts more than {min_track} frames at {FPS} a second and is larger than "
            f"{min_face:g} px, which LSE-C and LSE-D are defined for"
        )
    samples = as_int16(read_audio(audio_path or path, sample_rate=SAMPLE_RATE))
    errors = []
    for track in tracks:
        last = track.first + len(track.boxes)
        shown = (frame.pixels for frame in islice(read_frames(path, fps=FPS), track.first, last))
        sound = samples[track.first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME]
        errors.append(lip_sync_error(network, track.crops(shown), len(track.boxes), sound))
    return VideoLipSyncError(tuple(errors))


def as_int16(samples: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] -> 16-bit samples, as ffmpeg writes them."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
