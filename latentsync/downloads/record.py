"""The local record of what was fetched: hashes of files whose authors publish none, and licences that were accepted."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import OutputError
from ..file_lock import locked


class Record:
    """JSON, written whole under a lock: {"files": {path: {size, modified, sha256, verified, url}}, "accepted"}"""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            content = {}
        content = content if isinstance(content, dict) else {}
        return {"files": {}, "accepted": {}, **content}

    def entry(self, target: Path) -> dict:
        """What is known of a file; {} if nothing."""
        return self.read()["files"].get(self._key(target), {})

    def known_hash(self, target: Path) -> str | None:
        """Its SHA-256, if it was read before and neither size nor time has changed since."""
        entry, facts = self.entry(target), target.stat()
        same = (entry.get("size"), entry.get("modified")) == (facts.st_size, facts.st_mtime_ns)
        return entry.get("sha256") if same else None

    def remember(self, target: Path, sha256: str, verified: bool, url: str | None = None) -> None:
        facts = target.stat()
        entry = {"size": facts.st_size, "modified": facts.st_mtime_ns, "sha256": sha256, "verified": verified}
        self._change(lambda content: content["files"].update({self._key(target): {**entry, "url": url}}))

    def accept(self, model: str) -> None:
        self._change(lambda content: content["accepted"].update({model: time.strftime("%Y-%m-%d")}))

    def _key(self, target: Path) -> str:
        return os.path.relpath(target, self.path.parent).replace(os.sep, "/")

    def _change(self, change: Callable[[dict], None]) -> None:
        part = self.path.with_name(self.path.name + ".part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path.with_name(self.path.name + ".lock"), on_wait=lambda: None):
                content = self.read()
                change(content)
                part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
                os.replace(part, self.path)
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({error}). Check the folder's rights.") from error
