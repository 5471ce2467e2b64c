"""Whether a result is still what its inputs and settings would give."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from ..files import sha256_of
from .arguments import BATCH_OPTIONS
from .networks import NetworkChoice
from .run import Job

OUTPUTS = {"video_out_path", "report"}
WITHOUT_EFFECT = (
    BATCH_OPTIONS
    | OUTPUTS
    | {"quiet", "verbose", "no_track_cache", "job_dir", "no_resume", "model", "checkpoints", "track"}
)


def fingerprint(job: Job) -> str:
    """SHA-256 of what the result depends on: content of all files that are read, models among them, and all settings.

    Names of files do not count, so that a moved folder is no change. Raises ModelNotFoundError, OSError.
    """
    arguments, options = vars(job.arguments), dataclasses.asdict(job.options)
    if arguments["seed"] == -1:
        options["seed"] = "random"  # each check of the job draws another
    facts = {
        "options": options,
        "arguments": {name: _plain(value) for name, value in arguments.items() if name not in WITHOUT_EFFECT},
        "speakers": [(_plain(speaker.face), _plain(speaker.audio_path)) for speaker in job.speakers],
        "networks": [sha256_of(file) for path in NetworkChoice.of(job.arguments).files() for file in _files(path)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _plain(value: object) -> object:
    """The content of a file in place of its path."""
    if isinstance(value, str | Path) and Path(value).is_file():
        return sha256_of(value)
    return value


def _files(path: Path) -> Iterator[Path]:
    yield from sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
