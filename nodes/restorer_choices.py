"""The restorers a user can choose from, by names that say nothing of where a machine keeps its files."""

from pathlib import Path

from ..latentsync.errors import ModelNotFoundError
from . import host
from .model_choices import BUNDLED, CHECKPOINTS, GONE, PREFIX

BACKENDS = ["spandrel", "package"]  # as the library's, which is not imported for the list


def restorer_names() -> list[str]:
    """What the list shows: the bundled one, and the files in ComfyUI's folders and in the pack's checkpoints/."""
    in_host = [f"{folder}/{name}" for folder in host.RESTORER_FOLDERS for name in host.model_names(folder)]
    return [BUNDLED, *in_host, *(PREFIX + name for name in _in_checkpoints())]


def restorer_path(name: str) -> Path | None:
    """Where a restorer of `restorer_names` lies; None for the bundled one. Raises ModelNotFoundError."""
    if name == BUNDLED:
        return None
    folder, _, file = name.partition("/")
    path = host.model_file(file, folder) if folder in host.RESTORER_FOLDERS else None
    if f"{folder}/" == PREFIX and file in _in_checkpoints():
        path = CHECKPOINTS / file
    if path is None:
        raise ModelNotFoundError(GONE.format(what="the restorer", name=name))
    return path


def _in_checkpoints() -> list[str]:
    """Files of GFPGAN and CodeFormer by their usual names, which alone tell them from the other files there."""
    from ..latentsync.model_files import OFFICIAL, SUBFOLDERS

    files = [file for official in OFFICIAL.values() for file in official.files]
    places = (Path(folder) / file for folder in SUBFOLDERS for file in files)
    return [place.as_posix() for place in places if (CHECKPOINTS / place).is_file()]
