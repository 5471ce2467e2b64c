"""Interrupted runs go on: what makes two runs the same, the journal of what the U-Net made, and where it is kept.

See docs/architecture.md."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..faces.finder import FaceFinder
from ..faces.scan_cache import cache_folder
from ..files import locked, sha256_of
from ..model.loading import LipSyncModel
from ..options import LipSyncOptions
from .chunks import Chunk
from .report import run_facts
from .speech import Speaker

# The file

logger = logging.getLogger(__name__)

MAGIC = b"LSJ1"
_LENGTHS = struct.Struct("<4sIQ")  # magic, bytes of the header, bytes of the payload
_DIGEST_BYTES = 32
MAX_HEADER, MAX_PAYLOAD = 2**20, 2**30  # more is damage


class Journal:
    """A journal that is read once from its beginning and written from where reading ended.

    Raises OSError where the file cannot be opened or written; a record that could not be written whole is taken back.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        is_new = not self.path.exists()
        self._file = open(self.path, "r+b" if not is_new else "x+b")  # noqa: SIM115 (closed by `close`)
        if is_new:
            _sync_folder(self.path.parent)
        self._end = 0  # of the records that were read or written
        self._before = 0  # where the latest of them begins

    def read(self) -> tuple[dict, bytes] | None:
        """The next record; None after the last whole one, where writing may begin."""
        self._file.seek(self._end)
        record = self._read_record()
        if record is None:
            self.drop_rest()
            return None
        self._before, self._end = self._end, self._file.tell()
        return record

    def has_more(self) -> bool:
        """Whether anything comes after the records that were read or written, whole or not."""
        return self._file.seek(0, os.SEEK_END) > self._end

    def unread(self) -> None:
        """Let the next `append` take the place of the record that was read last."""
        self._end = self._before

    def append(self, header: dict, payload: bytes = b"") -> None:
        """Add a record; when this returns it is on the disk. What was not read until now is dropped."""
        self.drop_rest()
        text = json.dumps(header).encode()
        head = _LENGTHS.pack(MAGIC, len(text), len(payload)) + text
        try:
            for part in (head, payload, _digest(head, payload)):
                self._file.write(part)
            self._sync()
        except OSError:
            with contextlib.suppress(OSError):
                self.drop_rest()
            raise
        self._before, self._end = self._end, self._file.tell()

    def take_back(self) -> None:
        """Drop everything."""
        self._before = self._end = 0
        self.drop_rest()

    def drop_rest(self) -> None:
        """Drop what comes after the records that were read or written."""
        self._file.seek(0, os.SEEK_END)
        if self._file.tell() > self._end:
            self._file.seek(self._end)
            self._file.truncate()
            self._sync()
        self._file.seek(self._end)

    def close(self) -> None:
        self._file.close()

    def _read_record(self) -> tuple[dict, bytes] | None:
        lengths = self._file.read(_LENGTHS.size)
        if not lengths:
            return None
        with contextlib.suppress(struct.error, ValueError):  # cut off within the header; no JSON
            magic, header_bytes, payload_bytes = _LENGTHS.unpack(lengths)
            if magic == MAGIC and header_bytes <= MAX_HEADER and payload_bytes <= MAX_PAYLOAD:
                text, payload = self._file.read(header_bytes), self._file.read(payload_bytes)
                if self._file.read(_DIGEST_BYTES) == _digest(lengths + text, payload):
                    return json.loads(text), payload
        logger.warning("%s is cut off or damaged at byte %d; what follows is made again", self.path, self._end)
        return None

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def _digest(head: bytes, payload: bytes) -> bytes:
    digest = hashlib.sha256(head)
    digest.update(payload)
    return digest.digest()


