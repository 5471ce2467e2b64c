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
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import OutputError
from ..files import sha256_of
from ..given_paths import given_path
from ..media.output_file import written_whole
from .detect import LOWER_FACE
from .people import ClipFaces, FacePath

logger = logging.getLogger(__name__)

VERSION = 4  # of the files and of what a scan does; others are ignored
MAX_BYTES = 256 * 2**20  # of all files; the least recently used go first
SUFFIX = ".npz"
MAX_UNPACKED = 2**30  # bytes of one file; a day of three faces has half of it
MAX_PATHS = 10_000
_DAMAGE = (OSError, ValueError, KeyError, EOFError, TypeError, OverflowError, MemoryError, NotImplementedError)
_DAMAGE += (zipfile.BadZipFile, zlib.error)


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
        return given_path(chosen) / "tracks"
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
        except _DAMAGE as error:
            logger.warning("the kept faces in %s are damaged (%s); they are searched again", path, error)
            return None
        if not whole and (seconds is None or clip.times[-1] + clip.interval < seconds - 1e-6):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used just now
        return clip

    def scanned(
        self, video_path: str | Path, settings: ScanSettings, seconds: float | None, scan: Callable[[], ClipFaces]
    ) -> ClipFaces:
        """Return the scan of so many seconds (None: to the video's end) that is kept, or what `scan()` finds, which is
        kept then."""
        clip = self.load(video_path, settings, seconds)
        if clip is None:
            clip = scan()
            reaches_end = seconds is None or clip.times[-1] + 2 * clip.interval < seconds
            self.store(video_path, settings, clip, whole=reaches_end)
        return clip.until(seconds)

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


# What a face has in each of its frames, as in FacePath.
_COLUMNS = {"points": (3, 2), "nose": (2,), "region": (4,), "contour": (len(LOWER_FACE), 2), "box": (4,)}
_COLUMNS |= dict.fromkeys(("confidence", "opening", "yaw", "side", "covering"), ())
_MAY_BE_UNKNOWN = {"nose", "opening", "yaw", "region", "contour", "covering"}


def _write(path: Path, clip: ClipFaces, whole: bool) -> None:
    columns = {"version": VERSION, "whole": whole, "num_paths": len(clip.paths)}
    columns |= {"times": clip.times, "shots": clip.shots, "frame_size": clip.frame_size}
    for index, face in enumerate(clip.paths):
        columns |= {f"{index}.{field.name}": getattr(face, field.name) for field in fields(FacePath)}
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: np.asarray(column) for name, column in columns.items()})


def _read(path: Path) -> tuple[ClipFaces, bool]:
    with zipfile.ZipFile(path) as packed:
        if sum(record.file_size for record in packed.infolist()) > MAX_UNPACKED:
            raise ValueError(f"it unpacks to more than {MAX_UNPACKED} bytes")
    with np.load(path, allow_pickle=False) as file:
        if int(file["version"]) != VERSION:
            raise ValueError(f"version {int(file['version'])} instead of {VERSION}")
        if not 0 <= int(file["num_paths"]) <= MAX_PATHS:
            raise ValueError(f"{int(file['num_paths'])} faces")
        paths = tuple(
            FacePath(**{field.name: file[f"{index}.{field.name}"] for field in fields(FacePath)})
            for index in range(int(file["num_paths"]))
        )
        height, width = file["frame_size"].tolist()
        clip = ClipFaces(file["times"], file["shots"], (height, width), paths)
        _check(clip)
        return clip, bool(file["whole"])


def _check(clip: ClipFaces) -> None:
    """Raises ValueError for columns that no scan gives."""
    number = len(clip.times)
    sides_fit = all(isinstance(side, int) and side > 0 for side in clip.frame_size)
    times_fit = clip.times.ndim == 1 and number and np.isfinite(clip.times).all() and (np.diff(clip.times) > 0).all()
    if not (sides_fit and times_fit and clip.shots.shape == (number,)):
        raise ValueError("its times, shots or frame size are not those of a clip")
    for index, face in enumerate(clip.paths):
        rows = face.rows
        fits = rows.ndim == 1 and len(rows) and rows.dtype.kind == "i" and (np.diff(rows) > 0).all()
        fits = fits and rows[0] >= 0 and rows[-1] < number and face.look.ndim == 1
        for name, shape in _COLUMNS.items():
            column = getattr(face, name)
            fits = fits and column.shape == (len(rows), *shape) and column.dtype.kind == "f"
            fits = fits and (name in _MAY_BE_UNKNOWN or bool(np.isfinite(column).all()))
        if not fits:
            raise ValueError(f"its face {index} has columns that do not fit each other")
