"""The standard networks that some metrics need: local files, never downloaded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelNotFoundError
from ..given_paths import given_path

VARIABLE = "LATENTSYNC_METRIC_WEIGHTS"  # folders, as in PATH


@dataclass(frozen=True)
class NetworkFile:
    """names: of the file, any one will do; holds: the network; published: where."""

    names: tuple[str, ...]
    holds: str
    published: str


INCEPTION = NetworkFile(
    ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
    "InceptionV3 of TensorFlow's 2015 release, which FID is defined by",
    "the release fid_weights of github.com/mseitzer/pytorch-fid, or v0.2.0 of github.com/toshas/torch-fidelity",
)
VGG16 = NetworkFile(
    ("vgg16-397923af.pth",),
    "VGG16 of torchvision, for LPIPS",
    "the folder auxiliary of huggingface.co/ByteDance/LatentSync-1.6, or download.pytorch.org/models",
)
I3D = NetworkFile(
    ("i3d_torchscript.pt",),
    "I3D trained on Kinetics-400, for FVD",
    "the folder auxiliary of huggingface.co/ByteDance/LatentSync-1.6, or StyleGAN-V's repository",
)
SYNCNET_V2 = NetworkFile(
    ("syncnet_v2.model",),
    "the original SyncNet, for LSE-C and LSE-D",
    "the folder auxiliary of huggingface.co/ByteDance/LatentSync-1.6, or robots.ox.ac.uk/~vgg/software/lipsync",
)
S3FD = NetworkFile(
    ("sfd_face.pth",),
    "the face detector S3FD",
    "the folder auxiliary of huggingface.co/ByteDance/LatentSync-1.6, or robots.ox.ac.uk/~vgg/software/lipsync",
)
ARCFACE = NetworkFile(
    ("w600k_r50.onnx", "glintr100.onnx"),
    "ArcFace",
    "InsightFace's model packs buffalo_l and antelopev2 (github.com/deepinsight/insightface)",
)
STABLE_SYNCNET = NetworkFile(
    ("stable_syncnet.pt",),
    "LatentSync's StableSyncNet",
    "huggingface.co/ByteDance/LatentSync-1.6",
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
