"""What can be fetched: assets/downloads.json, read and checked."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..errors import OptionError
from ..json_files import read_json

MANIFEST = Path(__file__).parents[1] / "assets" / "downloads.json"


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
