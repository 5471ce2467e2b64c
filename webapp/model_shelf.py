"""Which models a visitor can choose from, and the one that is in memory."""

import gc
import threading
from pathlib import Path

import torch

from latentsync.errors import LatentSyncError, OptionError
from latentsync.faces.tracking import FaceTracker
from latentsync.models import LipSyncModel, choose_device, choose_dtype, find_model, load_model, model_in
from latentsync.restoration.restorer_files import OFFICIAL, find_restorer
from latentsync.restoration.restorers import Restorer, load_restorer

from .settings import AppSettings

BUNDLED, RELEASED, NAMED = "tiny", "checkpoints", "--model"  # keys of the models
NO_RESTORER = "none"


class ModelShelf:
    """Visitors choose by keys of these lists and never name a file. One model and one restorer are in memory."""

    def __init__(self, settings: AppSettings):
        """Raises OptionError for a device that is not there, ModelNotFoundError for a named model."""
        self._checkpoints = settings.checkpoints
        self.device = choose_device(settings.device)
        self._dtype, self._is_free = choose_dtype(settings.dtype, self.device), settings.dtype == "auto"
        self._lock = threading.Lock()
        self._model: tuple[tuple, LipSyncModel] | None = None
        self._restorer: tuple[tuple, Restorer] | None = None
        self._finder: FaceTracker | None = None
        named = {} if settings.model is None else {NAMED: settings.model}
        if named:
            find_model(settings.model, self._checkpoints)
        released, *others = self._folders()
        first = {} if released is None else {RELEASED: released}
        more = {f"{RELEASED}/{folder.name}": folder for folder in others}
        self._choices: dict[str, str | Path] = {**named, **first, BUNDLED: BUNDLED, **more}

    def _folders(self) -> list[Path | None]:
        """The folder of released models, None where it holds none, and those of its own folders that do."""
        if not self._checkpoints.is_dir():
            return [None]
        inside = sorted(path for path in self._checkpoints.iterdir() if path.is_dir())
        released = self._checkpoints if _holds_model(self._checkpoints) else None
        return [released, *(folder for folder in inside if _holds_model(folder))]

    @property
    def models(self) -> list[tuple[str, str]]:
        """(what is shown, key); the first is the one to begin with."""
        return [(self._label(key, choice), key) for key, choice in self._choices.items()]

    def _label(self, key: str, choice: str | Path) -> str:
        if key == BUNDLED:
            return "Small model for drawn faces (bundled)"
        return f"{find_model(choice, self._checkpoints).name} ({key})"

    def model(self, key: str, full_precision: bool = False) -> LipSyncModel:
        """Loaded now if it is not the one in memory, which then goes first. Raises LatentSyncError's subclasses.

        full_precision: float32, unless whoever started the app has chosen another.
        """
        with self._lock:
            if key not in self._choices:
                raise OptionError(f"there is no model {key!r}; choose one of the list")
            dtype = torch.float32 if full_precision and self._is_free else self._dtype
            if self._model is None or self._model[0] != (key, dtype):
                self._model = None
                self._free()
                files = find_model(self._choices[key], self._checkpoints)
                self._model = (key, dtype), load_model(files, device=self.device, dtype=dtype)
            return self._model[1]

    @property
    def restorers(self) -> list[tuple[str, str]]:
        """(what is shown, key): none, the bundled one, and those whose files are there."""
        shown = [("None", NO_RESTORER), ("For drawn faces (bundled)", "tiny")]
        licences = {"CodeFormer": "CodeFormer (non-commercial use only)"}
        return shown + [(licences.get(name, name), name) for name in OFFICIAL if self._has(name)]

    def _has(self, restorer: str) -> bool:
        try:
            return find_restorer(restorer, [self._checkpoints]).is_file()
        except LatentSyncError:
            return False

    def restorer(self, key: str, fidelity: float) -> Restorer | None:
        """As `model`; None for none. fidelity: of CodeFormer, 0..1."""
        with self._lock:
            if key == NO_RESTORER:
                return None
            if key not in (known for _, known in self.restorers):
                raise OptionError(f"there is no restorer {key!r}; choose one of the list")
            if self._restorer is None or self._restorer[0] != (key, fidelity):
                self._restorer = None
                self._free()
                loaded = load_restorer(
                    key, folders=[self._checkpoints], device=self.device, dtype=self._dtype, fidelity=fidelity
                )
                self._restorer = (key, fidelity), loaded
            return self._restorer[1]

    def finder(self) -> FaceTracker:
        """Finds faces; small, and in memory from its first use on."""
        with self._lock:
            self._finder = self._finder or FaceTracker(self.device)
            return self._finder

    def _free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _holds_model(folder: Path) -> bool:
    try:
        return model_in(folder) is not None
    except LatentSyncError:  # its description is damaged
        return False
