"""Scans of clips kept between runs: a second speech on the same clip needs no search for faces.

Plain numbers in .npz files, named by the content of the video and the settings of the scan. The folder may be deleted
at any time.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import zipfile
import zlib
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import OutputError
from ..file_hash import sha256_of
from ..media.output_file import written_whole
from .paths import ClipFaces, FacePath

logger = logging.getLogger(__name__)

VERSION = 2  # of the files and of what a scan does; others are ignored
MAX_BYTES = 256 * 2**20  # of all files; the least recently used go first
SUFFIX = ".npz"


@dataclass(frozen=True)
class ScanSettings:
    """What a scan depends on besides the video.

    finder  name of the detector, with whatever of it changes the result
    start   s, where the scanned part begins
    fps     rate the frames were resampled to; None for the file's own
    """

    finder: str
    start: float = 0.0
    fps: Fraction | None = None


def cache_folder() -> Path:
    """LATENTSYNC_CACHE, or where the system wants such files: XDG_CACHE_HOME or ~/.cache, LOCALAPPDATA, or
    ~/Library/Caches."""
    if chosen := os.environ.get("LATENTSYNC_CACHE"):
        return Path(chosen) / "tracks"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "latentsync" / "tracks"


class TrackCache:
    """Scans in `folder`, which need not exist. Nothing here raises for a file or folder that cannot be used: a scan
    is then done again."""

    def __init__(self, folder: str | Path, max_bytes: int = MAX_BYTES):
        self.folder, self.max_bytes = Path(folder), max_bytes

    def load(self, video_path: str | Path, settings: ScanSettings, seconds: float | None = None) -> ClipFaces | None:
        """The scan of a video, if one is kept that reaches to `seconds` after its start (None: to the video's end).

        It may reach further.
        """
        path = self._path(video_path, settings)
        if not path.is_file():
            return None
        try:
            clip, whole = _read(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            logger.warning("the kept faces in %s are damaged (%s); they are searched again", path, error)
            return None
        if not whole and (seconds is None or clip.times[-1] + clip.interval < seconds - 1e-6):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now
        return clip

    def store(self, video_path: str | Path, settings: ScanSettings, clip: ClipFaces, *, whole: bool) -> None:
        """Keep a scan, in place of another of the same settings. whole: it reaches the end of the video."""
        try:
            with written_whole(self._path(video_path, settings)) as part:
                _write(part, clip, whole)
        except OutputError as error:
            logger.warning("the faces of '%s' are not kept: %s", video_path, error)
        self._shrink()

    def _path(self, video_path: str | Path, settings: ScanSettings) -> Path:
        key = json.dumps({"version": VERSION, **asdict(settings)}, default=str, sort_keys=True)
        return self.folder / f"{sha256_of(video_path)[:40]}-{hashlib.sha256(key.encode()).hexdigest()[:12]}{SUFFIX}"

    def _shrink(self) -> None:
        with contextlib.suppress(OSError):
            kept = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob(f"*{SUFFIX}"))
            total = sum(size for _, size, _ in kept)
            for _, size, path in kept[:-1]:
                if total <= self.max_bytes:
                    break
                path.unlink(missing_ok=True)
                total -= size


def _write(path: Path, clip: ClipFaces, whole: bool) -> None:
    columns = {"version": VERSION, "whole": whole, "num_paths": len(clip.paths)}
    columns |= {"times": clip.times, "shots": clip.shots, "frame_size": clip.frame_size}
    for index, face in enumerate(clip.paths):
        columns |= {f"{index}.{field.name}": getattr(face, field.name) for field in fields(FacePath)}
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(column) for name, column in columns.items()})


def _read(path: Path) -> tuple[ClipFaces, bool]:
    with np.load(path, allow_pickle=False) as file:
        if int(file["version"]) != VERSION:
            raise ValueError(f"version {int(file['version'])} instead of {VERSION}")
        paths = tuple(
            FacePath(**{field.name: file[f"{index}.{field.name}"] for field in fields(FacePath)})
            for index in range(int(file["num_paths"]))
        )
        height, width = file["frame_size"].tolist()
        return ClipFaces(file["times"], file["shots"], (height, width), paths), bool(file["whole"])
