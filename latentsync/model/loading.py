"""Which model files belong together, where they are looked for, and loading them, with an adapter for one speaker."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from ..errors import CheckpointError, ForeignCheckpointError, IncompleteCheckpointError, ModelNotFoundError, OptionError
from ..files import parse_json, read_json, sha256_of, shown
from ..given_paths import check_model
from ..model_files import ASSETS, Framing, checked_framing
from ..options import LipSyncOptions
from .checkpoints import UNetFacts, load_unet, resolve_resolution
from .device import cuda_dtype, has_fast_bfloat16, save_memory, suit_to_device
from .unet import LatentSyncUNet
from .vae import STABLE_DIFFUSION, Autoencoder, ImageAutoencoder, LatentSpace, load_draft_decoder, load_vae
from .weights import read_weights, some_names, write_weights
from .whisper import AudioEncoder, load_whisper

# LoRA adapters of the U-Net: low-rank changes of its attention layers, learned for one speaker.
#
# An adapter is one `.safetensors` file in peft's layout (`base_model.model.<layer>.lora_A.weight`), with peft's
# configuration in its metadata or in `adapter_config.json` beside it. It is merged into the weights, so that it costs
# nothing at inference: W + strength * alpha / r * B A.

PREFIX = "base_model.model."  # of peft's names
CONFIG_FIELD, BASE_FIELD = "lora_adapter_config", "base_sha256"  # of the metadata
CONFIG_FILE = "adapter_config.json"
KEY = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_(A|B)(?:\.default)?\.weight$")
# Settings of peft that change what the tensors mean, and the values that leave them alone.
PLAIN = {"use_dora": (False, None), "bias": ("none", None), "modules_to_save": (None, []), "lora_bias": (False, None)}
PLAIN_NAME = re.compile(r"[\w.]+")
MAX_ALPHA = 1e6


@dataclass(frozen=True)
class LoRA:
    """layers: name in the U-Net -> A (r, inputs) and B (outputs, r); scales: alpha / r of each, or alpha / sqrt(r)."""

    name: str
    layers: dict[str, tuple[Tensor, Tensor]]
    scales: dict[str, float]
    base_sha256: str | None = None  # of the U-Net file it was trained on, where known


def read_lora(path: str | Path) -> LoRA:
    """Read an adapter. Raises ModelNotFoundError and CheckpointError's subclasses."""
    path = Path(path)
    content, metadata = read_weights(path)
    matches = {key: KEY.match(key) for key in content}
    unknown = [key for key, match in matches.items() if match is None]
    if unknown or not content:
        raise ForeignCheckpointError(
            f"{path} is not an adapter in peft's layout: {len(unknown)} of its {len(content)} names are not "
            f"<layer>.lora_A.weight or lora_B.weight ({some_names(unknown)}). Expected one of train_lora."
        )
    halves: dict[str, dict[str, Tensor]] = {}
    for key, match in matches.items():
        if not isinstance(content[key], Tensor):
            raise ForeignCheckpointError(f"{path}: {key} is no tensor. Expected an adapter of train_lora.")
        halves.setdefault(match[1], {})[match[2]] = content[key]
    layers = {}
    for layer, pair in halves.items():
        if (
            set(pair) != {"A", "B"}
            or pair["A"].ndim != 2
            or pair["B"].ndim != 2
            or len(pair["A"]) != pair["B"].shape[1]
            or not len(pair["A"])
        ):
            raise IncompleteCheckpointError(
                f"{path}: the layer {layer} has {' and '.join(f'lora_{k} {tuple(v.shape)}' for k, v in pair.items())}; "
                "expected lora_A (r, inputs) and lora_B (outputs, r) of a linear layer. Make the adapter again."
            )
        layers[layer] = pair["A"], pair["B"]
    config = _read_config(path, metadata)
    scales = {layer: _scale(config, layer, len(pair[0]), path) for layer, pair in layers.items()}
    return LoRA(path.name, layers, scales, metadata.get(BASE_FIELD))


