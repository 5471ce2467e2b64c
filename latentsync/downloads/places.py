"""Where models go: this project's checkpoints/, or the models folder of the ComfyUI that it is a pack of."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import OptionError
from ..given_paths import given_path
from .manifest import RemoteFile

RECORD = "latentsync-downloads.json"


@dataclass(frozen=True)
class Place:
    """A folder and how models lie in it."""

    root: Path
    is_comfyui: bool
    reason: str  # why this one, for the user

    def target(self, file: RemoteFile) -> Path:
        return self.root / (file.comfyui_path if self.is_comfyui else file.path)

    @property
    def record(self) -> Path:
        """What was fetched, with hashes."""
        return self.root / "latentsync" / RECORD if self.is_comfyui else self.root / RECORD


def choose_place(pack: Path, checkpoints: str | None = None, models_dir: str | None = None) -> Place:
    """The folder that was named, else the models folder of the ComfyUI around ``pack``, else its checkpoints/.

    pack: this project's folder, not resolved: it may be a link in custom_nodes. Raises OptionError.
    """
    if checkpoints and models_dir:
        raise OptionError("--checkpoints and --models-dir were both given; choose one folder.")
    if checkpoints:
        return Place(given_path(checkpoints).absolute(), False, "given")
    if models_dir:
        folder = given_path(models_dir).absolute()
        if not folder.is_dir():
            raise OptionError(f"--models-dir {folder} is not a folder; expected ComfyUI's models folder.")
        return Place(folder, True, "given")
    host = pack.parents[1] / "models" if pack.parent.name == "custom_nodes" else None
    if host is not None and host.is_dir():
        return Place(host, True, "ComfyUI's, found beside custom_nodes; --models-dir or --checkpoints name another")
    return Place(pack / "checkpoints", False, "this project's; --checkpoints or --models-dir name another")
