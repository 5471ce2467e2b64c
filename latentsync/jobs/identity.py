"""What makes two runs the same job: all that the latents of their chunks depend on, by content and not by name."""

import dataclasses
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from ..faces.finder import FaceFinder
from ..files import sha256_of
from ..model.loading import LipSyncModel
from ..options import LipSyncOptions
from ..run_facts import run_facts
from ..speakers import Speaker

PACKAGE = Path(__file__).parents[1]


def job_facts(
    video_path: str | Path,
    speakers: Sequence[Speaker],
    model: LipSyncModel,
    options: LipSyncOptions,
    finder: FaceFinder,
) -> dict | None:
    """Plain values that are equal for equal jobs; None where a model cannot be told from others.

    Neither what comes after the U-Net counts (restoration, protecting masks, another sound for the result) nor the
    names of files.
    """
    networks = {name: _network(getattr(model, name)) for name in ("vae", "whisper")}
    known = run_facts(model, options, None)
    known["model"].pop("name")
    files = known["model"].pop("files")
    networks["unet"] = sorted(files.values()) or _network(model.unet)
    if None in networks.values():
        return None
    return {
        "program": {**known["versions"], "sources": _program()},
        "device": known["device"],
        "threads": known["threads"],  # which sums are rounded by
        "dtypes": [
            known["dtype"],
            model.low_memory,
            *sorted({str(parameter.dtype) for parameter in model.unet.parameters()}),
        ],
        "model": {
            **known["model"],
            **networks,
            "prediction_type": model.prediction_type,
            "latents": repr(model.latents),
        },
        "video": sha256_of(video_path),
        "speakers": [[_face(speaker.face), sha256_of(speaker.audio_path)] for speaker in speakers],
        "finder": type(finder).__name__,
        "options": {field.name: str(getattr(options, field.name)) for field in dataclasses.fields(options)},
    }


def _network(network: object) -> str | None:
    """Digest of the weights; None for what is no module of PyTorch's, such as a host's VAE."""
    if not isinstance(network, nn.Module):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _face(choice: str) -> str:
    """How a face is chosen; a picture of a person by its content."""
    path = Path(choice)
    return sha256_of(path) if len(path.parts) and path.is_file() else choice


@lru_cache(maxsize=1)
def _program() -> str:
    """Digest of this package's sources: another release or a change in them may make other latents."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