def merge_lora(unet: nn.Module, lora: LoRA, strength: float = 1.0) -> None:
    """Add the adapter to the U-Net's weights, in place. strength: 0, which changes no bit, to 1, as it was trained.

    Raises OptionError for another strength, IncompleteCheckpointError where a layer is not in the U-Net or has another
    shape; the U-Net is then as it was.
    """
    if not 0 <= strength <= 1:
        raise OptionError(f"the strength of the adapter is {strength:g}; expected 0, which is without it, to 1")
    modules = dict(unet.named_modules())
    faults = []
    for layer, (a, b) in lora.layers.items():
        module = modules.get(layer)
        if not isinstance(module, nn.Linear):
            faults.append(f"{layer} (not a linear layer of the U-Net)")
        elif module.weight.shape != (len(b), a.shape[1]):
            faults.append(f"{layer} {(len(b), a.shape[1])} instead of {tuple(module.weight.shape)}")
    if faults:
        raise IncompleteCheckpointError(
            f"{lora.name} does not fit this U-Net: {len(faults)} of its {len(lora.layers)} layers are not there or of "
            f"another size: {some_names(faults)}. Choose the model that the adapter was trained on."
        )
    if strength == 0:
        return
    for layer, (a, b) in lora.layers.items():
        weight = modules[layer].weight
        change = strength * lora.scales[layer] * (b.float() @ a.float())
        weight.data = (weight.data.float() + change.to(weight.device)).to(weight.dtype)  # not in place: may be mapped


def save_lora(path: str | Path, tensors: Mapping[str, Tensor], config: Mapping, base_sha256: str | None = None) -> None:
    """Write peft's tensors, with or without its prefix, and its configuration. Whole or not at all; OutputError."""
    named = {key if key.startswith(PREFIX) else PREFIX + key: tensor for key, tensor in tensors.items()}
    metadata = {CONFIG_FIELD: json.dumps(config, sort_keys=True)}
    write_weights(path, named, metadata | ({BASE_FIELD: base_sha256} if base_sha256 else {}))


def _read_config(path: Path, metadata: Mapping[str, str]) -> dict:
    beside = path.with_name(CONFIG_FILE)
    if CONFIG_FIELD in metadata:
        where = f"the metadata of {path}"
        config = parse_json(metadata[CONFIG_FIELD], told=where)
    elif beside.is_file():
        where, config = str(beside), read_json(beside, what=f"describes {path.name}")
    else:
        raise CheckpointError(
            f"{path} does not say its rank and alpha: neither its metadata nor {CONFIG_FILE} beside it has them. Keep "
            f"peft's {CONFIG_FILE} in the same folder."
        )
    if not isinstance(config, dict):
        raise CheckpointError(f"{where} is no configuration of peft. Make the adapter again.")
    odd = [f"{field} {shown(config[field])}" for field, plain in PLAIN.items() if config.get(field) not in plain]
    kind = config.get("peft_type", "LORA")
    if odd or kind != "LORA":
        raise ForeignCheckpointError(
            f"{path} is {shown(kind)} with {', '.join(odd) or 'other arithmetic'}; expected a "
            "plain LoRA of linear layers, as train_lora makes it."
        )
    return config


def _scale(config: Mapping, layer: str, rank: int, path: Path) -> float:
    """What peft multiplies B A by."""
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(PLAIN_NAME.fullmatch(name) for name in patterns):
        # peft takes them for regular expressions, which a file could make to run for years
        raise ForeignCheckpointError(f"{path} has alpha_pattern {shown(patterns)}; expected names of layers.")
    named = (value for name, value in patterns.items() if layer == name or layer.endswith(f".{name}"))
    alpha = next(named, config.get("lora_alpha"))
    if not isinstance(alpha, int | float) or not abs(alpha) <= MAX_ALPHA:
        raise CheckpointError(
            f"{path} has lora_alpha {shown(alpha)}; expected a number up to {MAX_ALPHA:g}. Make the adapter again."
        )
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


# Whole models