def _sync_folder(folder: Path) -> None:
    """Make a new name in it last; where the system has nothing like that, it is not needed."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# The latents of a run's chunks, kept as they are made and given again to the run that goes on.


class ChunkJournal:
    """A denoiser's memory (see chunks.ChunkMemory), in a journal whose first record says which job it is.

    A run that goes on asks for the same chunks in the same order; the U-Net's part of the work is left out as long as
    they are. From the first chunk on that differs in its faces, or that was not kept, everything is made again. Where
    the disk is full or gone the run goes on without: it is warned once.

    recalled: frames that were given again; holds_chunks: whether there is anything worth keeping.
    """

    def __init__(self, journal: Journal, facts: dict, resume: bool = True):
        """facts: what the latents depend on; resume: whether chunks that are there are used. Raises OSError."""
        self._journal, self._is_lost, self.recalled = journal, False, 0
        first = journal.read()
        self._reads_on = resume and first is not None and first[0] == {"job": facts}
        if not self._reads_on:
            journal.take_back()
            journal.append({"job": facts})
        self.holds_chunks = journal.has_more()

    def recall(self, chunks: Sequence[Chunk]) -> list[Tensor] | None:
        """Latents (F, C, h, w) float32 of chunks that were denoised together; None where they have to be made."""
        if not self._reads_on:
            return None
        record = self._journal.read()
        shapes = [(len(chunk.conditioning), chunk.noise.shape[1], *chunk.conditioning.shape[-2:]) for chunk in chunks]
        sizes = [int(np.prod(shape)) for shape in shapes]
        if record is None or record[0] != _header(chunks) or len(record[1]) != 4 * sum(sizes):
            self._reads_on = False
            if record is not None:
                logger.warning("%s holds other faces than these; they are made again", self._journal.path)
                self._journal.unread()
            return None
        self.recalled += len(chunks[0].conditioning)
        values = torch.from_numpy(np.frombuffer(record[1], "<f4").astype(np.float32))
        parts = zip(values.split(sizes), shapes, chunks, strict=True)
        return [part.reshape(shape).to(chunk.conditioning.device) for part, shape, chunk in parts]

    def keep(self, chunks: Sequence[Chunk], latents: Sequence[Tensor]) -> None:
        """Keep what was made of the chunks."""
        if self._is_lost:
            return
        payload = b"".join(part.float().cpu().contiguous().numpy().astype("<f4").tobytes() for part in latents)
        try:
            self._journal.append(_header(chunks), payload)
            self.holds_chunks = True
        except OSError as error:
            self._is_lost = True
            logger.warning(
                "%s cannot be written (%s); the run goes on, but if it is interrupted, what follows is lost",
                self._journal.path,
                error.strerror or error,
            )

    def close(self) -> None:
        self._journal.close()


def _header(chunks: Sequence[Chunk]) -> dict:
    """What the chunks are: their lengths, and a digest of the faces that they are made from."""
    digest = hashlib.sha256()
    for chunk in chunks:
        for face in chunk.faces:
            digest.update(np.ascontiguousarray(face))
    return {"frames": [len(chunk.conditioning) for chunk in chunks], "faces": digest.hexdigest()}


# What makes two runs the same: all that they depend on, by content and not by name.
#
# Two questions are asked of it: whether latents can be used again (`job_facts`, with the program that made them), and
# whether a result is still what would be made (session.RunRequest.identity, with what comes after the U-Net).

PACKAGE = Path(__file__).parents[1]


def asked_facts(video_path: str | Path, speakers: Sequence[Speaker], options: LipSyncOptions) -> dict:
    """Return what counts for both as plain values: the media and the settings."""
    return {
        "video": sha256_of(video_path),
        "speakers": [[content(speaker.face), content(speaker.audio_path)] for speaker in speakers],
        "options": {field.name: str(getattr(options, field.name)) for field in dataclasses.fields(options)},
    }


def content(value: object) -> object:
    """Return the SHA-256 of the file, or of all files of the folder, at a path; of other values the text."""
    if isinstance(value, str | Path) and Path(value).is_file():
        return sha256_of(value)
    if isinstance(value, Path) and value.is_dir():
        return [sha256_of(file) for file in sorted(value.rglob("*")) if file.is_file()]
    return None if value is None else str(value)


def job_facts(
    video_path: str | Path,
    speakers: Sequence[Speaker],
    model: LipSyncModel,
    options: LipSyncOptions,
    finder: FaceFinder,
) -> dict | None:
    """Return plain values that are equal for equal jobs; None where a model cannot be told from others.

    Neither what comes after the U-Net counts (restoration, protecting masks, another sound for the result) nor the
    names of files.
    """
    networks = {name: _network(getattr(model, name)) for name in ("vae", "whisper")}
    known = run_facts(model, options, None)
    known["model"].pop("name")
    files = known["model"].pop("files")
    networks["unet"] = sorted(files.values()) or _network(model.unet)
    if None in networks.values():
        return None
    return {
        "program": {**known["versions"], "sources": _program()},
        "device": known["device"],
        "threads": known["threads"],  # which sums are rounded by
        "dtypes": [
            known["dtype"],
            model.low_memory,
            *sorted({str(parameter.dtype) for parameter in model.unet.parameters()}),
        ],
        "model": {
            **known["model"],
            **networks,
            "prediction_type": model.prediction_type,
            "latents": repr(model.latents),
        },
        "finder": type(finder).__name__,
        **asked_facts(video_path, speakers, options),
    }


def _network(network: object) -> str | None:
    """Digest of the weights; None for what is no module of PyTorch's, such as a host's VAE."""
    if not isinstance(network, nn.Module):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _program() -> str:
    """Digest of this package's sources: another release or a change in them may make other latents."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


