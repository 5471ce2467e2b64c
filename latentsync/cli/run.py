"""One lip-sync run: check everything that can be checked, then load, then work."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from .. import engine
from ..jobs.job_folder import JobFolder, default_job_folder
from ..media.audio_reader import probe_audio
from ..media.output_file import check_output, written_whole
from ..media.video_reader import probe_video
from ..model import loading
from ..model.device import check_count, own_threads
from ..options import LipSyncOptions
from ..report import LipSyncReport, report_picture
from ..speakers import Speaker
from ..sync.score import syncnet_for, with_sync
from ..tracks.cache import TrackCache, cache_folder
from .arguments import check_inputs
from .networks import NetworkChoice, Networks, Say, load_networks
from .options import options_of, speakers_of
from .progress_bar import ProgressBar


@dataclass(frozen=True)
class Job:
    """One run that was checked: what the command line asked for."""

    arguments: argparse.Namespace
    options: LipSyncOptions
    speakers: tuple[Speaker, ...]


def run(arguments: argparse.Namespace, given: set[str]) -> None:
    """Make the one result that the command line asks for. given: names of the explicit options."""
    say: Say = (lambda text: None) if arguments.quiet else (lambda text: tqdm.write(text, file=sys.stderr))
    job = check_job(arguments, given)
    report = work(job, load_networks(NetworkChoice.of(arguments), say), say)
    if not arguments.quiet:
        print(report.path)


def check_job(arguments: argparse.Namespace, given: set[str]) -> Job:
    """The job, if files and options are usable; nothing is loaded or written. Raises LatentSyncError's subclasses."""
    check_inputs(arguments, given)
    NetworkChoice.of(arguments).check()
    if arguments.threads is not None:
        check_count(arguments.threads)
    own = loading.find_model(arguments.model, arguments.checkpoints).defaults
    options = options_of(arguments, given, own)
    speakers = speakers_of(arguments, given)
    sounds = [speaker.audio_path for speaker in speakers]
    sounds += [arguments.output_audio] if arguments.output_audio else []
    inputs = (arguments.video_path, *sounds, *([arguments.protect] if arguments.protect else []))
    check_output(arguments.video_out_path, inputs)
    if arguments.report is not None:
        check_output(arguments.report, inputs, suffixes=[".json"])
        check_output(arguments.report.with_suffix(".png"), inputs, suffixes=[".png"])
    probe_video(arguments.video_path)
    for sound in sounds:
        probe_audio(sound)
    return Job(arguments, options, tuple(speakers))


def work(job: Job, networks: Networks, say: Say, should_stop: Callable[[], bool] | None = None) -> LipSyncReport:
    """Make the video, and the report where one is wanted. Raises LatentSyncError's subclasses; Cancelled if stopped."""
    with own_threads(job.arguments.threads):
        return _made(job, networks, say, should_stop)


def _made(job: Job, networks: Networks, say: Say, should_stop: Callable[[], bool] | None) -> LipSyncReport:
    arguments, model = job.arguments, networks.model
    bar = None if arguments.quiet else ProgressBar()
    try:
        report = engine.lip_sync(
            arguments.video_path,
            job.speakers,
            arguments.video_out_path,
            model,
            job.options,
            output_audio=arguments.output_audio,
            finder=networks.finder,
            restorer=networks.restorer,
            protect=arguments.protect,
            track_cache=None if arguments.no_track_cache else TrackCache(cache_folder()),
            jobs=JobFolder(arguments.job_dir or default_job_folder(), resume=not arguments.no_resume),
            on_progress=bar,
            should_stop=should_stop,
            measure_opening=arguments.report is not None,
            on_warning=lambda warning: say(f"warning: {warning}"),
        )
    finally:
        if bar is not None:
            bar.close()
    if arguments.report is not None:
        path = syncnet_of(arguments, model)
        if path is not None:
            report = with_sync(report, path, model.device)
            say(report.sync.text())
        write_report(report, arguments.report)
    if resumed := report.facts["resumed_frames"]:
        say(f"went on with an interrupted run: {resumed} frames were denoised before")
    unchanged = report.num_frames - report.num_faces - report.num_tail
    note = f", {unchanged} without a usable face left as they were" if unchanged else ""
    note += f", {report.num_tail} after the speech" if report.num_tail else ""
    say(f"{report.num_frames} frames in {report.seconds:.1f} s{note}, seed {job.options.seed}")
    return report


def syncnet_of(arguments: argparse.Namespace, model: loading.LipSyncModel) -> Path | None:
    """The SyncNet for the report; None for none."""
    if arguments.sync_score == "off":
        return None
    return syncnet_for(model, arguments.checkpoints) if arguments.sync_score == "auto" else Path(arguments.sync_score)


def write_report(report: LipSyncReport, path: Path) -> None:
    """The report as JSON, and its picture beside it; each complete or not at all. Raises OutputError."""
    with written_whole(path) as part:
        part.write_text(json.dumps(report.to_json(path.absolute().parent)), encoding="utf-8")
    with written_whole(path.with_suffix(".png")) as part:
        Image.fromarray(report_picture(report)).save(part, format="PNG")