BUNDLED = ASSETS / "tiny"
BUNDLED_WHISPER = BUNDLED / "whisper" / "tiny.en.pt"
RELEASED_UNET_NAMES = ("latentsync_unet.safetensors", "latentsync_unet.pt")
WHISPER_OF_WIDTH = {384: "tiny.pt", 768: "small.pt"}
DECODERS = ("auto", "vae", "draft")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class ModelFiles:
    """The three parts of one model."""

    name: str
    unet: Path
    vae: Path
    whisper: Path  # a file, or a folder in which the U-Net's context width names the file
    blend_mask: str | None = None  # see LipSyncOptions
    is_trained: bool = True  # False: random weights, for tests, whose pictures are not judged (run/steps.py)
    draft_decoder: Path | None = None  # a folder, see model/vae.py; where it would be, if it is not there
    framing: Framing | None = None  # of the faces it was trained with, see faces/detect.py; None: as the U-Net's file
    assumed_framing: Framing = "insightface"  # says, or where that does not say it
    faces: str | None = None  # "drawn": what it was trained on alone
    defaults: Mapping[str, object] = field(default_factory=dict)  # of LipSyncOptions, where it has its own


@dataclass(frozen=True)
class LipSyncModel:
    """A loaded model: networks in eval mode, on one device and in one dtype (another VAE: its own)."""

    name: str
    unet: LatentSyncUNet
    vae: Autoencoder | ImageAutoencoder
    whisper: AudioEncoder
    resolution: int  # px, side of the aligned face
    device: torch.device
    dtype: torch.dtype
    warnings: tuple[str, ...] = ()
    blend_mask: str | None = None  # what suits the model, see LipSyncOptions
    prediction_type: str = "epsilon"  # what the U-Net's output means, see model/diffusion.py
    unet_path: Path | None = None  # the file it was read from
    lora_path: Path | None = None  # the adapter merged into the U-Net
    lora_strength: float = 1.0
    is_trained: bool = True  # see ModelFiles
    draft_decoder: AutoencoderTiny | None = None  # in place of the VAE's decoder
    low_memory: str = "none"  # see model/device.py
    framing: Framing = "insightface"  # of the faces it was trained with, see faces/detect.py
    faces: str | None = None  # see ModelFiles
    latents: LatentSpace = STABLE_DIFFUSION  # of the VAE that the U-Net was trained with
    defaults: Mapping[str, object] = field(default_factory=dict)  # see ModelFiles

    @property
    def faces_notice(self) -> str | None:
        """What to know of a model that was trained on drawn faces alone, where a clip is not known to show such."""
        if self.faces != "drawn":
            return None
        return (
            f"the model {self.name} is made for drawn faces: the mouth of a real person comes out as a smear. Released "
            "models are for real faces: python install.py --models latentsync-1.6"
        )


def bundled_model() -> ModelFiles:
    """The small model that comes with the package: made for drawn avatars, to try everything without a download."""
    return described_model(BUNDLED)


def described_model(folder: Path) -> ModelFiles:
    """A folder whose config.json names its files.

    One that does not name the framing of its faces is of the time when there was no other than the mesh's. Raises
    ModelNotFoundError or CheckpointError.
    """
    description = folder / "config.json"
    if not description.is_file():
        raise ModelNotFoundError(f"{folder} has no config.json; expected one that names unet, vae and whisper")
    try:
        names = read_json(description, what="describes a model")
        return ModelFiles(
            name=names["name"],
            unet=folder / names["unet"],
            vae=folder / names["vae"],
            whisper=folder / names["whisper"],
            blend_mask=names.get("blend_mask"),
            is_trained=names.get("trained", True) is not False,
            draft_decoder=folder / names["draft_decoder"] if "draft_decoder" in names else None,
            framing=checked_framing(names["framing"], description) if "framing" in names else None,
            assumed_framing="mesh",
            faces=names.get("faces"),
            defaults=_checked_defaults(**names.get("defaults", {})),
        )
    except (OptionError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{description} does not describe a model ({type(error).__name__}: {error}); "
            "expected the fields name, unet, vae and whisper. Repair it."
        ) from error


def _checked_defaults(**defaults: object) -> dict[str, object]:
    LipSyncOptions(**defaults)
    return defaults


