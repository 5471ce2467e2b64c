"""What a preparation was asked for, the names that follow from it, and the records of what its stages found.

A record is a JSON file of one item that appears whole, so that a stage is done or not.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av

from latentsync.errors import FaceNotFoundError, FrameCountError, MediaError, ModelNotFoundError, OptionError
from latentsync.files import sha256_of
from latentsync.media.output_file import written_whole

from ..clip_store import FPS, SAMPLE_RATE

if TYPE_CHECKING:  # it brings in torch, for which a worker sets its number of threads before it loads it
    from latentsync.model_files import Framing

SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
VERSION = 3  # of the arithmetic: raised where a stage would give another result, so that old results are not taken
LONGEST_WINDOW = 60.0  # s of a source that are cut in one piece of work; longer sources are shared among workers

# Least confidence by which an offset is believed, by what told it. See each method's own scale.
LEAST_CONFIDENCE = {"syncnet": 0.06, "syncnet_v2": 3.0, "loudness": 0.35}
FILES = ("det_model", "landmark_model", "syncnet", "s3fd", "hyperiqa", "whisper")  # of PrepareSettings


@dataclass(frozen=True)
class PrepareSettings:
    """All that the result depends on; travels to workers as a dict.

    output          folder of the store
    resolution      px, side of the aligned faces
    min_seconds, max_seconds  of a clip; max is at least twice min
    max_yaw         degrees by which a face may be turned
    det_model, landmark_model  InsightFace's files, by which faces are found then
    framing         of the faces, see latentsync/faces/detect.py; with InsightFace's files always its own
    min_face        px of the source along the side of the aligned square, at least
    min_sharpness   see quality.py
    hyperiqa        hyperIQA's file; min_iqa: least score by it, 0..100
    sync            "syncnet", "syncnet_v2", "loudness" or "off"
    syncnet         its file, for the first two; s3fd: the face detector's beside the original SyncNet
    min_confidence  least confidence of the offset
    max_offset      frames at 25 fps by which sound and lips may lie apart before they are put right
    whisper         its file
    crf             quality of the one encode
    identity        "file": all clips of a file show one person; "folder": all clips of a folder do
    """

    output: Path
    resolution: int
    min_seconds: float
    max_seconds: float
    max_yaw: float
    det_model: Path | None
    landmark_model: Path | None
    framing: "Framing"
    min_face: float
    min_sharpness: float
    hyperiqa: Path | None
    min_iqa: float
    sync: str
    syncnet: Path | None
    s3fd: Path | None
    min_confidence: float
    max_offset: int
    whisper: Path
    crf: float
    identity: str

    def __post_init__(self):
        if not 32 <= self.resolution <= 2048 or self.resolution % 8:
            raise OptionError(f"--resolution is {self.resolution}; expected a multiple of 8 from 32 to 2048")
        if not 1 <= self.min_seconds <= self.max_seconds / 2 or self.max_seconds > LONGEST_WINDOW:
            raise OptionError(
                f"clips of {self.min_seconds:g} to {self.max_seconds:g} s were asked for; expected --min_seconds from "
                f"1 on and --max_seconds at least twice that and at most {LONGEST_WINDOW:g}"
            )
        if not 0 <= self.max_offset <= 12:
            raise OptionError(f"--max_offset is {self.max_offset}; expected 0 to 12 frames")
        for name in FILES:
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise ModelNotFoundError(f"--{name} names {path}, where no file is. Check the path.")
        if (self.det_model is None) != (self.landmark_model is None):
            raise OptionError("--det_model and --landmark_model go together. Give both or none.")
        if self.det_model and self.framing != "insightface":
            raise OptionError(f"--framing {self.framing} is the built-in detector's: leave it out, or --det_model")
        if self.det_model and self.sync == "loudness":
            raise OptionError("--sync loudness needs the mouth's opening, which --det_model does not tell")

    @property
    def work(self) -> Path:
        """Folder of what the stages have done so far; a run that is cut goes on from there."""
        return self.output / "work"

    @property
    def cut_hash(self) -> str:
        """Of all that the cut segments depend on."""
        names = ("resolution", "min_seconds", "max_seconds", "max_yaw", "crf", "framing")
        files = [path and sha256_of(path) for path in (self.det_model, self.landmark_model)]
        return _hash([VERSION, *(getattr(self, name) for name in names), *files])

    @property
    def quality_hash(self) -> str:
        """Of all that the scores by hyperIQA depend on."""
        return _hash([self.cut_hash, self.hyperiqa and sha256_of(self.hyperiqa)])

    @property
    def sync_hash(self) -> str:
        """Of all that the measured offsets depend on."""
        return _hash([self.cut_hash, self.sync, *(path and sha256_of(path) for path in (self.syncnet, self.s3fd))])

    @property
    def clip_hash(self) -> str:
        """Of all that the clips in the store depend on besides their source."""
        return _hash([self.sync_hash, self.identity, sha256_of(self.whisper)])

    def as_dict(self) -> dict:
        """For JSON; `from_dict` is the way back."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: dict) -> "PrepareSettings":
        paths = {name: Path(values[name]) for name in ("output", *FILES) if values[name] is not None}
        return PrepareSettings(**{**values, **paths})


def _hash(values: list) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:8]


# What is the item's own fault and rejects it; all else (a full disk, a missing model, a bug) ends the run.
REJECTING = (MediaError, FaceNotFoundError, FrameCountError, av.FFmpegError)


def read_record(path: Path) -> dict | None:
    """None where there is none, or one that a crash of the machine has damaged: the item is done again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def recorded(path: Path, make: Callable[[], dict]) -> dict:
    """The record at `path`, made first where it is not there. What `make` raises of REJECTING becomes its reason."""
    if (record := read_record(path)) is not None:
        return record
    try:
        record = make()
    except REJECTING as error:
        record = {"rejected": one_line(error)}
    with written_whole(path) as part:
        part.write_text(json.dumps(record), encoding="utf-8")
    return record


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
