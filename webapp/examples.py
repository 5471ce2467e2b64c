"""Clips to try the page with: drawn avatars, made for the bundled model, drawn when first asked for."""

import threading
from dataclasses import dataclass
from pathlib import Path

from latentsync.samples import SECOND_SPEECH, SPEECH, TWO_PEOPLE, VIDEO, write_samples

_drawing = threading.Lock()  # two visitors ask at the same time


@dataclass(frozen=True)
class Example:
    """video, speech: names of the samples' files."""

    label: str
    video: str
    speech: str

    def files(self, folder: Path) -> tuple[Path, Path]:
        """Video and speech, drawn into `folder` if they are not there. Raises OutputError."""
        with _drawing:
            if not all((folder / name).is_file() for name in (self.video, self.speech)):
                folder.mkdir(parents=True, exist_ok=True)
                write_samples(folder)
        return folder / self.video, folder / self.speech


EXAMPLES = (
    Example("A drawn face", VIDEO, SPEECH),
    Example("The same, another speech", VIDEO, SECOND_SPEECH),
    Example("Two people", TWO_PEOPLE, SECOND_SPEECH),
)
