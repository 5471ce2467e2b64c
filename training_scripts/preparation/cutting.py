"""Stage 2, cut: a part of a source is decoded once, cut into pieces of one aligned face, and each encoded once.

Of each piece remain video.mp4, sound.npy (its own sound and some before and after it, so that it can be shifted) and
numbers of every frame.
"""

from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from latentsync.faces.detectors import load_detector
from latentsync.faces.finder import FaceDetector
from latentsync.media.video_writer import VideoWriter

from ..clip_store import FPS, SAMPLE_RATE, folder_written_whole
from .pieces import Gap, Piece, PieceCutter, frames_at_25
from .quality import sharpness
from .settings import LONGEST_WINDOW, SAMPLES_PER_FRAME, PrepareSettings, recorded

SPARE_FRAMES = 15  # of sound kept on both sides of a piece
KEY_FRAME_EVERY = FPS  # frames; training reads from anywhere


class AlignedVideoWriter(VideoWriter):
    """With a key frame every second: x264's own ten would make reading from the middle slow.

    On one thread, as their number changes x264's bytes, and without its macroblock tree: that saves on what moves, the
    lips, and its AVX-512 code gives other bytes about one time in ten (measured; small frames).
    """

    def _video_stream(self, *arguments) -> av.VideoStream:
        stream = super()._video_stream(*arguments)
        stream.codec_context.gop_size = KEY_FRAME_EVERY
        stream.codec_context.thread_count = 1
        options = stream.codec_context.options
        parameters = ":".join(filter(None, (options.get("x264-params"), "mbtree=0")))  # the writer's own stay
        stream.codec_context.options = {**options, "x264-params": parameters}
        return stream


def windows(probed: dict, settings: PrepareSettings) -> list[dict]:
    """Items of a probed source: parts of about LONGEST_WINDOW s, that workers may take from each other."""
    seconds = probed["seconds"]
    count = max(1, int(seconds / LONGEST_WINDOW + 0.5))
    items = []
    for number in range(count):
        start = number * LONGEST_WINDOW
        duration = (seconds if number == count - 1 else start + LONGEST_WINDOW) - start
        key = f"{probed['sha256'][:32]}-{round(start * 1000):08d}-{settings.cut_hash}"
        items.append(
            {
                **{name: probed[name] for name in ("source", "sha256", "sound")},
                **{"start": start, "seconds": duration, "cut_hash": settings.cut_hash},
                "cost": duration * probed["width"] * probed["height"] * probed["fps"],
                "record": str(settings.work / "cut" / f"{key}.json"),
            }
        )
    return items


def cut(item: dict, settings: PrepareSettings) -> dict:
    """{segments: [..], gaps: [..]} of one window. A segment's folder appears whole."""
    return recorded(Path(item["record"]), lambda: _cut(item, settings))


def _cut(item: dict, settings: PrepareSettings) -> dict:
    with open(item["source"], "rb"):  # a disk that has gone ends the run by OSError: it is no fault of the video's
        pass
    frames = frames_at_25(Path(item["source"]), item["start"], item["seconds"])
    bounds = round(settings.min_seconds * FPS), round(settings.max_seconds * FPS)
    detector = face_detector(settings.det_model, settings.landmark_model)
    cutter = PieceCutter(detector, settings.resolution, *bounds, settings.max_yaw, settings.framing)
    sound = np.load(item["sound"], mmap_mode="r")
    segments, gaps = [], []
    for part in cutter.cut(frames):
        if isinstance(part, Gap):
            gaps.append({"time": part.time, "seconds": part.num_frames / FPS, "reason": part.reason})
        else:
            segments.append(_write(part, item, sound, settings))
    return {"segments": segments, "gaps": gaps}


def _write(piece: Piece, item: dict, sound: np.ndarray, settings: PrepareSettings) -> dict:
    name = f"{item['sha256'][:32]}-{round(piece.time * 1000):08d}"
    folder = settings.work / "segments" / f"{name}-{item['cut_hash']}"
    facts = {
        "name": name,
        "folder": str(folder),
        "time": round(piece.time, 4),
        "num_frames": len(piece),
        "openings": [round(value, 4) for value in piece.openings],
        "face_side": round(float(np.median(piece.scales)) * settings.resolution, 1),
        "sharpness": round(sharpness(piece.faces), 4),
        "yaw": round(float(np.abs(piece.yaws).max()), 1),
    }
    if folder.is_dir():
        return facts
    with folder_written_whole(folder) as part:
        side = settings.resolution
        with AlignedVideoWriter(part / "video.mp4", side, side, rate=FPS, crf=settings.crf) as writer:
            for face in piece.faces:
                writer.write(face)
        first = round(piece.time * SAMPLE_RATE) - SPARE_FRAMES * SAMPLES_PER_FRAME
        length = (len(piece) + 2 * SPARE_FRAMES) * SAMPLES_PER_FRAME
        np.save(part / "sound.npy", taken(sound, first, length))
    return facts


@lru_cache(maxsize=1)
def face_detector(det_model: Path | None, landmark_model: Path | None) -> FaceDetector:
    return load_detector(det_model=det_model, landmark_model=landmark_model)


def taken(sound: np.ndarray, first: int, length: int) -> np.ndarray:
    """`length` samples of (T,) from number `first` on, which may be negative; silence beyond both ends."""
    result = np.zeros(length, sound.dtype)
    begin, end = max(first, 0), min(first + length, len(sound))
    if begin < end:
        result[begin - first : end - first] = sound[begin:end]
    return result
