"""What a run loads before it works: model, restorer, face finder; once for one run or for many."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ..errors import ModelNotFoundError
from ..faces.finder import FaceFinder
from ..faces.insightface import InsightFaceDetector
from ..model import loading
from ..model.checkpoints import check_resolution
from ..model.device import format_warning
from ..model_files import find_restorer
from ..presets import network_formats
from ..restoration.restorers import Restorer, load_restorer

Say = Callable[[str], None]  # tells the user one line


@dataclass(frozen=True)
class NetworkChoice:
    """Every option that loading depends on: runs of which these are equal share what is loaded."""

    model: str | None
    checkpoints: Path
    resolution: int | None
    lora: Path | None
    lora_strength: float
    device: str
    dtype: str
    decoder: str
    low_memory: str
    det_model: Path | None
    landmark_model: Path | None
    superres: str
    sr_backend: str
    codeformer_fidelity: float

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "NetworkChoice":
        values = {field.name: getattr(arguments, field.name) for field in fields(cls)}
        formats = network_formats(arguments.preset, arguments.dtype, arguments.decoder)
        values["dtype"], values["decoder"] = formats
        return cls(**values)

    def check(self) -> None:
        """Raises OptionError for what contradicts itself."""
        if self.resolution is not None:
            check_resolution(self.resolution)

    def check_files(self) -> None:
        """See that all files are there, without reading them. Raises ModelNotFoundError, CheckpointError."""
        for path in self.files():
            if not path.exists():
                raise ModelNotFoundError(f"there is no {path}; expected a model's file. See docs/models.md")

    def files(self) -> list[Path]:
        """All files and folders that are read. Raises ModelNotFoundError, CheckpointError."""
        model = loading.find_model(self.model, self.checkpoints)
        chosen = [model.unet, model.vae, model.whisper, self.lora, self.det_model, self.landmark_model]
        chosen += [model.draft_decoder] if self.decoder == "draft" else []
        if self.superres != "none":
            chosen.append(find_restorer(self.superres, [self.checkpoints]))
        return [path for path in chosen if path is not None]


@dataclass(frozen=True)
class Networks:
    """What was loaded."""

    model: loading.LipSyncModel
    restorer: Restorer | None
    finder: FaceFinder | None  # None: the built-in one


def load_networks(choice: NetworkChoice, say: Say) -> Networks:
    """Load and say what. Raises LatentSyncError's subclasses."""
    device = loading.choose_device(choice.device)
    dtype = loading.choose_dtype(choice.dtype, device)
    finder = None
    if choice.det_model is not None:
        finder = InsightFaceDetector(choice.det_model, choice.landmark_model, device=device)
    restorer = load_chosen_restorer(choice)
    files = loading.find_model(choice.model, choice.checkpoints)
    model = loading.load_model(
        files,
        device=device,
        dtype=dtype,
        resolution=choice.resolution,
        lora=choice.lora,
        lora_strength=choice.lora_strength,
        decoder=choice.decoder,
        low_memory=choice.low_memory,
    )
    say(
        f"model: {model.name} ({files.unet}), {model.resolution} px, {device}, "
        f"{str(model.dtype).removeprefix('torch.')}"
    )
    if choice.lora is not None:
        say(f"adapter: {choice.lora} at strength {choice.lora_strength:g}")
    if model.draft_decoder is not None:
        say(f"draft decoder: {files.draft_decoder}")
    if restorer is not None:
        say(f"super-resolution: {restorer.name} ({restorer.path})")
    if choice.model is None and files.unet.parent == loading.BUNDLED:
        say(f"note: no model in {choice.checkpoints}; the bundled one is taken")
    for warning in filter(None, (*model.warnings, format_warning(device, dtype))):
        say(f"warning: {warning}")
    return Networks(model, restorer, finder)


def load_chosen_restorer(choice: NetworkChoice) -> Restorer | None:
    """The restorer by itself, None for none. Raises LatentSyncError's subclasses."""
    if choice.superres == "none":
        return None
    device = loading.choose_device(choice.device)
    # Restorers are not known to bear bfloat16, which only the CPU's auto comes to.
    is_cpu = choice.dtype == "auto" and device.type == "cpu"
    dtype = torch.float32 if is_cpu else loading.choose_dtype(choice.dtype, device)
    return load_restorer(
        choice.superres,
        folders=[choice.checkpoints],
        device=device,
        dtype=dtype,
        fidelity=choice.codeformer_fidelity,
        backend=choice.sr_backend,
    )
