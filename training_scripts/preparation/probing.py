"""Stage 1, probe: what each source holds and whether it can be read at all; its sound at 16 kHz.

A source is opened in a process of its own, so that a file which crashes a decoder is a rejection and nothing more.
Sources are only read. As a program: ``python -m training_scripts.preparation.probing SOURCE SOUND.npy``.
"""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np

from latentsync.errors import AudioError, MediaError
from latentsync.files import sha256_of
from latentsync.media.audio_reader import read_audio_blocks
from latentsync.media.video_reader import probe_video, video_length

from ..clip_store import FULL_SCALE
from .settings import REJECTING, VERSION, PrepareSettings, one_line, recorded

LONGEST = 3600.0  # s for one source, after which it counts as unreadable
MIN_RATE = 10.0  # frames per second: below, lips are not seen to move
SOURCES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".wmv", ".flv", ".3gp")
ROOT = Path(__file__).parents[2]


def find_sources(folder: Path) -> list[Path]:
    """Video files below a folder, by their suffix, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOURCES and path.is_file())


def probe_item(source: Path, settings: PrepareSettings) -> dict:
    """The item of a source: its record is found by place, size and time, its results by content."""
    facts = source.stat()
    place = f"{source.resolve()}|{facts.st_size}|{facts.st_mtime_ns}|{VERSION}"
    key = hashlib.sha256(place.encode()).hexdigest()[:24]
    return {"source": str(source), "cost": facts.st_size, "record": str(settings.work / "probe" / f"{key}.json")}


def probe(item: dict, settings: PrepareSettings) -> dict:
    """{source, sha256, seconds, declared, fps, width, height, codec, sound} of a source, or {source, rejected}.

    sound: the file with its samples; seconds: of it that can be read; declared: those that it says it has.
    """
    source = Path(item["source"])
    try:
        record = recorded(Path(item["record"]), lambda: _probed(source, settings))
    except _Unreadable as error:  # which may pass: nothing is recorded, and the next run tries again
        reason = error.__cause__
        record = {"rejected": f"'{source}' cannot be read: {reason.strerror or reason}"}
    return {"source": str(source), **record}


class _Unreadable(Exception):
    """The system's error about a source is the cause of this one."""


def _probed(source: Path, settings: PrepareSettings) -> dict:
    try:
        sha256 = sha256_of(source)
    except OSError as error:
        raise _Unreadable from error
    sound = settings.work / "sound" / f"{sha256[:32]}.npy"
    sound.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", __name__, str(source), str(sound)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=LONGEST)
    except subprocess.TimeoutExpired as error:
        raise MediaError(f"'{source}' was not read within {LONGEST:g} s") from error
    if done.returncode == 1:  # Python's own, of an exception
        raise RuntimeError(f"probing '{source}' failed:\n{done.stderr.decode(errors='replace')[-4000:]}")
    if done.returncode:
        code = done.returncode
        raise MediaError(f"'{source}' crashes the decoder ({f'signal {-code}' if code < 0 else f'exit code {code}'})")
    found = json.loads(done.stdout)
    return found if "rejected" in found else {"sha256": sha256, "sound": str(sound), **found}


def read_source(source: Path, sound: Path) -> dict:
    """Facts of a source; its sound is written as (T,) int16 at 16 kHz, from its first picture on. Raises MediaError."""
    facts = probe_video(source)
    if not facts.has_audio:
        raise AudioError(f"'{source}' has no sound")
    if facts.fps < MIN_RATE:
        raise MediaError(f"'{source}' has {float(facts.fps):g} pictures a second; expected {MIN_RATE:g} or more")
    blocks = [np.round(block.clip(-1, 1) * FULL_SCALE).astype(np.int16) for block in read_audio_blocks(source)]
    samples = np.concatenate(blocks)
    seconds = video_length(source)
    part = sound.with_name(f".{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as file:
            np.save(file, samples)
        os.replace(part, sound)
    finally:
        part.unlink(missing_ok=True)
    return {
        "seconds": seconds,
        "declared": max(facts.duration, seconds),
        "fps": float(facts.fps),
        "width": facts.width,
        "height": facts.height,
        "codec": facts.codec,
    }


if __name__ == "__main__":
    try:
        result = read_source(Path(sys.argv[1]), Path(sys.argv[2]))
    except REJECTING as error:
        result = {"rejected": one_line(error)}
    print(json.dumps(result))
