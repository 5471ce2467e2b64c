"""One lip-sync run: check everything that can be checked, then load, then work."""

import argparse
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from tqdm import tqdm

from ..errors import OptionError
from ..media.audio_reader import probe_audio
from ..media.output_file import check_output
from ..media.video_reader import exact_rate, probe_video
from ..model.device import check_count, own_threads
from ..options import SETTINGS, LipSyncOptions
from ..presets import decide
from ..run import engine
from ..run.engine import Progress
from ..run.report import LipSyncReport
from ..run.speech import Speaker
from ..session import ModelChoice, RunRequest, Say, Session, SessionCache
from ..sync.score import syncnet_for, with_sync
from .arguments import check_inputs, check_speech

# How far a run is, for someone who waits at a terminal or reads a log.


class ProgressBar:
    """A bar with frames per second and time left, on standard error.

    Frames come in chunks, with nothing in between for minutes on a slow machine. So the steps of the chunk in work
    count as shares of its frames, and the speed is the average of the run so far.
    """

    FORMAT = "{percentage:3.0f}%|{bar}| {desc} [{elapsed} gone, {remaining} left, {rate_noinv_fmt}]"

    def __init__(self):
        self._bar: tqdm | None = None  # until there is something to show, so that warnings before it have their lines
        self._interval = 0.1 if sys.stderr.isatty() else 10.0  # s; every line stays in a log
        self._shown = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._shown < self._interval and progress.frames_done < progress.frames_total:
            return
        self._shown = now
        if self._bar is None:
            look = {"bar_format": self.FORMAT, "dynamic_ncols": True, "file": sys.stderr}
            self._bar = tqdm(total=progress.frames_total, unit=" frames", smoothing=0, **look)
            self._bar.start_t -= progress.seconds  # counts from the run's begin
        self._bar.total = progress.frames_total
        self._bar.n = progress.fraction * progress.frames_total
        step = f", step {progress.step}/{progress.num_steps}" if progress.step else ""
        self._bar.set_description_str(f"{progress.frames_done}/{progress.frames_total} frames{step}", refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


# What the arguments of the command line mean to the library.


def request_of(arguments: argparse.Namespace, given: set[str]) -> RunRequest:
    """Return what is asked for. given: names of the explicit options. Raises OptionError, ModelNotFoundError."""
    models = models_of(arguments)
    return RunRequest(
        video_path=arguments.video_path,
        speakers=speakers_of(arguments, given),
        video_out_path=arguments.video_out_path,
        options=options_of(arguments, given, models.model_files().defaults),
        models=models,
        output_audio=arguments.output_audio,
        protect=arguments.protect,
        measure_opening=arguments.report is not None,
        keep_faces=not arguments.no_track_cache,
        job_dir=arguments.job_dir,
        resume=not arguments.no_resume,
        threads=arguments.threads,
    )


def models_of(arguments: argparse.Namespace) -> ModelChoice:
    """Return what is to be loaded."""
    values = {field.name: getattr(arguments, field.name) for field in fields(ModelChoice)}
    return ModelChoice.for_preset(arguments.preset, **values)


def options_of(
    arguments: argparse.Namespace, given: set[str], model_defaults: Mapping[str, object] | None = None
) -> LipSyncOptions:
    """Return the settings. model_defaults: see presets.decide."""
    rows = {row.option: row for row in SETTINGS.values() if row.group}
    values = {row.name: getattr(arguments, option) for option, row in rows.items()}
    values |= {row.name: values[row.name] != row.default for row in rows.values() if row.kind is bool}
    values["guidance_interval"] = tuple(arguments.guidance_interval)
    if arguments.fps is not None:
        values["fps"] = exact_rate(arguments.fps)
    if arguments.seed == -1:
        values["seed"] = secrets.randbelow(2**32)
    explicit = {rows[name].name for name in given & rows.keys()}
    return decide(values, arguments.preset, explicit=explicit, model_defaults=model_defaults or {})


def speakers_of(arguments: argparse.Namespace, given: set[str]) -> tuple[Speaker, ...]:
    """Return who speaks what. Raises OptionError."""
    check_speech(arguments)
    if arguments.track and "face" in given:
        raise OptionError("--face goes with --audio_path; with --track the face stands before the =")
    tracks = arguments.track or [(arguments.face, arguments.audio_path)]
    return tuple(Speaker(path, face) for face, path in tracks)


# The run


@dataclass(frozen=True)
class CheckedRun:
    """One run that was checked, and what the command line makes of it.

    report      file of the report, None for none; sync_score: in it, off, auto or the file of a SyncNet
    quiet       nothing is shown; verbose: also stack traces of what was foreseen
    any_seed    the seed was drawn
    """

    request: RunRequest
    report: Path | None = None
    sync_score: str = "off"
    quiet: bool = False
    verbose: bool = False
    any_seed: bool = False

    def outputs(self) -> list[Path]:
        """Return the files that are written."""
        reports = [] if self.report is None else [self.report, self.report.with_suffix(".png")]
        return [self.request.video_out_path, *reports]


def run(arguments: argparse.Namespace, given: set[str]) -> None:
    """Make the one result that the command line asks for. given: names of the explicit options."""
    say: Say = (lambda text: None) if arguments.quiet else (lambda text: tqdm.write(text, file=sys.stderr))
    job = check_job(arguments, given)
    report = work(job, SessionCache(say).session(job.request.models), say)
    if not arguments.quiet:
        print(report.path)


def check_job(arguments: argparse.Namespace, given: set[str]) -> CheckedRun:
    """Return the job, if files and options are usable; nothing is loaded or written.

    Raises LatentSyncError's subclasses.
    """
    check_inputs(arguments, given)
    if arguments.threads is not None:
        check_count(arguments.threads)
    request = request_of(arguments, given)
    request.models.check()
    check_output(request.video_out_path, request.inputs())
    if arguments.report is not None:
        check_output(arguments.report, request.inputs(), suffixes=[".json"])
        check_output(arguments.report.with_suffix(".png"), request.inputs(), suffixes=[".png"])
    probe_video(request.video_path)
    for sound in request.sounds():
        probe_audio(sound)
    talk = {"quiet": arguments.quiet, "verbose": arguments.verbose}
    return CheckedRun(request, arguments.report, arguments.sync_score, any_seed=arguments.seed == -1, **talk)


def work(job: CheckedRun, session: Session, say: Say, should_stop: Callable[[], bool] | None = None) -> LipSyncReport:
    """Make the video, and the report where one is wanted. Raises LatentSyncError's subclasses; Cancelled if stopped."""
    bar = None if job.quiet else ProgressBar()
    try:
        report = engine.run(
            session,
            job.request,
            on_progress=bar,
            should_stop=should_stop,
            on_warning=lambda warning: say(f"warning: {warning}"),
        )
    finally:
        if bar is not None:
            bar.close()
    if job.report is not None:
        path = syncnet_of(job, session)
        if path is not None:
            with own_threads(job.request.threads):
                report = with_sync(report, path, session.model.device)
            say(report.sync.text())
        report.write(job.report)
    if resumed := report.facts["resumed_frames"]:
        say(f"went on with an interrupted run: {resumed} frames were denoised before")
    unchanged = report.num_frames - report.num_faces - report.num_tail
    note = f", {unchanged} without a usable face left as they were" if unchanged else ""
    note += f", {report.num_tail} after the speech" if report.num_tail else ""
    say(f"{report.num_frames} frames in {report.seconds:.1f} s{note}, seed {job.request.options.seed}")
    return report


def syncnet_of(job: CheckedRun, session: Session) -> Path | None:
    """Return the SyncNet for the report; None for none."""
    if job.sync_score == "auto":
        return syncnet_for(session.model, job.request.models.checkpoints)
    return None if job.sync_score == "off" else Path(job.sync_score)
