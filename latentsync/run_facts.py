"""What a result was made with, for its report: programs, model, settings."""

import dataclasses
import platform
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version

import torch

from . import __version__
from .files import sha256_of
from .model.device import thread_count
from .model.loading import LipSyncModel
from .options import LipSyncOptions
from .restoration.restorers import Restorer

PACKAGES = ("torch", "diffusers", "transformers", "av", "numpy", "opencv-python", "opencv-python-headless")


def run_facts(model: LipSyncModel, options: LipSyncOptions, restorer: Restorer | None) -> dict:
    """A dict of plain values: versions, device, model and restorer with their files' SHA-256, settings.

    Names of files are given without their folders, so that a report can be passed on.
    """
    return {
        "versions": {"latentsync": __version__, "python": platform.python_version(), **_packages()},
        "system": platform.platform(),
        "device": _device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": {part: thread_count(getattr(model, part)) for part in ("unet", "vae", "whisper")},
        "model": {
            "name": model.name,
            "resolution": model.resolution,
            "framing": model.framing,
            "files": _hashes(model),
            "lora": _lora(model),
        },
        "restorer": None if restorer is None else {"name": restorer.name, "sha256": restorer.sha256},
        "settings": {field.name: _plain(getattr(options, field.name)) for field in dataclasses.fields(options)},
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # one of the two opencv wheels, usually
    return found


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _hashes(model: LipSyncModel) -> dict[str, str]:
    return {} if model.unet_path is None else {model.unet_path.name: sha256_of(model.unet_path)}


def _lora(model: LipSyncModel) -> dict | None:
    path = model.lora_path
    return None if path is None else {"name": path.name, "strength": model.lora_strength, "sha256": sha256_of(path)}


def _plain(value):
    return float(value) if isinstance(value, Fraction) else value
