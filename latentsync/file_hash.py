"""The fingerprint of a file."""

import hashlib
from functools import lru_cache
from pathlib import Path


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content; read again only where its size or time has changed."""
    path = Path(path).resolve()
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
