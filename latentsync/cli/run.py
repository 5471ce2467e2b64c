"""One lip-sync run: check everything that can be checked, then load, then work."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from .. import engine
from ..media.audio_reader import probe_audio
from ..media.output_file import check_output
from ..media.video_reader import probe_video
from ..model.device import check_count, own_threads
from ..report import LipSyncReport
from ..session import RunRequest, Say, Session, SessionCache
from ..sync.score import syncnet_for, with_sync
from .arguments import check_inputs
from .options import request_of
from .progress_bar import ProgressBar


@dataclass(frozen=True)
class Job:
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


def check_job(arguments: argparse.Namespace, given: set[str]) -> Job:
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
    return Job(request, arguments.report, arguments.sync_score, any_seed=arguments.seed == -1, **talk)


def work(job: Job, session: Session, say: Say, should_stop: Callable[[], bool] | None = None) -> LipSyncReport:
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


def syncnet_of(job: Job, session: Session) -> Path | None:
    """Return the SyncNet for the report; None for none."""
    if job.sync_score == "auto":
        return syncnet_for(session.model, job.request.models.checkpoints)
    return None if job.sync_score == "off" else Path(job.sync_score)
