"""Stage 5, store: the sound is shifted to where it belongs, its features are computed, and the clip joins the store."""

import os
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..clip_store import FULL_SCALE, ClipStoreWriter
from .cutting import SPARE_FRAMES, taken
from .settings import SAMPLES_PER_FRAME, PrepareSettings


def store_item(segment: dict, measured: dict, settings: PrepareSettings) -> dict:
    identity = segment["sha256"][:32]
    if settings.identity == "folder":
        identity = str(Path(segment["source"]).parent)
    key = f"{segment['name']}-{settings.clip_hash}"
    wanted = ("name", "folder", "num_frames", "sha256", "source", "time", "face_side", "sharpness", "yaw")
    return {
        **{name: segment[name] for name in wanted},
        **{"key": key, "identity": identity, "offset": measured["offset"], "confidence": measured["confidence"]},
        **{"cost": segment["num_frames"], "record": str(settings.output / "clips" / key)},
    }


def store(item: dict, settings: PrepareSettings) -> dict:
    """Add a clip to the store; {key}."""
    writer = ClipStoreWriter(settings.output)
    if item["key"] not in writer:
        from ..clip_store import encode_voices

        folder, count = Path(item["folder"]), item["num_frames"]
        audio = shifted(np.load(folder / "sound.npy"), item["offset"], count)
        speech = encode_voices([audio.astype(np.float32) / FULL_SCALE], whisper(settings.whisper))
        wanted = ("identity", "num_frames", "sha256", "source", "time", "offset", "confidence")
        writer.add_clip(
            item["key"],
            **{**speech, "audio": audio[None]},
            **{name: item[name] for name in (*wanted, "face_side", "sharpness", "yaw")},
            resolution=settings.resolution,
            framing=settings.framing,
            write_video=lambda path: _share(folder / "video.mp4", path),
        )
    return {"key": item["key"]}


def shifted(sound: np.ndarray, offset: int, num_frames: int) -> np.ndarray:
    """(num_frames * 640,) of the sound of a piece with SPARE_FRAMES on both sides, `offset` frames later than it was.

    Lips that come later than their sound (positive) wait for nothing then. What moves in is the sound that lies beside
    the piece in its source, silence only beyond the source's ends.
    """
    return taken(sound, (SPARE_FRAMES - offset) * SAMPLES_PER_FRAME, num_frames * SAMPLES_PER_FRAME)


def _share(source: Path, target: Path) -> None:
    """The same file under another name, so that it takes its place on the disk once; a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@lru_cache(maxsize=1)
def whisper(path: Path):
    import torch

    from latentsync.model.whisper import load_whisper

    return load_whisper(path, device="cpu", dtype=torch.float32)
