"""A file of records that is only ever appended to, and that a crash at any moment leaves readable.

A record is a header (JSON), a payload (bytes) and a SHA-256 of both. One that is cut off or damaged ends the journal:
it and what follows are dropped, and the next record is written in its place.
"""

import contextlib
import hashlib
import json
import logging
import os
import struct
from pathlib import Path

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
