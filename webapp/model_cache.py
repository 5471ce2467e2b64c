"""Which models a visitor can choose from, and the one that is in memory."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from latentsync.errors import LatentSyncError, OptionError
from latentsync.faces.finder import FaceTracker
from latentsync.model.loading import choose_device, find_model, model_in
from latentsync.model_files import OFFICIAL, find_restorer
from latentsync.session import ModelChoice, Session, SessionCache

from .settings import AppSettings

logger = logging.getLogger(__name__)

BUNDLED, RELEASED, NAMED = "tiny", "checkpoints", "--model"  # keys of the models
NO_RESTORER = "none"


class ModelCache:
    """Visitors choose by keys of these lists and never name a file. One model and one restorer are in memory."""

    def __init__(self, settings: AppSettings):
        """Raises OptionError for a device that is not there, ModelNotFoundError for a named model."""
        self._settings, self._checkpoints = settings, settings.checkpoints
        self.device = choose_device(settings.device)
        self._lock, self._sessions = threading.Lock(), SessionCache(logger.info)
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

    def defaults(self, key: str) -> Mapping[str, object]:
        """What suits the model better than the defaults of all. Raises LatentSyncError's subclasses."""
        return find_model(self._named(key), self._checkpoints).defaults

    def _named(self, key: str) -> str | Path:
        if key not in self._choices:
            raise OptionError(f"there is no model {key!r}; choose one of the list")
        return self._choices[key]

    def choice(self, key: str, preset: str, restorer: str = NO_RESTORER, fidelity: float = 0.5) -> ModelChoice:
        """Return what is to be loaded for a run. fidelity: of CodeFormer, 0..1. Raises OptionError."""
        if restorer not in (known for _, known in self.restorers):
            raise OptionError(f"there is no restorer {restorer!r}; choose one of the list")
        return ModelChoice.for_preset(
            preset,
            model=self._named(key),
            checkpoints=self._checkpoints,
            device=self._settings.device,
            dtype=self._settings.dtype,
            low_memory=self._settings.low_memory,
            superres=restorer,
            codeformer_fidelity=fidelity if restorer == "CodeFormer" else 0.5,
        )

    def session(self, choice: ModelChoice) -> Session:
        """Return what was chosen, loaded now where it is not in memory. Raises LatentSyncError's subclasses."""
        return replace(self._sessions.session(choice), finder=self.finder())

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

    def finder(self) -> FaceTracker:
        """Finds faces; small, and in memory from its first use on."""
        with self._lock:
            self._finder = self._finder or FaceTracker(self.device)
            return self._finder


def _holds_model(folder: Path) -> bool:
    try:
        return model_in(folder) is not None
    except LatentSyncError:  # its description is damaged
        return False
