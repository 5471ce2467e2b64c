"""Where a run's files lie: a folder for each with a name nobody can guess, and the removal of what is old."""

import contextlib
import os
import re
import secrets
import shutil
import time
from pathlib import Path

VIDEO, SOURCE, REPORT, PICTURE = "lip_synced.mp4", "source", "report.json", "report.png"
SERVED = re.compile(rf"{re.escape(VIDEO)}|{SOURCE}\.[a-z0-9]{{1,5}}|{re.escape(REPORT)}|{re.escape(PICTURE)}")
NAME = re.compile(r"[A-Za-z0-9_-]{22}")  # of a run's folder: 128 random bits
UPLOAD = re.compile(r"[0-9a-f]{40,64}")  # Gradio's folder of a file, by its content


class Results:
    """The folders of finished runs in `root`."""

    def __init__(self, root: Path):
        self.root = root

    def new(self) -> Path:
        """An empty folder for one run."""
        return new_folder(self.root)

    def keep_source(self, folder: Path, video: Path) -> Path:
        """The run's own copy of what was uploaded, which outlives the upload; without one more byte where it can."""
        suffix = video.suffix.lower() if re.fullmatch(r"\.[a-z0-9]{1,5}", video.suffix.lower()) else ".mp4"
        kept = folder / f"{SOURCE}{suffix}"
        try:
            os.link(video, kept)
        except OSError:
            shutil.copyfile(video, kept)
        return kept

    def file(self, folder: str, name: str) -> Path | None:
        """What is served under these names; None for everything else."""
        if not NAME.fullmatch(folder) or not SERVED.fullmatch(name):
            return None
        path = self.root / folder / name
        return path if path.is_file() and path.resolve().is_relative_to(self.root.resolve()) else None

    def discard(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(root: Path) -> Path:
    """An empty folder in `root` under a name that cannot be guessed."""
    folder = root / secrets.token_urlsafe(16)
    folder.mkdir(parents=True)
    return folder


def remove_old(root: Path, names: re.Pattern, hours: float) -> None:
    """Remove the folders in `root` that go by such names and were last written to so long ago; nothing else."""
    oldest = time.time() - hours * 3600
    for folder in root.iterdir() if root.is_dir() else ():
        with contextlib.suppress(OSError):  # someone else was faster
            if names.fullmatch(folder.name) and not folder.is_symlink() and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
