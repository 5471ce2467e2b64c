"""The model files a user can choose from, by name, and finding them again.

Names are saved in graphs, so they say nothing of where a machine keeps its files: a path below ComfyUI's models folder
of that kind, or below the pack's own `checkpoints/`, which they then begin with. A folder that describes its model in a
config.json is named as a folder, with a / at its end.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..latentsync.errors import ModelNotFoundError
from . import host

if TYPE_CHECKING:
    from ..latentsync.model.loading import ModelFiles

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
PREFIX = "checkpoints/"
BUNDLED = "tiny (bundled)"
AUTO = "auto"
NO_LORA = "none"
LORA_FOLDER = "loras"  # of ComfyUI, and below `checkpoints/`
SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}
COMPANIONS = {"vae", "whisper", "auxiliary", "loras"}  # folders beside a U-Net that hold other models
OTHERS = ("stable_syncnet", "syncnet", "diffusion_pytorch_model")  # how other models' files begin
USUAL_VAES = ("sd-vae-ft-mse", "vae-ft-mse-840000-ema-pruned")  # the beginning of the released models' VAE's name
GONE = "{what} '{name}' is not there any more; choose another"


def unet_names() -> list[str]:
    """What the model list shows: the user's own first, the bundled one last."""
    found = _unets(host.model_names(), _in_host) + [
        PREFIX + name for name in _unets(_checkpoint_names(), lambda name: CHECKPOINTS / name)
    ]
    return [*found, BUNDLED]


def vae_names() -> list[str]:
    """What the VAE list shows."""
    own = [PREFIX + "vae"] if (CHECKPOINTS / "vae").is_dir() else []
    return [AUTO, BUNDLED, *own, *host.model_names("vae")]


def whisper_names() -> list[str]:
    """What the Whisper list shows. The bundled one is not offered: it fits no model but its own."""
    own = [PREFIX + name for name in _checkpoint_names() if name.startswith("whisper/")]
    return [AUTO, *own, *(name for name in host.model_names() if "whisper" in Path(name).parts[:-1])]


def unet_path(name: str) -> Path | None:
    """Where a model of `unet_names` lies; None for the bundled one. Raises ModelNotFoundError."""
    if name == BUNDLED:
        return None
    return _found("the model", name, _in_host(name), _in_checkpoints(name))


def vae_path(name: str) -> Path | None:
    """Where a VAE of `vae_names` lies; None for "auto". Raises ModelNotFoundError."""
    if name == AUTO:
        return None
    if name == BUNDLED:
        return _bundled_files().vae
    return _found("the VAE", name, host.model_file(name, "vae"), _in_checkpoints(name))


def whisper_path(name: str) -> Path | None:
    """Where a Whisper of `whisper_names` lies; None for "auto". Raises ModelNotFoundError."""
    return None if name == AUTO else _found("the Whisper model", name, _in_host(name), _in_checkpoints(name))


def lora_names() -> list[str]:
    """What the list of adapters shows. ComfyUI's folder holds those of other models too; loading tells."""
    own = (name for name in _checkpoint_names() if name.startswith(f"{LORA_FOLDER}/"))
    return [NO_LORA, *(PREFIX + name for name in own), *host.model_names(LORA_FOLDER)]


def lora_path(name: str) -> Path | None:
    """Where an adapter of `lora_names` lies; None for "none". Raises ModelNotFoundError."""
    if name == NO_LORA:
        return None
    return _found("the adapter", name, host.model_file(name, LORA_FOLDER), _in_checkpoints(name))