def model_in(folder: Path) -> ModelFiles | None:
    """The model of a folder: in the released layout (latentsync_unet.pt, whisper/, vae/), else as its config.json says.

    None where it has neither. In the released layout a config.json only describes the U-Net, e.g. its resolution.
    """
    for name in RELEASED_UNET_NAMES:
        if (folder / name).is_file():
            return model_of_unet(folder / name)
    return described_model(folder) if (folder / "config.json").is_file() else None


def model_of_unet(unet: Path, checkpoints: Path | None = None) -> ModelFiles:
    """A U-Net file with the vae/, whisper/ and taesd/ beside it or, where it has none, in ``checkpoints``."""
    homes = [unet.parent] if checkpoints is None else [unet.parent, checkpoints]

    def companion(name: str) -> Path:
        return next((home / name for home in homes if (home / name).exists()), unet.parent / name)

    parts = {"vae": companion("vae"), "whisper": companion("whisper"), "draft_decoder": companion("taesd")}
    return ModelFiles(name=unet.name, unet=unet, **parts)


def find_model(choice: str | Path | None, checkpoints: Path) -> ModelFiles:
    """The files of the wanted model.

    choice: None for the best there is (the one in ``checkpoints``, else the bundled one), "tiny" for the bundled one, a
    folder with a config.json or in the released layout, or a U-Net file with vae/ and whisper/ beside it or in
    ``checkpoints``. Raises ModelNotFoundError and CheckpointError.
    """
    if choice is None:
        return model_in(checkpoints) or bundled_model()
    if str(choice) == "tiny":
        return bundled_model()
    check_model(choice)
    path = Path(choice)
    if path.is_dir():
        if found := model_in(path):
            return found
        raise ModelNotFoundError(
            f"the folder {path} holds no model; expected a config.json or {' or '.join(RELEASED_UNET_NAMES)} in it"
        )
    return model_of_unet(path, checkpoints)


def load_model(
    files: ModelFiles,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    resolution: int | None = None,
    lora: str | Path | None = None,
    lora_strength: float = 1.0,
    decoder: str = "vae",
    low_memory: str = "none",
) -> LipSyncModel:
    """Load U-Net, VAE and Whisper and check that they belong together.

    lora: an adapter file (see `read_lora`), merged into the U-Net with that strength, 0 to 1. decoder: "draft" is the
    model's draft decoder, "auto" that if it is there. low_memory: how the U-Net's weights are kept, see device.py.

    The released U-Nets were trained on the multilingual tiny Whisper: the bundled English one has the same shape and
    other features, so it is never put in its place. Raises ModelNotFoundError and CheckpointError's subclasses.
    """
    unet, facts = load_unet(files.unet, device=device, dtype=dtype)
    side = resolve_resolution(files.unet, resolution, facts)
    warnings = (side.warning,) if side.warning else ()
    if lora is not None:
        adapter = read_lora(lora)
        merge_lora(unet, adapter, lora_strength)
        if adapter.base_sha256 not in (None, sha256_of(files.unet)):
            warnings += (f"{adapter.name} was trained on another U-Net than {files.unet.name}; it may not suit it",)
    vae = load_vae(files.vae, device=device, dtype=dtype)
    latents = LatentSpace.of(vae.config)
    check_latents(files.unet, unet, facts, files.vae, latents)
    if side.value % latents.ratio:
        raise OptionError(
            f"the resolution is {side.value}; expected a multiple of {latents.ratio}, the px of a latent of {files.vae}"
        )
    suit_to_device(unet, device, dtype)
    suit_to_device(vae, device, dtype)
    save_memory(unet, low_memory, torch.device(device), dtype)
    return LipSyncModel(
        name=files.name,
        unet=unet,
        vae=vae,
        whisper=_load_whisper(files, facts, device),
        resolution=side.value,
        device=torch.device(device),
        dtype=dtype,
        warnings=warnings,
        blend_mask=files.blend_mask,
        prediction_type=facts.prediction_type,
        unet_path=files.unet,
        lora_path=None if lora is None else Path(lora),
        lora_strength=lora_strength,
        is_trained=files.is_trained,
        draft_decoder=_load_decoder(files, decoder, latents, device, dtype),
        low_memory=low_memory,
        framing=files.framing or facts.framing or files.assumed_framing,
        faces=files.faces,
        latents=latents,
        defaults=files.defaults,
    )


