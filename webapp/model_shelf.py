"""Which models a visitor can choose from, and the one that is in memory."""

import gc
import logging
import threading
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from latentsync.cli.networks import NetworkChoice, load_chosen_restorer, load_networks
from latentsync.errors import LatentSyncError, OptionError
from latentsync.faces.finder import FaceTracker
from latentsync.model.device import free_unused
from latentsync.model.loading import LipSyncModel, choose_device, find_model, model_in
from latentsync.model_files import OFFICIAL, find_restorer
from latentsync.presets import DEFAULT_PRESET
from latentsync.restoration.restorers import Restorer

from .settings import AppSettings

logger = logging.getLogger(__name__)

BUNDLED, RELEASED, NAMED = "tiny", "checkpoints", "--model"  # keys of the models
NO_RESTORER = "none"


class ModelShelf:
    """Visitors choose by keys of these lists and never name a file. One model and one restorer are in memory."""

    def __init__(self, settings: AppSettings):
        """Raises OptionError for a device that is not there, ModelNotFoundError for a named model."""
        self._settings, self._checkpoints = settings, settings.checkpoints
        self.device = choose_device(settings.device)
        self._lock = threading.Lock()
        self._model: tuple[NetworkChoice, LipSyncModel] | None = None
        self._restorer: tuple[NetworkChoice, Restorer] | None = None
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

    def model(self, key: str, preset: str) -> LipSyncModel:
        """Loaded now if it is not the one in memory, which then goes first. Raises LatentSyncError's subclasses."""
        choice = self._choice(preset, model=self._named(key))
        with self._lock:
            if self._model is None or self._model[0] != choice:
                self._model = None
                self._free()
                self._model = choice, load_networks(choice, logger.info).model
            return self._model[1]

    def defaults(self, key: str) -> Mapping[str, object]:
        """What suits the model better than the defaults of all. Raises LatentSyncError's subclasses."""
        return find_model(self._named(key), self._checkpoints).defaults

    def _named(self, key: str) -> str | Path:
        if key not in self._choices:
            raise OptionError(f"there is no model {key!r}; choose one of the list")
        return self._choices[key]

    def _choice(self, preset: str, model: str | Path = BUNDLED, superres: str = NO_RESTORER, fidelity: float = 0.5):
        """What is loaded for a run, as the command line would. Raises OptionError."""
        return NetworkChoice.of(
            Namespace(
                preset=preset,
                model=str(model),
                checkpoints=self._checkpoints,
                resolution=None,
                lora=None,
                lora_strength=1.0,
                device=self._settings.device,
                dtype=self._settings.dtype,
                decoder="auto",
                low_memory=self._settings.low_memory,
                det_model=None,
                landmark_model=None,
                superres=superres,
                sr_backend="spandrel",
                codeformer_fidelity=fidelity,
            )
        )

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
        if key not in (known for _, known in self.restorers):
            raise OptionError(f"there is no restorer {key!r}; choose one of the list")
        if key == NO_RESTORER:
            return None
        choice = self._choice(DEFAULT_PRESET, superres=key, fidelity=fidelity)
        with self._lock:
            if self._restorer is None or self._restorer[0] != choice:
                self._restorer = None
                self._free()
                self._restorer = choice, load_chosen_restorer(choice)
            return self._restorer[1]

    def finder(self) -> FaceTracker:
        """Finds faces; small, and in memory from its first use on."""
        with self._lock:
            self._finder = self._finder or FaceTracker(self.device)
            return self._finder

    def _free(self) -> None:
        gc.collect()
        free_unused()


def _holds_model(folder: Path) -> bool:
    try:
        return model_in(folder) is not None
    except LatentSyncError:  # its description is damaged
        return False