def model_files(unet: str, vae: str = AUTO, whisper: str = AUTO) -> "ModelFiles":
    """The files of a model by the names in the lists.

    "auto" takes what lies beside the U-Net or in `checkpoints/`, else in models/latentsync, else, for the VAE, the one
    in models/vae that goes by its usual name. Raises ModelNotFoundError, and CheckpointError for a VAE that the chosen
    U-Net was not trained with.
    """
    from dataclasses import replace

    from ..latentsync.errors import CheckpointError
    from ..latentsync.model.loading import find_model

    path, other_vae, other_whisper = unet_path(unet), vae_path(vae), whisper_path(whisper)
    files = find_model("tiny" if path is None else path, CHECKPOINTS)
    for kind, chosen, own in (("VAE", vae, (AUTO, BUNDLED)), ("Whisper model", whisper, (AUTO,))):
        if (path is None and chosen not in own) or (path is not None and chosen == BUNDLED):
            raise CheckpointError(
                f"the {kind} '{chosen}' and the model '{unet}' do not belong together: the bundled model was trained "
                f"with the bundled {kind}, released ones with sd-vae-ft-mse and OpenAI's Whisper. Set it to auto"
            )
    return replace(
        files,
        vae=other_vae or (files.vae if files.vae.exists() else _usual_vae() or files.vae),
        whisper=other_whisper or (files.whisper if files.whisper.exists() else _usual("whisper") or files.whisper),
    )


def _unets(names: Iterable[str], path_of) -> list[str]:
    """The names of U-Nets, and of described folders in place of the files in them."""
    described: dict[str, bool] = {}
    chosen: dict[str, None] = {}  # a set that keeps its order
    for name in names:
        folder = next((f for f in map(str, reversed(_folders(name))) if _describes(f, name, path_of, described)), None)
        if folder is not None:
            chosen[f"{folder}/"] = None
        elif not COMPANIONS & set(Path(name).parts[:-1]) and not Path(name).name.startswith(OTHERS):
            chosen[name] = None
    return list(chosen)


def _folders(name: str) -> list[str]:
    """The folders of a name, from the innermost: "a/b/c.pt" -> a/b, a."""
    return [folder.as_posix() for folder in Path(name).parents if folder.as_posix() != "."]


def _describes(folder: str, name: str, path_of, known: dict[str, bool]) -> bool:
    """Whether the folder's config.json names the files of a whole model."""
    if folder not in known:
        path = path_of(name)
        root = None if path is None else path.parents[len(Path(name).relative_to(folder).parts) - 1]
        known[folder] = root is not None and _names_a_unet(root / "config.json")
    return known[folder]


def _names_a_unet(description: Path) -> bool:
    try:
        return "unet" in json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):  # a folder without one, or another model's
        return False


def _checkpoint_names() -> list[str]:
    if not CHECKPOINTS.is_dir():
        return []
    files = (path for pattern in ("*", "*/*", "*/*/*") for path in CHECKPOINTS.glob(pattern))
    return sorted(path.relative_to(CHECKPOINTS).as_posix() for path in files if path.suffix in SUFFIXES)


def is_below(name: str) -> bool:
    """Whether a name, which a graph from anywhere may bring, stays below the folder that it is looked for in.

    Links in that folder are its owner's and are followed.
    """
    path = Path(name)
    return bool(path.parts) and not path.anchor and ".." not in path.parts and "\0" not in name


def _in_host(name: str) -> Path | None:
    if not is_below(name):
        return None
    if not name.endswith("/"):
        return host.model_file(name)
    return next((root / name for root in host.model_roots() if (root / name).is_dir()), None)


def _in_checkpoints(name: str) -> Path | None:
    path = CHECKPOINTS / name.removeprefix(PREFIX)
    return path if name.startswith(PREFIX) and is_below(name) and path.exists() else None


def _found(what: str, name: str, *places: Path | None) -> Path:
    found = next((place for place in places if place is not None), None)
    if found is None:
        raise ModelNotFoundError(GONE.format(what=what, name=name))
    return found


def _usual(companion: str) -> Path | None:
    """A folder of that name in one of the models/latentsync folders."""
    return next((root / companion for root in host.model_roots() if (root / companion).is_dir()), None)


def _usual_vae() -> Path | None:
    named = (name for name in host.model_names("vae") if Path(name).name.startswith(USUAL_VAES))
    name = next(named, None)
    return _usual("vae") or (None if name is None else host.model_file(name, "vae"))


def _bundled_files() -> "ModelFiles":
    from ..latentsync.model.loading import bundled_model

    return bundled_model()