def check_latents(
    unet_path: Path, unet: LatentSyncUNet, facts: UNetFacts, vae_path: Path, latents: LatentSpace
) -> None:
    """Raises CheckpointError where the U-Net was not trained on such latents."""
    known, taken = LatentSpace(unet.config.out_channels, facts.latent_ratio), unet.config.in_channels
    if (known.channels, known.ratio) != (latents.channels, latents.ratio) or taken != known.conditioned_channels:
        raise CheckpointError(
            f"the VAE {vae_path} gives {latents}; the U-Net {unet_path} works on {known}, with {taken} channels in. "
            "Expected the VAE that it was trained with, sd-vae-ft-mse for released ones."
        )


def _load_decoder(
    files: ModelFiles, decoder: str, latents: LatentSpace, device, dtype: torch.dtype
) -> AutoencoderTiny | None:
    if decoder not in DECODERS:
        raise OptionError(f"decoder is {decoder!r}; expected one of {', '.join(DECODERS)}")
    folder = files.draft_decoder
    if decoder == "vae" or (decoder == "auto" and not (folder and folder.is_dir())):
        return None
    if folder is None:
        raise OptionError(f"the model {files.name} has no draft decoder; choose decoder 'vae' or 'auto'")
    loaded = load_draft_decoder(folder, device=device, dtype=dtype)
    known = LatentSpace.of(loaded.config)
    if (known.channels, known.ratio) != (latents.channels, latents.ratio):
        raise CheckpointError(
            f"the draft decoder {folder} decodes {known}; the model {files.name} has {latents}. Put the one made for "
            "its VAE there, or decode with the VAE"
        )
    return loaded


def _load_whisper(files: ModelFiles, facts: UNetFacts, device: torch.device | str) -> AudioEncoder:
    path = whisper_file(files, facts)
    whisper = load_whisper(path, device=device, dtype=torch.float32)
    if whisper.width != facts.cross_attention_dim:
        raise CheckpointError(
            f"{files.unet} takes audio features of width {facts.cross_attention_dim}, but the Whisper model {path} "
            f"gives {whisper.width}; expected {WHISPER_OF_WIDTH.get(facts.cross_attention_dim, 'another model')}"
        )
    if path != files.whisper and whisper.multilingual is False:
        raise CheckpointError(
            f"{path} is an English-only Whisper, which gives other features and so wrong lips; {files.unet.name} was "
            f"trained with OpenAI's multilingual {path.name}. Put that one there."
        )
    return whisper


def whisper_file(files: ModelFiles, facts: UNetFacts) -> Path:
    """The Whisper that belongs to a U-Net. Raises CheckpointError and ModelNotFoundError."""
    if files.whisper.is_file() or files.whisper.suffix:
        return files.whisper
    name = WHISPER_OF_WIDTH.get(facts.cross_attention_dim)
    if name is None:
        raise CheckpointError(
            f"{files.unet} takes audio features of width {facts.cross_attention_dim}; known are 384 (Whisper tiny) and "
            "768 (Whisper small)"
        )
    path = files.whisper / name
    if not path.is_file():
        raise ModelNotFoundError(
            f"{files.unet.name} needs OpenAI's multilingual Whisper {name} at {path}, and it is not there. "
            f"`python install.py --models whisper{'-small' if name == 'small.pt' else ''}` fetches it; "
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
    """ "auto" suits the device: float16 on a card that is fast with it (device.card_dtype), bfloat16 on a CPU that
    multiplies it, else float32. Other names: DTYPES. Raises OptionError.
    """
    if name == "auto" and device.type == "cuda":
        return cuda_dtype(device)
    if name == "auto":
        return torch.bfloat16 if device.type == "cpu" and has_fast_bfloat16() else torch.float32
    if name not in DTYPES:
        raise OptionError(f"unknown dtype {name!r}; choose auto, {', '.join(DTYPES)}")
    return DTYPES[name]
