"""gradio_app.py as a process of its own, as a user starts it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPENED = re.compile(r"Open (http://\S+) in a browser")


@dataclass(frozen=True)
class Served:
    """A running app. said: the lines it has written when it was ready; folder: of uploads and results."""

    url: str
    said: str
    folder: Path
    process: subprocess.Popen


@contextmanager
def served(folder: Path, *arguments: str) -> Iterator[Served]:
    """A server on a free port until the end of the block. Raises RuntimeError where it does not start."""
    command = [sys.executable, str(ROOT / "gradio_app.py"), "--port", "0", "--output", str(folder), *arguments]
    log = folder.with_suffix(".log")
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            said = ""
            for line in process.stdout:
                said += line
                if line.startswith("Uploads and results"):
                    break
            found = OPENED.search(said)
            if found is None:
                raise RuntimeError(f"gradio_app.py did not start:\n{said}{log.read_text()}")
            yield Served(found[1], said, folder, process)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
