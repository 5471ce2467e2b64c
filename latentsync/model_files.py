"""Which model files there are, and where they lie: those that can be fetched, restorers, the metrics' networks, and
those that come with this package.

Needs nothing but Python's standard library, so that install.py can use it before anything is installed.
"""

import json
import os
import struct
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from .errors import ModelNotFoundError, OptionError
from .files import read_json
from .given_paths import given_path

# Which model files there are: those that can be fetched and where they lie, and those that come with this package.
#
# Needs nothing but Python's standard library, so that install.py can use it before anything is installed.

ASSETS = Path(__file__).parent / "assets"
MANIFEST = ASSETS / "downloads.json"
# By which points the faces were aligned that a model was trained with; faces/detect.py has the points.
Framing = Literal["insightface", "mesh"]
FRAMINGS: tuple[Framing, ...] = get_args(Framing)


@dataclass(frozen=True)
class Origin:
    """Where a network comes from.

    year    of its first publication
    source  its authors' page, or the file's address there
    sha256  of the file that is looked for first; None where none is known, or where it comes with this package
    """

    vendor: str
    licence: str
    year: int
    source: str
    sha256: str | None = None


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
    """A model by name, published by `vendor` in `year`; needs: names of the models without which it does not run."""

    name: str
    title: str
    vendor: str
    year: int
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
        vendor=entry["vendor"],
        year=entry["year"],
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


# Where restorers' files lie, and what to do where they do not.

BUNDLED_RESTORER = ASSETS / "restorer" / "tiny.safetensors"
# Of a folder that is searched, in this order: where the models' own programs and ComfyUI's packs put them.
SUBFOLDERS = ("", "auxiliary", "CodeFormer", "GFPGAN", "facerestore_models", "models/facerestore_models")


@dataclass(frozen=True)
class OfficialRestorer:
    """A restorer by name.

    architecture  spandrel's name of it
    files         their names, the best one first; origin: of that
    notice        for the user of a result, where the licence asks for it
    """

    architecture: str
    files: tuple[str, ...]
    origin: Origin
    notice: str = ""


