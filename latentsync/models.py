"""Which model files belong together, where they are looked for, and loading them."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from .checkpoints import UNetFacts, load_unet, resolve_resolution
from .errors import CheckpointError, ModelNotFoundError, OptionError
from .unet import LatentSyncUNet
from .vae import load_vae
from .whisper import AudioEncoder, load_whisper

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ASSETS / "tiny"
BUNDLED_WHISPER = BUNDLED / "whisper" / "tiny.en.pt"
RELEASED_UNET_NAMES = ("latentsync_unet.safetensors", "latentsync_unet.pt")
WHISPER_OF_WIDTH = {384: "tiny.pt", 768: "small.pt"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ModelFiles:
    """The three files of one model; whisper None means: named by the U-Net's context width, beside it."""

    name: str
    unet: Path
    vae: Path
    whisper: Path | None = None


@dataclass(frozen=True)
class LipSyncModel:
    """A loaded model: networks in eval mode, on one device and in one dtype."""

    name: str
    unet: LatentSyncUNet
    vae: AutoencoderKL
    whisper: AudioEncoder
    resolution: int  # px, side of the aligned face
    device: torch.device
    dtype: torch.dtype
    warnings: tuple[str, ...] = ()


def bundled_model() -> ModelFiles:
    """The small model that comes with the package: made for drawn avatars, to try everything without a download."""
    return described_model(BUNDLED)


def described_model(folder: Path) -> ModelFiles:
    """A folder whose config.json names its files. Raises ModelNotFoundError or CheckpointError."""
    description = folder / "config.json"
    if not description.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json; expected one that names unet, vae and whisper")
    try:
        names = json.loads(description.read_text(encoding="utf-8"))
        return ModelFiles(
            name=names["name"],
            unet=folder / names["unet"],
            vae=folder / names["vae"],
            whisper=folder / names["whisper"],
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{description} does not describe a model: {error}; expected name, unet, vae, whisper"
        ) from error


def released_model(folder: Path) -> ModelFiles | None:
    """A folder in the reference's layout (latentsync_unet.pt, whisper/, vae/), or None where it has no U-Net."""
    for name in RELEASED_UNET_NAMES:
        if (folder / name).is_file():
            return _released(folder / name)
    return None


def _released(unet: Path) -> ModelFiles:
    return ModelFiles(name=unet.name, unet=unet, vae=unet.parent / "vae")


def find_model(choice: str | Path | None, checkpoints: Path) -> ModelFiles:
    """The files of the wanted model.

    choice: None for the best there is (the released layout in ``checkpoints``, else the bundled one), "tiny" for the
    bundled one, a folder with a config.json or in the released layout, or a U-Net file with vae/ and whisper/ beside it.
    Raises ModelNotFoundError.
    """
    if choice is None:
        return released_model(checkpoints) or bundled_model()
    if str(choice) == "tiny":
        return bundled_model()
    path = Path(choice)
    if path.is_dir():
        if (path / "config.json").is_file():
            return described_model(path)
        if found := released_model(path):
            return found
        raise ModelNotFoundError(
            f"the folder {path} holds no model; expected a config.json or {' or '.join(RELEASED_UNET_NAMES)} in it"
        )
    if path.is_file():
        return _released(path)
    raise ModelNotFoundError(f"there is no model at {path}; give 'tiny', a U-Net file or a folder with one")


def load_model(
    files: ModelFiles,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    resolution: int | None = None,
) -> LipSyncModel:
    """Load U-Net, VAE and Whisper and check that they belong together.

    The released U-Nets were trained on the multilingual tiny Whisper: the bundled English one has the same shape and
    other features, so it is never put in its place. Raises ModelNotFoundError and CheckpointError's subclasses.
    """
    unet, facts = load_unet(files.unet, device=device, dtype=dtype)
    side = resolve_resolution(files.unet, resolution, facts)
    whisper = load_whisper(_whisper_path(files, facts), device=device, dtype=torch.float32)
    if whisper.width != facts.cross_attention_dim:
        raise CheckpointError(
            f"{files.unet} takes audio features of width {facts.cross_attention_dim}, but the Whisper model beside it "
            f"gives {whisper.width}; expected {WHISPER_OF_WIDTH.get(facts.cross_attention_dim, 'another model')}"
        )
    return LipSyncModel(
        name=files.name,
        unet=unet,
        vae=load_vae(files.vae, device=device, dtype=dtype),
        whisper=whisper,
        resolution=side.value,
        device=torch.device(device),
        dtype=dtype,
        warnings=(side.warning,) if side.warning else (),
    )


def _whisper_path(files: ModelFiles, facts: UNetFacts) -> Path:
    if files.whisper is not None:
        return files.whisper
    name = WHISPER_OF_WIDTH.get(facts.cross_attention_dim)
    if name is None:
        raise CheckpointError(
            f"{files.unet} takes audio features of width {facts.cross_attention_dim}; known are 384 (Whisper tiny) and "
            "768 (Whisper small)"
        )
    path = files.unet.parent / "whisper" / name
    if not path.is_file():
        raise ModelNotFoundError(
            f"{files.unet.name} needs OpenAI's multilingual Whisper {name} at {path}, and it is not there. Put it there; "
            "the bundled tiny.en is another model and would give wrong lips."
        )
    return path


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" is CUDA, else Apple's MPS, else the CPU. Raises OptionError for a device that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(f"the device {name!r} cannot be used here ({error}); try auto or cpu") from error
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is float16 on CUDA and float32 elsewhere; see DTYPES for the names."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise OptionError(f"unknown dtype {name!r}; choose auto, {', '.join(DTYPES)}")
    return DTYPES[name]
