"""What is loaded for a run, and the request of a run that command line, batch, page and nodes fill alike."""

import gc
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from .errors import ModelNotFoundError
from .faces.detectors import load_detector
from .faces.finder import FaceFinder
from .given_paths import CHECKPOINTS
from .model import loading
from .model.checkpoints import check_resolution
from .model.device import format_warning, free_unused
from .model_files import find_restorer
from .options import LipSyncOptions
from .presets import DEFAULT_PRESET, decide, network_formats
from .restoration.restorers import Restorer, load_restorer
from .run.resume import asked_facts, content
from .run.speech import Speaker

Say = Callable[[str], None]  # shows the user one line
RESTORER_FIELDS = ("superres", "sr_backend", "codeformer_fidelity", "checkpoints", "device", "dtype")
FINDER_FIELDS = ("det_model", "landmark_model", "device")
PLACES = ("model", "checkpoints")  # where models are: what they are counts


@dataclass(frozen=True)
class ModelChoice:
    """Everything that loading depends on, by the names of the command line's options."""

    model: str | Path | None = None  # see loading.find_model
    checkpoints: Path = CHECKPOINTS
    resolution: int | None = None
    lora: Path | None = None
    lora_strength: float = 1.0
    device: str = "auto"
    dtype: str = "auto"
    decoder: str = "vae"
    low_memory: str = "none"
    det_model: Path | None = None
    landmark_model: Path | None = None
    superres: str = "none"
    sr_backend: str = "spandrel"
    codeformer_fidelity: float = 0.5

    @classmethod
    def for_preset(cls, preset: str, *, dtype: str = "auto", decoder: str = "auto", **values) -> "ModelChoice":
        """Return the choice with number format and decoder as the preset has them, where they are left to it."""
        dtype, decoder = network_formats(preset, dtype, decoder)
        return cls(dtype=dtype, decoder=decoder, **values)

    def check(self) -> None:
        """Raise OptionError for what contradicts itself."""
        if self.resolution is not None:
            check_resolution(self.resolution)

    def check_files(self) -> None:
        """See that all files are there, without reading them. Raises ModelNotFoundError, CheckpointError."""
        for path in self.files():
            if not path.exists():
                raise ModelNotFoundError(f"there is no {path}; expected a model's file. See docs/models.md")

    def files(self) -> list[Path]:
        """Return all files and folders that are read. Raises ModelNotFoundError, CheckpointError."""
        model = self.model_files()
        chosen = [model.unet, model.vae, model.whisper, self.lora, self.det_model, self.landmark_model]
        chosen += [model.draft_decoder] if self.decoder == "draft" else []
        if self.superres != "none":
            chosen.append(find_restorer(self.superres, [self.checkpoints]))
        return [path for path in chosen if path is not None]

    def model_files(self) -> loading.ModelFiles:
        """Find the lip-sync model. Raises ModelNotFoundError, CheckpointError."""
        return loading.find_model(self.model, self.checkpoints)


