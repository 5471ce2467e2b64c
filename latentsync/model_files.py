"""Which model files there are: those that can be fetched and where they lie, and those that come with this package.

Needs nothing but Python's standard library, so that install.py can use it before anything is installed.
"""

import json
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .errors import OptionError
from .files import read_json
from .given_paths import given_path

ASSETS = Path(__file__).parent / "assets"
MANIFEST = ASSETS / "downloads.json"


@dataclass(frozen=True)
class RemoteFile:
    """One file. size in bytes; size and sha256 are None where no source that can be cited was found."""

    path: str  # below checkpoints/
    comfyui_path: str  # below ComfyUI's models folder
    urls: tuple[str, ...]  # tried in this order
    size: int | None
    sha256: str | None
    describe: dict = field(default_factory=dict)  # what a JSON file beside it says, as the face's side in pixels


@dataclass(frozen=True)
class Licence:
    """question: what the user has to agree to before anything is fetched; None where nobody need be asked."""

    name: str
    url: str
    question: str | None


@dataclass(frozen=True)
class RemoteModel:
    """A model by name; needs: names of the models without which it does not run."""

    name: str
    title: str
    licence: Licence
    needs: tuple[str, ...]
    files: tuple[RemoteFile, ...]


def read_manifest(path: Path = MANIFEST) -> dict[str, RemoteModel]:
    """The models by name. Raises OptionError for a file that is not of this form."""
    try:
        content = read_json(path, OptionError)
        return {name: _model(name, entry) for name, entry in content["models"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{path} does not list models ({type(error).__name__}: {error}). It comes with this package: get it again."
        ) from error


def wanted_models(names: Iterable[str], models: dict[str, RemoteModel]) -> list[RemoteModel]:
    """The models of those names (also joined by commas) and what they need, each once. Raises OptionError."""
    found: dict[str, RemoteModel] = {}
    waiting = [part.strip().lower() for name in names for part in name.split(",") if part.strip()]
    while waiting:
        name = waiting.pop(0)
        if name not in models:
            raise OptionError(f"There is no model {name!r}. Known are: {', '.join(models)}.")
        if name not in found:
            found[name] = models[name]
            waiting += models[name].needs
    return list(found.values())


def _model(name: str, entry: dict) -> RemoteModel:
    licence = entry["licence"]
    return RemoteModel(
        name=name,
        title=entry["title"],
        licence=Licence(licence["name"], licence["url"], licence["question"]),
        needs=tuple(entry["needs"]),
        files=tuple(_file(file) for file in entry["files"]),
    )


def _file(entry: dict) -> RemoteFile:
    for path in (entry["path"], entry["comfyui_path"]):
        if PurePosixPath(path).is_absolute() or ".." in path.split("/") or "\\" in path or ":" in path:
            raise ValueError(f"{path} leads out of the folder of models")
    size, sha256 = entry["size"], entry["sha256"]
    if not (size is None or (isinstance(size, int) and size > 0)):
        raise ValueError(f"{size!r} is no size of {entry['path']}")
    if not (sha256 is None or (len(sha256) == 64 and set(sha256) <= set("0123456789abcdef"))):
        raise ValueError(f"{sha256!r} is no SHA-256 of {entry['path']}")
    urls = tuple(entry["urls"])
    return RemoteFile(entry["path"], entry["comfyui_path"], urls, size, sha256, entry.get("describe", {}))


# Where models go: this project's checkpoints/, or the models folder of the ComfyUI that it is a pack of.

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


# The model files that come with this package, and whether they are whole. Needs Python's standard library alone.

PARTS = ("unet", "vae", "whisper", "syncnet")  # that a folder's config.json may name


def damaged_files(assets: Path) -> list[str]:
    """What is wrong with the bundled model files, one line each; files that are not there are not asked for, unless a
    description names them."""
    faults = []
    for path in sorted(assets.rglob("*")):
        if path.suffix == ".safetensors":
            expected = safetensors_size(path)
            if path.stat().st_size != expected:
                faults.append(f"{path}: {path.stat().st_size} bytes, expected {expected or 'a safetensors file'}")
        elif path.suffix == ".pt" and not zipfile.is_zipfile(path):
            faults.append(f"{path}: damaged, its end is missing")
        elif path.name == "config.json" and path.parent.parent == assets:
            description = json.loads(path.read_text(encoding="utf-8"))
            named = [path.parent / description[key] for key in PARTS if key in description]
            faults += [f"{part}: missing" for part in named if not part.exists()]
    return faults


def safetensors_size(path: Path) -> int | None:
    """The length in bytes that the file's own header tells; None if it has no readable header."""
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < 100_000_000 else {}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + max(ends)
        except (struct.error, ValueError, KeyError, TypeError):
            return None
