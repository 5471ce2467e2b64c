"""Stage 3, quality: whether a piece is large and sharp enough to learn from, and its score by hyperIQA where given."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from latentsync.media.video_reader import read_frames

from .settings import PrepareSettings, recorded

COMPARED_SIDE = 128  # px, to which the faces are brought, so that one limit serves every resolution
LOOKED_AT = 16  # frames, evenly spaced
FINE, COARSE = 1.0, 8.0  # px, sigmas of the blurs that part detail, the face's features and its broad shades


def sharpness(faces: Sequence[np.ndarray]) -> float:
    """Of aligned faces (S, S, 3) uint8: how much fine detail there is beside features; contrast does not count.

    The ratio of the amplitudes of two bands, below 1 px and from 1 to 8 px at 128 px a side; the median over frames.
    Measured: a talking head of a 1080p phone video 0.18, blurred by 1 px at 128 px 0.11, by 2 px 0.07; drawn avatars
    0.4 and, blurred so, 0.2 and 0.1.
    """
    chosen = [faces[i] for i in np.linspace(0, len(faces) - 1, min(LOOKED_AT, len(faces))).astype(int)]
    return float(np.median([_detail(face) for face in chosen]))


def _detail(face: np.ndarray) -> float:
    small = cv2.resize(face, (COMPARED_SIDE, COMPARED_SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    features = cv2.GaussianBlur(grey, (0, 0), FINE)
    shades = cv2.GaussianBlur(grey, (0, 0), COARSE)
    return float(np.sqrt(((grey - features) ** 2).mean() / (((features - shades) ** 2).mean() + 1.0)))


def quality_item(segment: dict, settings: PrepareSettings) -> dict:
    record = settings.work / "quality" / f"{segment['name']}-{settings.quality_hash}.json"
    wanted = ("name", "source", "folder", "num_frames")
    return {**{name: segment[name] for name in wanted}, "cost": 1, "record": str(record)}


def quality(item: dict, settings: PrepareSettings) -> dict:
    """{iqa} of a segment: hyperIQA's mean over its first, middle and last frame, as in the reference."""
    return recorded(Path(item["record"]), lambda: _scored(item, settings))


def _scored(item: dict, settings: PrepareSettings) -> dict:
    count = item["num_frames"]
    wanted = {0, count // 2, count - 1}
    video = Path(item["folder"]) / "video.mp4"
    faces = [frame.pixels for frame in read_frames(video) if frame.index in wanted]
    return {"iqa": round(hyper_iqa(settings.hyperiqa).score(faces), 2)}


@lru_cache(maxsize=1)
def hyper_iqa(path: Path):
    from .hyper_iqa import load_hyper_iqa

    return load_hyper_iqa(path)


def poor_quality(segment: dict, settings: PrepareSettings) -> str | None:
    """Why a segment is not good enough; None where it is. A score by hyperIQA counts where there is one."""
    if segment["face_side"] < settings.min_face:
        return f"the face is {segment['face_side']:.0f} px large in the source; expected {settings.min_face:g} or more"
    if segment["sharpness"] < settings.min_sharpness:
        return f"the face is blurred: sharpness {segment['sharpness']:.2f}; expected {settings.min_sharpness:g} or more"
    if segment.get("iqa") is not None and segment["iqa"] < settings.min_iqa:
        return f"poor picture: hyperIQA {segment['iqa']:.0f}; expected {settings.min_iqa:g} or more"
    return None
