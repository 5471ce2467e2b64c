"""One visitor's run: from what was asked for to a folder of results."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentsync.errors import LatentSyncError
from latentsync.options import LipSyncOptions
from latentsync.run.engine import run
from latentsync.run.progress import Progress
from latentsync.run.report import LipSyncReport
from latentsync.session import RunRequest

from . import results
from .media_limits import check_length
from .messages import without_paths
from .model_cache import ModelCache
from .results import Results
from .run_queue import QueuedWork
from .settings import Limits

LOOK_EVERY = 1.0  # s between two looks at the face in work


@dataclass
class RunState:
    """What is shown of a run; the engine's threads write it. progress: None until the model is there; look: (S, S, 3)
    uint8 RGB, the face in work."""

    progress: Progress | None = None
    look: np.ndarray | None = None


@dataclass(frozen=True)
class RunResult:
    """A finished run. folder, source: names below that of the results."""

    folder: str
    source: str
    report: LipSyncReport
    options: LipSyncOptions

    def shown(self) -> dict:
        """For the player: the report, and how the page fetches the videos (web/js/report_panel.js)."""
        video, source = ({"subfolder": self.folder, "filename": name} for name in (results.VIDEO, self.source))
        files = {"video": video, "source": source, "pace": self.report.pace}
        return self.report.to_json() | files | {"source_start": self.options.start, "length": self.options.length}


@dataclass(frozen=True)
class Workshop:
    """What all runs share."""

    models: ModelCache
    results: Results
    limits: Limits

    def make(self, request: RunRequest, job: QueuedWork) -> RunResult:
        """Do what a visitor asked for, whose files were checked, in a folder of its own.

        Raises LatentSyncError's subclasses; then nothing is left.
        """
        state = job.state = RunState()
        session = self.models.session(request.models)
        folder = self.results.new()

        def on_progress(progress: Progress) -> None:
            state.progress = progress
            # What was checked is what the files' packets say; a run is stopped where even those were wrong.
            check_length("video", progress.frames_done / self.limits.fps, self.limits)

        def on_look(face: np.ndarray) -> None:
            state.look = face

        files = {sound: sound.name for sound in request.sounds()}
        try:
            source = self.results.keep_source(folder, request.video_path)
            files[source] = request.video_path.name
            report = run(
                session,
                replace(request, video_path=source, video_out_path=folder / request.video_out_path),
                on_progress=on_progress,
                should_stop=job.should_stop,
                on_preview=on_look,
                preview_interval=LOOK_EVERY,
            )
            report = _passed_on(report, files)
            report.write(folder / results.REPORT)
        except LatentSyncError as error:
            self.results.discard(folder)
            raise type(error)(without_paths(str(error), files)) from error
        except BaseException:
            self.results.discard(folder)
            raise
        return RunResult(folder.name, source.name, report, request.options)


def _passed_on(report: LipSyncReport, files: dict[Path, str]) -> LipSyncReport:
    """The report without the server's paths. files: what those in its warnings are to be called."""
    faces = tuple(replace(face, choice=Path(face.choice).name) for face in report.faces)
    return replace(report, faces=faces, warnings=[without_paths(warning, files) for warning in report.warnings])
