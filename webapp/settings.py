"""What whoever starts the app decides; visitors of the page cannot change it."""

from dataclasses import dataclass, field
from pathlib import Path

from latentsync.given_paths import CHECKPOINTS

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Limits:
    """Of what is uploaded and of those who wait. side: of the picture, px; waiting: runs behind the one in work."""

    upload_mb: int = 500
    seconds: float = 600.0
    side: int = 4096
    fps: float = 120.0
    waiting: int = 8


@dataclass(frozen=True)
class AppSettings:
    """folder: uploads/, faces/ and results/ are made in it; keep_hours: after which what is in them is removed.

    model: a file or folder beside those in ``checkpoints``, see loading.find_model; low_memory: see model/device.py;
    enable_sr: whether the page offers super-resolution of the generated face.
    """

    folder: Path = ROOT / "output" / "gradio"
    keep_hours: float = 24.0
    checkpoints: Path = CHECKPOINTS
    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    low_memory: str = "none"
    enable_sr: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def uploads(self) -> Path:
        return self.folder / "uploads"

    @property
    def examples(self) -> Path:
        return self.uploads / "examples"  # Gradio shows files of that folder

    @property
    def results(self) -> Path:
        return self.folder / "results"

    @property
    def faces(self) -> Path:
        return self.folder / "faces"