@dataclass(frozen=True)
class RunRequest:
    """One run, see engine.run: what is read and written, and how.

    speakers         who says what; output_audio, protect: see engine.lip_sync
    models           what to load; None where a host has loaded it
    measure_opening  whether the report has the mouth's opening of each finished frame
    keep_faces       whether another run on the same video takes from the user's cache folder where the faces are
    keep_work        whether an equal run goes on where this one is interrupted; job_dir: where that is kept, None for
                     the user's cache folder; resume: whether this run may go on with another
    threads          of the CPU for all networks; None for what suits them
    """

    video_path: Path
    speakers: tuple[Speaker, ...]
    video_out_path: Path
    options: LipSyncOptions
    models: ModelChoice | None = None
    output_audio: Path | None = None
    protect: Path | None = None
    measure_opening: bool = False
    keep_faces: bool = True
    keep_work: bool = True
    job_dir: Path | None = None
    resume: bool = True
    threads: int | None = None

    def sounds(self) -> list[Path]:
        """Return the files that are heard."""
        return [*(Path(one.audio_path) for one in self.speakers), *([self.output_audio] if self.output_audio else [])]

    def inputs(self) -> list[Path]:
        """Return the media files that are read."""
        return [self.video_path, *self.sounds(), *([self.protect] if self.protect else [])]

    def identity(self, **more: object) -> str:
        """Return the SHA-256 of what the result depends on: content of all files that are read, models among them, and
        all settings.

        Names of files do not count, so that a moved folder is no change. more: what else counts. Raises
        ModelNotFoundError, OSError.
        """
        chosen = {name: content(value) for name, value in vars(self.models).items() if name not in PLACES}
        facts = asked_facts(self.video_path, self.speakers, self.options) | {
            "output_audio": content(self.output_audio),
            "protect": content(self.protect),
            "threads": self.threads,
            "models": chosen | {"files": [content(path) for path in self.models.files()]},
            **{name: content(value) for name, value in more.items()},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Session:
    """What is loaded for runs, see engine.run and engine.lip_sync.

    model     the networks, with their device and number format
    restorer  of generated faces; None for none
    finder    of faces; None for the built-in one
    preset    decides what `options` is not given
    """

    model: loading.LipSyncModel
    restorer: Restorer | None = None
    finder: FaceFinder | None = None
    preset: str = DEFAULT_PRESET

    def options(self, **values) -> LipSyncOptions:
        """Return the options of a run. values: fields of LipSyncOptions, which win over the preset and over the model's
        own defaults. Raises OptionError."""
        return decide(values, self.preset, explicit=set(values), model_defaults=self.model.defaults)


class SessionCache:
    """The latest session. Of the next one only what differs is loaded, after that of the one before was freed."""

    def __init__(self, say: Say = lambda text: None):
        """say: is given what was loaded, a line each."""
        self._say, self._lock = say, threading.Lock()
        self._loaded: dict[str, tuple[tuple, object]] = {}  # part -> what it was loaded by, and it

    def session(self, choice: ModelChoice) -> Session:
        """Raises LatentSyncError's subclasses."""
        parts = {"finder": FINDER_FIELDS, "restorer": RESTORER_FIELDS, "model": _model_fields()}
        loaders = {"finder": _load_finder, "restorer": _load_restorer, "model": _load_model}
        with self._lock:
            keys = {part: tuple(getattr(choice, name) for name in names) for part, names in parts.items()}
            gone = [part for part, (key, _) in self._loaded.items() if key != keys[part]]
            for part in gone:
                del self._loaded[part]
            if gone:
                gc.collect()
                free_unused()
            fresh = [part for part in parts if part not in self._loaded]
            for part in fresh:
                self._loaded[part] = keys[part], loaders[part](choice)
            session = Session(**{part: loaded for part, (_, loaded) in self._loaded.items()})
        for line in _lines(choice, session, fresh):
            self._say(line)
        return session


def load_models(
    model: str | Path | None = None, *, preset: str = DEFAULT_PRESET, say: Say | None = None, **choice
) -> Session:
    """Load what runs need, once for any number of them.

    Args:
        model: "tiny" for the bundled one, a folder or a U-Net file; None for the released one in the checkpoints folder
            where it is there, else the bundled one.
        preset: how much time is spent, see docs/performance.md: it decides settings that are not given.
        say: is given what was loaded, a line each.
        choice: other fields of ModelChoice, such as device="cuda", superres="GFPGAN" or lora=Path("one.safetensors").

    Raises:
        LatentSyncError: its subclasses, for models that are not there or do not fit, and for wrong values.
    """
    chosen = ModelChoice.for_preset(preset, model=model, **choice)
    chosen.check()
    return replace(SessionCache(say or (lambda text: None)).session(chosen), preset=preset)


def _model_fields() -> tuple[str, ...]:
    elsewhere = {*RESTORER_FIELDS, *FINDER_FIELDS} - {"checkpoints", "device", "dtype"}
    return tuple(field.name for field in fields(ModelChoice) if field.name not in elsewhere)


def _load_finder(choice: ModelChoice) -> FaceFinder | None:
    if choice.det_model is None:
        return None
    device = loading.choose_device(choice.device)
    return load_detector(device, det_model=choice.det_model, landmark_model=choice.landmark_model)


def _load_restorer(choice: ModelChoice) -> Restorer | None:
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


def _load_model(choice: ModelChoice) -> loading.LipSyncModel:
    device = loading.choose_device(choice.device)
    return loading.load_model(
        choice.model_files(),
        device=device,
        dtype=loading.choose_dtype(choice.dtype, device),
        resolution=choice.resolution,
        lora=choice.lora,
        lora_strength=choice.lora_strength,
        decoder=choice.decoder,
        low_memory=choice.low_memory,
    )


def _lines(choice: ModelChoice, session: Session, fresh: list[str]) -> Iterator[str]:
    """What a user is shown of the parts that were loaded now."""
    model, restorer = session.model, session.restorer
    if "model" in fresh:
        dtype = str(model.dtype).removeprefix("torch.")
        yield f"model: {model.name} ({model.unet_path}), {model.resolution} px, {model.device}, {dtype}"
        if choice.lora is not None:
            yield f"adapter: {choice.lora} at strength {choice.lora_strength:g}"
        if model.draft_decoder is not None:
            yield f"draft decoder: {choice.model_files().draft_decoder}"
    if "restorer" in fresh and restorer is not None:
        yield f"super-resolution: {restorer.name} ({restorer.path})"
    if "model" in fresh:
        if choice.model is None and model.unet_path.parent == loading.BUNDLED:
            yield f"note: no model in {choice.checkpoints}; the bundled one is taken"
        for warning in filter(None, (*model.warnings, format_warning(model.device, model.dtype))):
            yield f"warning: {warning}"
