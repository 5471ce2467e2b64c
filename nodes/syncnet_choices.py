"""The SyncNets a user can choose from, by names that say nothing of where a machine keeps its files."""

from pathlib import Path

from ..latentsync.errors import ModelNotFoundError
from . import host
from .model_choices import BUNDLED, CHECKPOINTS, GONE, PREFIX, SUFFIXES

SIGN = "syncnet"  # in a file's name; the original SyncNet, syncnet_v2.model, is another network


def syncnet_names() -> list[str]:
    """What the list shows: the user's own first, the bundled one last."""
    found = [name for name in host.model_names() if _is_named_so(Path(name))]
    own = sorted(CHECKPOINTS.glob(f"*{SIGN}*")) if CHECKPOINTS.is_dir() else []
    return [*found, *(PREFIX + path.name for path in own if _is_named_so(path)), BUNDLED]


def syncnet_path(name: str) -> Path:
    """Where a SyncNet of `syncnet_names` lies. Raises ModelNotFoundError."""
    from ..latentsync.sync.syncnet import BUNDLED_SYNCNET

    if name == BUNDLED:
        return BUNDLED_SYNCNET
    if name.startswith(PREFIX):
        path = CHECKPOINTS / Path(name).name
        found = path if path.is_file() else None
    else:
        found = host.model_file(name)
    if found is None:
        raise ModelNotFoundError(GONE.format(what="the SyncNet", name=name))
    return found


def _is_named_so(path: Path) -> bool:
    return SIGN in path.name and path.suffix in SUFFIXES
