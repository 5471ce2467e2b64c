"""What makes two runs the same: all that they depend on, by content and not by name.

Two questions are asked of it: whether latents can be used again (`job_facts`, with the program that made them), and
whether a result is still what would be made (session.RunRequest.identity, with what comes after the U-Net).
"""

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


def asked_facts(video_path: str | Path, speakers: Sequence[Speaker], options: LipSyncOptions) -> dict:
    """Return what counts for both as plain values: the media and the settings."""
    return {
        "video": sha256_of(video_path),
        "speakers": [[content(speaker.face), content(speaker.audio_path)] for speaker in speakers],
        "options": {field.name: str(getattr(options, field.name)) for field in dataclasses.fields(options)},
    }


def content(value: object) -> object:
    """Return the SHA-256 of the file, or of all files of the folder, at a path; of other values the text."""
    if isinstance(value, str | Path) and Path(value).is_file():
        return sha256_of(value)
    if isinstance(value, Path) and value.is_dir():
        return [sha256_of(file) for file in sorted(value.rglob("*")) if file.is_file()]
    return None if value is None else str(value)


def job_facts(
    video_path: str | Path,
    speakers: Sequence[Speaker],
    model: LipSyncModel,
    options: LipSyncOptions,
    finder: FaceFinder,
) -> dict | None:
    """Return plain values that are equal for equal jobs; None where a model cannot be told from others.

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
        "finder": type(finder).__name__,
        **asked_facts(video_path, speakers, options),
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


@lru_cache(maxsize=1)
def _program() -> str:
    """Digest of this package's sources: another release or a change in them may make other latents."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