# Where the journals of unfinished runs are kept.


VERSION = 2  # of what the latents depend on and how they are kept
MAX_BYTES = 8 * 2**30  # of all unfinished jobs but the one in work; the oldest go first
MAX_AGE = 14 * 86_400  # s since it was worked on, after which an unfinished job goes
SUFFIX = ".journal"


def default_job_folder() -> Path:
    """In the user's cache folder, see scan_cache.cache_folder: a job is found there whatever its result is called."""
    return cache_folder().parent / "jobs"


@dataclass(frozen=True)
class Job:
    """A run in work. name: of the job, the same when it goes on; chunks: what it has made."""

    name: str
    chunks: ChunkJournal


@dataclass(frozen=True)
class JobFolder:
    """Journals in `folder`, which need not exist and may be deleted at any time while no run is in work.

    resume: whether a run goes on where an equal one was interrupted; otherwise that one's journal is replaced.
    """

    folder: Path
    resume: bool = True
    max_bytes: int = MAX_BYTES
    max_age: float = MAX_AGE

    @contextlib.contextmanager
    def job(self, facts: dict) -> Iterator[Job | None]:
        """The job of these facts, locked for this process; None where another process is at it, or where the folder
        cannot be used: a run is then done without, and a warning is logged.

        The journal is removed when the block is left without an error, or before a chunk was made; else it is kept.
        """
        text = json.dumps({"version": VERSION, **facts}, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        try:
            with contextlib.ExitStack() as stack:
                chunks = self._opened(name, json.loads(text), stack)
                if chunks is None:
                    yield None
                    return
                is_done = False
                try:
                    yield Job(name, chunks)
                    is_done = True
                finally:
                    with contextlib.suppress(OSError):  # a full disk, of which the journal has told, hides no error
                        chunks.close()
                    if is_done or not chunks.holds_chunks:
                        with contextlib.suppress(OSError):
                            (self.folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
        finally:
            with contextlib.suppress(OSError):  # where others have jobs in it
                self.folder.rmdir()

    def _opened(self, name: str, facts: dict, stack: contextlib.ExitStack) -> ChunkJournal | None:
        """The journal, and its lock on the stack."""
        try:
            for is_last in (False, True):
                self.folder.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(locked(self.folder / f"{name}.lock"))
                    break
                except FileNotFoundError:  # another run has just removed the folder, which was empty
                    if is_last:
                        raise
            self._prune(name)
            return self._begun(self.folder / f"{name}{SUFFIX}", facts)
        except BlockingIOError:
            logger.warning("an equal run is in work; this one is done anew, and cannot be resumed if interrupted")
        except OSError as error:
            logger.warning("%s cannot be used (%s); the run cannot be resumed if interrupted", self.folder, error)
        return None

    def _begun(self, path: Path, facts: dict) -> ChunkJournal:
        """The journal with its first record. Raises OSError, and leaves no new file then."""
        is_new = not path.exists()
        journal = Journal(path)
        try:
            return ChunkJournal(journal, facts, self.resume)
        except OSError:
            with contextlib.suppress(OSError):  # what it could not write it tries again
                journal.close()
            if is_new:
                path.unlink(missing_ok=True)
            raise

    def _prune(self, current: str) -> None:
        """Remove jobs that nobody will go on with, except those in work."""
        with contextlib.suppress(OSError):
            kept = [(path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob(f"*{SUFFIX}")]
            kept = sorted(job for job in kept if job[2].stem != current)
            total = sum(size for _, size, _ in kept)
            for changed, size, path in kept:
                if total <= self.max_bytes and time.time() - changed <= self.max_age:
                    break
                with contextlib.suppress(BlockingIOError), locked(path.with_suffix(".lock")):
                    path.unlink(missing_ok=True)
                    total -= size
