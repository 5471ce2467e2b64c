"""LatentSync: audio-conditioned latent diffusion for lip synchronisation, independent of any host program.

What `__all__` names stays from release to release; docs/python.md shows its use. Other modules may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .errors import (
    AudioError,
    BrokenResultError,
    Cancelled,
    CheckpointError,
    DamagedCheckpointError,
    DependencyError,
    DownloadError,
    FaceNotFoundError,
    ForeignCheckpointError,
    FrameCountError,
    IncompleteCheckpointError,
    LatentSyncError,
    MediaError,
    ModelNotFoundError,
    OptionError,
    OutputError,
    UnsafeCheckpointError,
)

if TYPE_CHECKING:
    from .options import LipSyncOptions
    from .run.engine import lip_sync
    from .run.progress import Progress
    from .run.report import LipSyncReport, read_provenance
    from .run.speech import Speaker
    from .session import Session, load_models

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "BrokenResultError",
    "Cancelled",
    "CheckpointError",
    "DamagedCheckpointError",
    "DependencyError",
    "DownloadError",
    "FaceNotFoundError",
    "ForeignCheckpointError",
    "FrameCountError",
    "IncompleteCheckpointError",
    "LatentSyncError",
    "LipSyncOptions",
    "LipSyncReport",
    "MediaError",
    "ModelNotFoundError",
    "OptionError",
    "OutputError",
    "Progress",
    "Session",
    "Speaker",
    "UnsafeCheckpointError",
    "lip_sync",
    "load_models",
    "read_provenance",
]

# Torch and all that stands on it take seconds to import: what needs them comes when it is first asked for.
_MODULES = {
    "LipSyncOptions": "options",
    "LipSyncReport": "run.report",
    "Progress": "run.progress",
    "Session": "session",
    "Speaker": "run.speech",
    "lip_sync": "run.engine",
    "load_models": "session",
    "read_provenance": "run.report",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
