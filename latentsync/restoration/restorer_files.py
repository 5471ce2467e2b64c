"""Where restorers' files lie, and what to do where they do not."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelNotFoundError
from ..model_files import ASSETS

BUNDLED_RESTORER = ASSETS / "restorer" / "tiny.safetensors"
# Of a folder that is searched, in this order: where the models' own programs and ComfyUI's packs put them.
SUBFOLDERS = ("", "auxiliary", "CodeFormer", "GFPGAN", "facerestore_models", "models/facerestore_models")


@dataclass(frozen=True)
class OfficialRestorer:
    """A restorer by name. architecture: spandrel's name of it; files: their names, the best one first."""

    architecture: str
    files: tuple[str, ...]
    address: str  # of the first file, on the authors' own release page


OFFICIAL = {
    "GFPGAN": OfficialRestorer(
        "GFPGAN",
        ("GFPGANv1.4.pth", "GFPGANv1.3.pth"),
        "https://github.com/TencentARC/GFPGAN/releases/download/v1.3.0/GFPGANv1.4.pth",
    ),
    "CodeFormer": OfficialRestorer(
        "CodeFormer",
        ("codeformer.pth", "codeformer-v0.1.0.pth"),
        "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",
    ),
}


def official_restorer(name: str | Path) -> OfficialRestorer | None:
    """The one of that name, in upper or lower case; None where it is not one."""
    return next((OFFICIAL[key] for key in OFFICIAL if key.lower() == str(name).lower()), None)


def find_restorer(name: str | Path, folders: Sequence[Path]) -> Path:
    """The file of a restorer: "tiny" (bundled), "GFPGAN", "CodeFormer", a path, or the name of a file in the folders.

    Never downloads. Raises ModelNotFoundError, which names file, folder and command.
    """
    if str(name).lower() == "tiny":
        if not BUNDLED_RESTORER.is_file():
            raise ModelNotFoundError(f"{BUNDLED_RESTORER} is missing. It comes with this package: get that again")
        return BUNDLED_RESTORER
    official = official_restorer(name)
    if official is None and Path(name).is_file():
        return Path(name)
    wanted = official.files if official else (str(name),)
    for file in wanted:
        for folder in folders:
            for subfolder in SUBFOLDERS:
                if (path := Path(folder) / subfolder / file).is_file():
                    return path
    places = ", ".join(str(folder) for folder in folders) or "any folder (none was given)"
    if official is None:
        known = ", ".join(["tiny", *OFFICIAL])
        raise ModelNotFoundError(
            f"there is no restorer {name}: no file of that path, and none of that name in {places}. "
            f"Give one of {known}, or the path of a model that spandrel knows"
        )
    target = (Path(folders[0]) if folders else Path("checkpoints")) / "auxiliary" / wanted[0]
    raise ModelNotFoundError(
        f"{name} needs the file {' or '.join(wanted)}, which is not in {places} (looked for there and in its folders "
        f"{', '.join(filter(None, SUBFOLDERS))}). Nothing is downloaded by itself. To have it as {target}: "
        f"python install.py --models {str(name).lower()} --checkpoints {target.parent.parent} "
        "Or choose the bundled restorer, tiny."
    )
