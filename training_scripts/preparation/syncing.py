"""Stage 4, sync: by how much the lips of a segment come later than its sound, and how sure that is."""

from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import write_wav
from latentsync.metrics.lse import S3FD, load_s3fd
from latentsync.voice_activity import WaveformPeaks, estimate_offset

from ..clip_store import FPS, FULL_SCALE, SAMPLE_RATE
from .cutting import SPARE_FRAMES
from .settings import SAMPLES_PER_FRAME, PrepareSettings, recorded

DETECTED_SIDE = 256  # px, of an aligned face in which S3FD looks for it again
SILENCE = 1e-3  # loudest sample below which nothing is said


def sync_item(segment: dict, settings: PrepareSettings) -> dict:
    record = settings.work / "sync" / f"{segment['name']}-{settings.sync_hash}.json"
    wanted = ("name", "folder", "num_frames", "openings")
    return {**{name: segment[name] for name in wanted}, "cost": segment["num_frames"], "record": str(record)}


def sync(item: dict, settings: PrepareSettings) -> dict:
    """{offset, confidence} of a segment: the offset in frames, positive where the lips come later; or {rejected}."""
    return recorded(Path(item["record"]), lambda: _measured(item, settings))


def _measured(item: dict, settings: PrepareSettings) -> dict:
    folder, count = Path(item["folder"]), item["num_frames"]
    sound = np.load(folder / "sound.npy").astype(np.float32) / FULL_SCALE
    own = sound[SPARE_FRAMES * SAMPLES_PER_FRAME :][: count * SAMPLES_PER_FRAME]
    if np.abs(own).max() < SILENCE:
        return {"rejected": "silence"}
    if settings.sync == "off":
        return {"offset": 0, "confidence": None}
    if settings.sync == "loudness":
        return _by_loudness(item["openings"], own)
    if settings.sync == "syncnet_v2":
        return _by_syncnet_v2(folder / "video.mp4", own, settings)
    from latentsync.sync.score import sync_score

    faces = np.stack([frame.pixels for frame in read_frames(folder / "video.mp4")])
    score = sync_score(faces, own, stable_syncnet(settings.syncnet))
    return {"offset": score.offset_frames, "confidence": round(score.confidence, 4)}


def _by_syncnet_v2(video: Path, own: np.ndarray, settings: PrepareSettings) -> dict:
    """As the reference's filter: of crops found anew in the aligned faces, by S3FD or by the product's tracker."""
    from latentsync.metrics.lse import MIN_TRACK, video_lip_sync_error

    with TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        write_wav(sound, own, SAMPLE_RATE)
        detect = settings.s3fd and partial(_boxes, s3fd(settings.s3fd))
        least = min(MIN_TRACK, len(own) // SAMPLES_PER_FRAME // 2)  # frames
        # In the aligned square a face is always as large; how large it was in the source the quality filter tells.
        error = video_lip_sync_error(video, syncnet_v2(settings.syncnet), detect, sound, least, min_face=0)
    return {"offset": error.offset, "confidence": round(error.lse_c, 4)}


def _boxes(detector: S3FD, face: np.ndarray) -> np.ndarray:
    """As S3FD.detect, of an aligned face (S, S, 3) brought to the reference's size: others may be too small."""
    large = cv2.resize(face, (DETECTED_SIDE, DETECTED_SIDE), interpolation=cv2.INTER_LINEAR)
    return detector.detect(large) * (len(face) / DETECTED_SIDE)


def _by_loudness(openings: list[float], own: np.ndarray) -> dict:
    peaks = WaveformPeaks(SAMPLE_RATE)
    peaks.add(own)
    estimate = estimate_offset(np.arange(len(openings)) / FPS, openings, peaks.peaks())
    if estimate is None:
        return {"rejected": "the lips' movements and the loudness have nothing in common"}
    return {"offset": round(estimate.ms * FPS / 1000), "confidence": round(estimate.confidence, 4)}


@lru_cache(maxsize=1)
def stable_syncnet(path: Path):
    from latentsync.sync.syncnet import load_syncnet

    return load_syncnet(path).eval()


@lru_cache(maxsize=1)
def syncnet_v2(path: Path):
    from latentsync.metrics.lse import load_syncnet_v2

    return load_syncnet_v2(path)


@lru_cache(maxsize=1)
def s3fd(path: Path) -> S3FD:
    return load_s3fd(path)


def poor_sync(measured: dict, settings: PrepareSettings) -> str | None:
    """Why a segment's sound is not to be trusted; None where it is, or can be put right."""
    if "rejected" in measured:
        return measured["rejected"]
    confidence = measured["confidence"]
    if confidence is not None and confidence < settings.min_confidence:
        return f"lips and sound do not go together: confidence {confidence:.3f}, expected {settings.min_confidence:g}"
    if abs(measured["offset"]) > settings.max_offset:
        return f"lips and sound lie {measured['offset']:+d} frames apart; expected {settings.max_offset} at most"
    return None