OFFICIAL = {
    "GFPGAN": OfficialRestorer(
        "GFPGAN",
        ("GFPGANv1.4.pth", "GFPGANv1.3.pth"),
        Origin(
            "Tencent ARC Lab",
            "Apache-2.0",
            2021,
            "https://github.com/TencentARC/GFPGAN/releases/download/v1.3.0/GFPGANv1.4.pth",
            "e2cd4703ab14f4d01fd1383a8a8b266f9a5833dacee8e6a79d3bf21a1b6be5ad",
        ),
    ),
    "CodeFormer": OfficialRestorer(
        "CodeFormer",
        ("codeformer.pth", "codeformer-v0.1.0.pth"),
        Origin(
            "S-Lab, Nanyang Technological University",
            "S-Lab License 1.0",
            2022,
            "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0/codeformer.pth",
            "1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
        ),
        "CodeFormer's code and weights are under the S-Lab License 1.0: for non-commercial use only, this result "
        "included",
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


# The standard networks that some metrics need: local files, never downloaded. The hashes are those that other projects
# publish, which pin these files.

VARIABLE = "LATENTSYNC_METRIC_WEIGHTS"  # folders, as in PATH


@dataclass(frozen=True)
class NetworkFile:
    """names: of the file, any one will do; holds: the network; published: where, for the user; origin: of the first."""

    names: tuple[str, ...]
    holds: str
    published: str
    origin: Origin


_RELEASED = "the folder auxiliary of huggingface.co/ByteDance/LatentSync-1.6"

INCEPTION = NetworkFile(
    ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
    "InceptionV3 of TensorFlow's 2015 release, which FID is defined by",
    "the release fid_weights of github.com/mseitzer/pytorch-fid, or v0.2.0 of github.com/toshas/torch-fidelity",
    Origin(
        "Google (TensorFlow)",
        "Apache-2.0",
        2015,
        "https://github.com/mseitzer/pytorch-fid",
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
)
VGG16 = NetworkFile(
    ("vgg16-397923af.pth",),
    "VGG16 of torchvision, for LPIPS",
    f"{_RELEASED}, or download.pytorch.org/models",
    Origin(
        "PyTorch (torchvision), after the Visual Geometry Group, Oxford",
        "BSD-3-Clause",
        2014,
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
)
I3D = NetworkFile(
    ("i3d_torchscript.pt",),
    "I3D trained on Kinetics-400, for FVD",
    f"{_RELEASED}, or StyleGAN-V's repository",
    Origin(
        "DeepMind, converted by the authors of StyleGAN-V",
        "Apache-2.0",
        2017,
        "https://github.com/universome/stylegan-v",
        "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
    ),
)
SYNCNET_V2 = NetworkFile(
    ("syncnet_v2.model",),
    "the original SyncNet, for LSE-C and LSE-D",
    f"{_RELEASED}, or robots.ox.ac.uk/~vgg/software/lipsync",
    Origin(
        "Visual Geometry Group, Oxford",
        "MIT (the code); none is stated for the file",
        2016,
        "https://github.com/joonson/syncnet_python",
        "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
    ),
)
S3FD = NetworkFile(
    ("sfd_face.pth",),
    "the face detector S3FD",
    f"{_RELEASED}, or robots.ox.ac.uk/~vgg/software/lipsync",
    Origin(
        "Visual Geometry Group, Oxford, after Zhang et al.",
        "none is stated",
        2017,
        "https://github.com/joonson/syncnet_python",
        "d54a87c2b7543b64729c9a25eafd188da15fd3f6e02f0ecec76ae1b30d86c491",
    ),
)
ARCFACE = NetworkFile(
    ("w600k_r50.onnx", "glintr100.onnx"),
    "ArcFace",
    "InsightFace's model packs buffalo_l and antelopev2 (github.com/deepinsight/insightface)",
    Origin(
        "InsightFace",
        "non-commercial research only",
        2019,
        "https://github.com/deepinsight/insightface",
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
    ),
)
STABLE_SYNCNET = NetworkFile(
    ("stable_syncnet.pt",),
    "LatentSync's StableSyncNet",
    "huggingface.co/ByteDance/LatentSync-1.6",
    Origin("ByteDance", "OpenRAIL++", 2025, "https://huggingface.co/ByteDance/LatentSync-1.6"),
)


def weight_folders(given: Sequence[Path] = (), checkpoints: Path | None = None) -> list[Path]:
    """Where networks are looked for: the given folders, those of the environment variable, `checkpoints` with its
    `auxiliary`, where the release keeps them, and torch's own cache."""
    named = [given_path(name) for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]
    released = [checkpoints, checkpoints / "auxiliary"] if checkpoints else []
    return [*map(Path, given), *named, *released, _torch_home() / "hub" / "checkpoints"]


def _torch_home() -> Path:
    """The folder where torch.hub keeps what it has fetched, by its own rule and without torch."""
    cache = os.environ.get("XDG_CACHE_HOME", os.path.join("~", ".cache"))
    return Path(os.path.expanduser(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))))


def find_network(file: NetworkFile, folders: Sequence[Path]) -> Path:
    """Raises ModelNotFoundError, telling the file's name, where it is published and where to put it."""
    for folder in folders:
        for name in file.names:
            if (folder / name).is_file():
                return folder / name
    looked = folders[0] if folders else "a folder of networks"
    raise ModelNotFoundError(
        f"needs {' or '.join(file.names)} ({file.holds}). Get it from {file.published}, and put it into {looked}, "
        f"or the folder that --weights or {VARIABLE} names; nothing is downloaded"
    )


def checked_framing(framing: object, path: Path) -> Framing:
    """What the description of a model's file says. Raises OptionError for anything else than a framing."""
    if framing not in FRAMINGS:
        raise OptionError(
            f"The description of {path} has framing {str(framing)[:80]!r}; expected {' or '.join(FRAMINGS)}."
        )
    return framing
