"""A folder of clips of aligned faces with the features of their speech: what every training script reads.

``manifest.parquet`` lists the clips in order. ``clips/<key>/`` holds of each: faces.npy (F, S, S, 3) uint8 RGB or
video.mp4, features.npy (V, L, layers + 1, D) float16 (Whisper, 50 a second), mel.npy (V, 80, M) float32 (SyncNet's, 80
columns a second), audio.npy (V, T) int16 at 16 kHz, clip.json (what the manifest says of it), and of people who were
drawn lips.npy (F, 2 or 3) float32, opening, spread and, of heads, rounding, and phones.json where they are known. V
voices say the same words. A clip's folder gets its name when it is complete, so what lies under ``clips``
without a dot is whole, whenever a run was cut.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from latentsync.errors import LatentSyncError, MediaError, OptionError
from latentsync.media.output_file import written_whole
from latentsync.media.video_reader import read_frames
from latentsync.model_files import Framing

if TYPE_CHECKING:  # torch, which nothing here needs but the encoding
    from latentsync.model.whisper import AudioEncoder

FPS = 25
SAMPLE_RATE = 16_000
WINDOW = 30.0  # s, Whisper's
FULL_SCALE = 32767  # of int16 samples
MANIFEST = "manifest.parquet"
# Columns that every manifest has; others may stand beside them.
COLUMNS = ("key", "identity", "num_frames", "num_voices", "resolution")


class ClipStore:
    """The clips of a folder, in the manifest's order. Nothing is held open: workers may be given a copy.

    keys: names of the clips; rows: what the manifest says of each; framing: how faces were cut out, see
    latentsync/faces/detect.py. Raises OptionError where `folder` holds no store,
    and MediaError, with the path, for a clip whose files are missing or damaged.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise OptionError(
                f"{self.folder} is no store of clips: it has no {MANIFEST}. Make one by "
                "`python -m training_scripts.prepare_data`, `make_heads` or `make_synthetic_dataset`."
            )
        self.rows = read_table(path)
        missing = [name for name in COLUMNS if self.rows and name not in self.rows[0]]
        if missing or not self.rows:
            raise OptionError(
                f"{path} has {'no column ' + missing[0] if missing else 'no clips'}. Make the store anew."
            )
        sizes = {row["resolution"] for row in self.rows}
        if len(sizes) > 1:
            raise OptionError(f"{path} lists faces of {sorted(sizes)} px; expected one size. Make a store for each.")
        self.keys = [row["key"] for row in self.rows]
        framings = {row.get("framing") or "mesh" for row in self.rows}  # stores without are older than the choice
        if len(framings) > 1:
            raise OptionError(f"{path} lists faces of the framings {sorted(framings)}; make a store for each.")
        self.resolution: int = sizes.pop()
        self.framing: Framing = framings.pop()
        self.fps = FPS

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, i: int) -> Path:
        """The clip's folder."""
        return self.folder / "clips" / self.keys[i]

    def num_frames(self, i: int) -> int:
        return self.rows[i]["num_frames"]

    def num_voices(self, i: int) -> int:
        return self.rows[i]["num_voices"]

    def identity(self, i: int) -> str:
        """Who is seen, as far as the maker of the store knew: clips of one source count as one person."""
        return self.rows[i]["identity"]

    def frames(self, i: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """(count, S, S, 3) uint8 RGB from frame `start` on; all up to the end where count is None."""
        total = self.num_frames(i)
        count = total - start if count is None else count
        if start < 0 or count < 1 or start + count > total:
            raise OptionError(f"clip {self.keys[i]} has frames 0..{total - 1}; asked for {count} from {start} on")
        path = self.path(i) / "faces.npy"
        if path.exists():
            frames = np.array(_mapped(path)[start : start + count])
        else:
            path = self.path(i) / "video.mp4"
            part = read_frames(path, start=start / FPS, duration=count / FPS)
            frames = np.stack([frame.pixels for frame in part])
        if frames.shape != (count, self.resolution, self.resolution, 3) or frames.dtype != np.uint8:
            raise MediaError(
                f"{path} gave {frames.dtype} {frames.shape} for frames {start}..{start + count - 1}; expected {count} "
                f"pictures of {self.resolution} px. Delete {path.parent} and prepare it again."
            )
        return frames

    def features(self, i: int, voice: int = 0) -> np.ndarray:
        """(L, layers + 1, D) float16 of Whisper, memory-mapped."""
        return self._voice(i, "features.npy", voice)

    def mel(self, i: int, voice: int = 0) -> np.ndarray:
        """(80, M) float32 as SyncNet reads it, memory-mapped."""
        return self._voice(i, "mel.npy", voice)

    def waveform(self, i: int, voice: int = 0) -> np.ndarray:
        """(T,) float32 in [-1, 1] at 16 kHz."""
        return self._voice(i, "audio.npy", voice).astype(np.float32) / FULL_SCALE

    def lips(self, i: int) -> np.ndarray | None:
        """(F, 2) float32, true opening and spread of a drawn avatar's lips, (F, 3), with rounding, of a head's
        (heads/drawing.py says in what units); None for others."""
        path = self.path(i) / "lips.npy"
        return np.array(_mapped(path)) if path.exists() else None

    def phones(self, i: int) -> list[tuple[float, float, str, str]] | None:
        """(start s, end s, viseme, name) in order, without gaps, from 0 to the clip's end; None where not known."""
        path = self.path(i) / "phones.json"
        if not path.exists():
            return None
        try:
            return [tuple(phone) for phone in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError) as reason:
            raise MediaError(f"{path} cannot be read ({reason}). Delete {path.parent} and make it again.") from reason

    def split(self, held_out: float) -> tuple[list[int], list[int]]:
        """Clips to learn from, and the last `held_out` (0..1) of them, rounded up to whole persons, to validate on."""
        if not 0 <= held_out < 1:
            raise OptionError(f"the share held out is {held_out}; expected 0 or more and less than 1")
        held: set[str] = set()
        people = list(dict.fromkeys(row["identity"] for row in self.rows))
        while people[1:] and sum(row["identity"] in held for row in self.rows) < held_out * len(self) - 1e-9:
            held.add(people.pop())
        chosen = [row["identity"] in held for row in self.rows]
        return [i for i, is_held in enumerate(chosen) if not is_held], [
            i for i, is_held in enumerate(chosen) if is_held
        ]

    def _voice(self, i: int, name: str, voice: int) -> np.ndarray:
        if not 0 <= voice < self.num_voices(i):
            raise OptionError(f"clip {self.keys[i]} has voices 0..{self.num_voices(i) - 1}; asked for {voice}")
        return _mapped(self.path(i) / name)[voice]


class ClipStoreWriter:
    """Adds clips to a store; any number of processes may, each with its own writer."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.clips = self.folder / "clips"
        self.clips.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        return (self.clips / key).is_dir()

    def add_clip(
        self,
        key: str,
        *,
        features: np.ndarray,
        mel: np.ndarray,
        audio: np.ndarray,
        faces: np.ndarray | None = None,
        lips: np.ndarray | None = None,
        phones: Sequence[tuple[float, float, str, str]] | None = None,
        write_video: Callable[[Path], None] | None = None,
        **facts,
    ) -> Path:
        """Add a clip, unless it is there; returns its folder.

        features (V, L, layers + 1, D), mel (V, 80, M), audio (V, T) float in [-1, 1] or int16; either faces
        (F, S, S, 3) uint8 or `write_video(path)`, which makes an mp4; lips and phones as ClipStore gives them. `facts`
        go into the manifest: with a video, num_frames and resolution must be among them; `identity` is the key where
        not given.
        """
        target = self.clips / key
        if target.is_dir():
            return target
        if faces is not None:
            facts |= {"num_frames": len(faces), "resolution": faces.shape[1]}
        facts = {"key": key, "identity": key, **facts, "num_voices": len(features)}
        if missing := [name for name in COLUMNS if name not in facts]:
            raise OptionError(f"clip {key} comes without {missing[0]}")
        if not len(features) == len(mel) == len(audio):
            raise OptionError(
                f"clip {key}: {len(features)} voices of features, {len(mel)} of mel, {len(audio)} of audio"
            )
        with folder_written_whole(target) as part:
            if audio.dtype != np.int16:
                audio = np.round(audio.clip(-1, 1) * FULL_SCALE).astype(np.int16)
            arrays = {"features": features.astype(np.float16), "mel": mel.astype(np.float32), "audio": audio}
            for name, array in {**arrays, "faces": faces, "lips": lips}.items():
                if array is not None:
                    np.save(part / f"{name}.npy", array)
            if faces is None:
                write_video(part / "video.mp4")
            if phones is not None:
                (part / "phones.json").write_text(json.dumps(phones, ensure_ascii=False), encoding="utf-8")
            (part / "clip.json").write_text(json.dumps(facts), encoding="utf-8")
        return target

    def facts(self, key: str) -> dict:
        """What `add_clip` was told of a clip that is there."""
        path = self.clips / key / "clip.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as reason:
            raise MediaError(f"{path} cannot be read ({reason}). Delete {path.parent} and make it again.") from reason

    def finish(self, keys: Sequence[str]) -> Path:
        """Write the manifest with these clips, in this order, and remove what cut runs left; returns its path."""
        path = self.list_clips(keys)
        self.sweep()
        return path

    def list_clips(self, keys: Sequence[str]) -> Path:
        """Write the manifest with these clips, in this order; returns its path. Others may add clips meanwhile."""
        path = self.folder / MANIFEST
        write_table(path, [self.facts(key) for key in keys])
        return path

    def sweep(self) -> None:
        """Remove half-written clips. Only where no other process adds any."""
        for part in self.clips.glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """The folder to write `target`'s files in: it gets its name at the end, or is removed where the end is not reached.

    Where another process was first, theirs stays.
    """
    part = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}.part")
    part.mkdir(parents=True)
    try:
        yield part
        for file in part.iterdir():  # a name must not outlive a power cut that its content did not
            _sync(file)
        try:
            os.rename(part, target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_table(path: str | Path) -> list[dict]:
    """Rows of a Parquet file. Raises MediaError where it is damaged."""
    parquet = _parquet()
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as reason:  # pyarrow's errors are these
        raise MediaError(f"{path} cannot be read as Parquet ({reason}). Make it again.") from reason


def write_table(path: str | Path, rows: Iterable[dict]) -> None:
    """Write rows, each with any of the columns, as Parquet; complete or not at all. Equal rows give equal bytes."""
    parquet = _parquet()
    import pyarrow

    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    with written_whole(path) as part:
        parquet.write_table(table, part)


def _parquet():
    try:
        import pyarrow.parquet as parquet
    except ImportError as reason:
        raise LatentSyncError("Stores of clips need pyarrow. Install it: pip install 'pyarrow'") from reason
    return parquet


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as reason:
        raise MediaError(f"{path} cannot be read ({reason}). Delete {path.parent} and prepare it again.") from reason


def _sync(path: Path) -> None:
    with path.open("r+b") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())


def encode_voices(
    waveforms: Sequence[np.ndarray], encoder: "AudioEncoder", *, first_alone: bool = True
) -> dict[str, np.ndarray]:
    """Features (V, L, layers + 1, D) float16, mel (V, 80, M) and audio (V, T) float32 of waveforms (T,) at 16 kHz.

    The first voice, the clip's own, is encoded by itself, unless `first_alone` is false; of the others as many as fit
    go through Whisper's window of 30 s together, which is cheaper and what long speech looks like. T is a multiple of
    320.
    """
    from latentsync.model.whisper import encode_audio
    from latentsync.sync.syncnet import sync_mel

    together = max(1, int(WINDOW * SAMPLE_RATE / len(waveforms[0])))
    alone = int(first_alone)
    rest = (waveforms[i : i + together] for i in range(alone, len(waveforms), together))
    groups = [*([waveforms[:1]] if first_alone else []), *rest]
    features = []
    for group in groups:
        encoded = encode_audio(np.concatenate(group), encoder, sample_rate=SAMPLE_RATE).numpy().astype(np.float16)
        features.extend(np.split(encoded, len(group)))
    return {
        "features": np.stack(features),
        "mel": np.stack([sync_mel(waveform) for waveform in waveforms]),
        "audio": np.stack(waveforms).astype(np.float32),
    }
