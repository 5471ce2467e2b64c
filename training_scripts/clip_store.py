"""The data set on disk: aligned clips with their speech, each in a folder of its own, listed in one Parquet file.

    manifest.parquet          one row a clip, written last
    clips/<key>/faces.npy     (F, S, S, 3) uint8 RGB, or video.mp4: the same, compressed
                features.npy  (V, L, layers + 1, D) float16, Whisper's, 50 a second
                mel.npy       (V, 80, M) float32, SyncNet's, 80 columns a second
                audio.npy     (V, T) int16, 16 kHz
                lips.npy      (F, 2) float32, of drawn avatars: true opening and spread
                clip.json     what the manifest's row is made of

V voices say the same words; of recorded clips there is one. Arrays are mapped from disk, never read whole.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from latentsync.errors import LatentSyncError, MediaError, OptionError
from latentsync.media.output_file import written_whole
from latentsync.media.video_reader import read_frames

FPS = 25
SAMPLE_RATE = 16_000
MANIFEST = "manifest.parquet"
ARRAYS = ("faces", "features", "mel", "audio", "lips")


class ClipStore:
    """A finished data set; clips are numbered as the manifest lists them.

    Raises OptionError where the folder is no data set or is empty; broken clips raise MediaError, with their path,
    when they are read.
    """

    fps = FPS

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise OptionError(
                f"{self.folder} has no {MANIFEST}: expected a data set made by `python -m training_scripts."
                "prepare_data` or `python -m training_scripts.make_synthetic_dataset`."
            )
        self.rows = _parquet().read_table(path).to_pylist()
        if not self.rows:
            raise OptionError(f"{path} lists no clip: all were rejected. See its report for the reasons.")
        self.keys: list[str] = [row["key"] for row in self.rows]
        self.resolution: int = self.rows[0]["resolution"]

    def __len__(self) -> int:
        return len(self.keys)

    def num_frames(self, index: int) -> int:
        return self.rows[index]["num_frames"]

    def num_voices(self, index: int) -> int:
        return self.rows[index]["num_voices"]

    def path(self, index: int) -> Path:
        return self.folder / "clips" / self.keys[index]

    def frames(self, index: int, start: int, count: int) -> np.ndarray:
        """(count, S, S, 3) uint8 RGB; raises OptionError where the clip is shorter."""
        if start < 0 or count < 1 or start + count > self.num_frames(index):
            raise OptionError(
                f"{self.path(index)} has {self.num_frames(index)} frames; asked for {count} from number {start}."
            )
        if (self.path(index) / "faces.npy").exists():
            return np.array(self._array(index, "faces")[start : start + count])
        video = self.path(index) / "video.mp4"
        read = [f.pixels for f in read_frames(video, start=start / FPS, duration=count / FPS)]
        if len(read) != count:
            raise MediaError(
                f"{video} gave {len(read)} frames from number {start}; expected {count}. Prepare it again."
            )
        return np.stack(read)

    def features(self, index: int, voice: int = 0) -> np.ndarray:
        """(L, layers + 1, D) float16, mapped from disk."""
        return self._array(index, "features")[voice]

    def mel(self, index: int, voice: int = 0) -> np.ndarray:
        """(80, M) float32, mapped from disk."""
        return self._array(index, "mel")[voice]

    def waveform(self, index: int, voice: int = 0) -> np.ndarray:
        """(T,) float32 in [-1, 1], 16 kHz."""
        return self._array(index, "audio")[voice].astype(np.float32) / 32768

    def lips(self, index: int) -> np.ndarray | None:
        """(F, 2) float32, true opening and spread; None where they are not known."""
        return np.array(self._array(index, "lips")) if (self.path(index) / "lips.npy").exists() else None

    def split(self, held_out: float) -> tuple[list[int], list[int]]:
        """Numbers of the clips to train with, and of the last share, to measure with; identities are not shared."""
        names = list(dict.fromkeys(row["identity"] for row in self.rows))
        measured = set(names[len(names) - max(1, round(held_out * len(names))) :]) if held_out > 0 else set()
        known = [i for i, row in enumerate(self.rows) if row["identity"] not in measured]
        if not known:
            raise OptionError(f"{self.folder} has {len(names)} identities: none is left with {held_out:g} held out.")
        return known, [i for i, row in enumerate(self.rows) if row["identity"] in measured]

    def _array(self, index: int, name: str) -> np.ndarray:
        path = self.path(index) / f"{name}.npy"
        try:
            return _mapped(path)
        except (OSError, ValueError) as error:
            raise MediaError(f"{path} cannot be read ({error}). Prepare this clip again.") from error


@lru_cache(maxsize=512)
def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def clip_folder(folder: str | Path, key: str) -> Path:
    """Where the clip of that key lies, or will."""
    return Path(folder) / "clips" / key


def add_clip(
    folder: str | Path,
    key: str,
    *,
    resolution: int,
    num_frames: int,
    arrays: Mapping[str, np.ndarray],
    video: Path | None = None,
    identity: str | None = None,
    **facts: str | int | float | bool | None,
) -> Path:
    """Put one clip into the store, whole or not at all; one that is there already is left as it is.

    arrays: of ARRAYS, with shapes as above; `faces`, or else `video`: a file that is moved in.
    identity: clips of one identity are never split between training and measuring (default: the key).
    facts: further columns of its row.
    """
    target = clip_folder(folder, key)
    if target.exists():
        return target
    if unknown := set(arrays) - set(ARRAYS):
        raise OptionError(f"unknown arrays {sorted(unknown)} for clip {key}; expected some of {', '.join(ARRAYS)}")
    if ("faces" in arrays) == (video is not None):
        raise OptionError(f"clip {key} needs either faces or a video")
    num_voices = len(arrays["audio"]) if "audio" in arrays else 1
    row = {"key": key, "identity": identity or key, "resolution": resolution, "num_frames": num_frames}
    row |= {"num_voices": num_voices, **facts}
    part = target.with_name(f"{key}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir(parents=True)
    try:
        for name, array in arrays.items():
            np.save(part / f"{name}.npy", array)
        if video is not None:
            os.replace(video, part / "video.mp4")
        (part / "clip.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
        try:
            part.rename(target)
        except OSError:
            if not target.exists():  # else another process was quicker with the same clip
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def write_manifest(folder: str | Path, keys: Iterable[str]) -> Path:
    """List these clips, in this order; what makes the folder a data set. Replaces an older list."""
    rows = [json.loads((clip_folder(folder, key) / "clip.json").read_text(encoding="utf-8")) for key in keys]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    import pyarrow

    table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
    with written_whole(Path(folder) / MANIFEST) as part:
        _parquet().write_table(table, part)
    return Path(folder) / MANIFEST


def _parquet():
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise LatentSyncError("Data sets need the package pyarrow: pip install pyarrow") from error
    return parquet
