"""What a stage found out about one item: a JSON file that appears whole, so that a stage is done or not."""

import json
from collections.abc import Callable
from pathlib import Path

import av

from latentsync.errors import FaceNotFoundError, FrameCountError, MediaError
from latentsync.media.output_file import written_whole

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
