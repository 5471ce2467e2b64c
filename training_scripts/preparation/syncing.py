"""Stage 3, sync: by how much the lips of a segment come later than its sound, and how sure that is."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from latentsync.errors import OptionError
from latentsync.media.video_reader import read_frames
from latentsync.voice.offset import estimate_offset
from latentsync.waveform import WaveformPeaks

from .cutting import SPARE_FRAMES
from .records import recorded
from .settings import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME, PrepareSettings

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
    sound = np.load(folder / "sound.npy").astype(np.float32) / 32767
    own = sound[SPARE_FRAMES * SAMPLES_PER_FRAME :][: count * SAMPLES_PER_FRAME]
    if np.abs(own).max() < SILENCE:
        return {"rejected": "silence"}
    if settings.sync == "off":
        return {"offset": 0, "confidence": None}
    if settings.sync == "loudness":
        return _by_loudness(item["openings"], own)
    faces = np.stack([frame.pixels for frame in read_frames(folder / "video.mp4")])
    if settings.sync == "syncnet":
        from latentsync.syncnet.scoring import sync_score

        score = sync_score(faces, own, _syncnet(settings.syncnet))
        return {"offset": score.offset_frames, "confidence": round(score.confidence, 4)}
    raise OptionError(f"unknown way to tell the offset: {settings.sync!r}")


def _by_loudness(openings: list[float], own: np.ndarray) -> dict:
    peaks = WaveformPeaks(SAMPLE_RATE)
    peaks.add(own)
    estimate = estimate_offset(np.arange(len(openings)) / FPS, openings, peaks.peaks())
    if estimate is None:
        return {"rejected": "the lips' movements and the loudness have nothing in common"}
    return {"offset": round(estimate.ms * FPS / 1000), "confidence": round(estimate.confidence, 4)}


@lru_cache(maxsize=1)
def _syncnet(path: Path):
    from latentsync.syncnet.syncnet_files import load_syncnet

    return load_syncnet(path).eval()


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
