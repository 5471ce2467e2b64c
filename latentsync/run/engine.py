"""From files to a file: find the faces, listen, then frame by frame align, generate, paste back and encode.

The stages work at the same time, see threads.py and docs/architecture.md. Memory does not depend on the length of the
clip: frames are held for one chunk and in the bounded queues, of the rest only a few numbers a frame.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from ..errors import Cancelled, FaceNotFoundError, OptionError
from ..faces.choice import check_seen, choice_notice, described
from ..faces.finder import FaceFinder, FaceTracker
from ..faces.people import ClipFaces
from ..faces.place import cover_notice
from ..faces.scan import scan_faces
from ..faces.scan_cache import ScanSettings, TrackCache, cache_folder
from ..media.audio_reader import probe_audio
from ..media.output_file import check_output
from ..media.video_reader import VideoFacts, VideoFrame, probe_video
from ..media.video_writer import AudioSource, VideoWriter, format_warnings
from ..model.device import float32_products, format_warning, own_threads
from ..model.loading import LipSyncModel
from ..model.whisper import SAMPLE_RATE
from ..options import LipSyncOptions
from ..restoration.restorers import Restorer
from ..session import RunRequest, Session
from .chunks import Denoiser
from .flow import FrameFlow, FrameRecorder
from .progress import FacePreview, OnPreview, Progress, ProgressTeller
from .report import LipSyncReport, SourceFrames, marking_of, run_facts
from .resume import Job, JobFolder, default_job_folder, job_facts
from .speech import Speaker, Speech
from .threads import StageTimes, ThreadedStages
from .timeline import (
    SourceWindow,
    plan_time,
    protect_masks,
    rate_warnings,
    sound_warnings,
    source_frames,
    source_window,
    time_warnings,
    without_stills,
)

FEW = 2  # frames in the queues between quick stages
QUEUE_BYTES = 96 * 2**20  # of frames before and after the U-Net, which wants and gives them by the chunk


@own_threads()
def lip_sync(
    video_path: str | Path,
    speech: str | Path | Sequence[Speaker],
    output_path: str | Path,
    model: LipSyncModel | Session,
    options: LipSyncOptions | None = None,
    *,
    face: str = "largest",
    output_audio: str | Path | None = None,
    finder: FaceFinder | None = None,
    restorer: Restorer | None = None,
    protect: str | Path | None = None,
    track_cache: TrackCache | None = None,
    jobs: JobFolder | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    measure_opening: bool = False,
    on_preview: OnPreview | None = None,
    preview_interval: float = 0.5,
    on_warning: Callable[[str], None] | None = None,
) -> LipSyncReport:
    """Write ``output_path``: the video with its lips speaking the speech, which becomes its sound.

    speech: a file, spoken by ``face`` (see faces.choice), or several speakers with a face and a file each, which are
    heard together. model: the networks, or a session, whose restorer and finder count unless others are given. options:
    None for the session's own (see Session.options), or the defaults. A video shorter than the speech is played forward
    and backward; a longer one ends with the speech: ``length`` and ``tail`` of the options have other ways.
    ``output_audio`` is heard in place of the speech that moves the lips, from the same ``start`` on, cut off or
    followed by silence where it is not as long as the result.
    ``restorer`` restores the generated faces. ``protect``: a picture or a video along with the source, white where the
    source stays. ``track_cache`` keeps where the faces are for another run on the same video. ``jobs`` keeps what the
    U-Net has made until the result is complete, so that an equal run goes on where this one was interrupted; its result
    is that of a run which was not.

    The file appears under its name only when it is complete. ``should_stop`` is asked for every block of sound, every
    frame and every denoising step. ``measure_opening`` reads the mouth of every finished frame for the report.
    ``on_preview`` is given estimates of a face in work, one in ``preview_interval`` seconds (see FacePreview).
    ``on_warning`` is given each of the report's warnings as soon as it is known, but not those that loading the
    model gave.

    Raises MediaError, AudioError, FaceNotFoundError, BrokenResultError, OutputError, OptionError, Cancelled.
    """
    started, stages = time.monotonic(), StageTimes()
    if isinstance(model, Session):
        options = model.options() if options is None else options
        model, restorer, finder = model.model, restorer or model.restorer, finder or model.finder
    options = options or LipSyncOptions()
    speakers = [Speaker(speech, face)] if isinstance(speech, str | Path) else list(speech)
    if not speakers:
        raise OptionError("nobody is to speak; expected one speaker at least")
    sounds = [speaker.audio_path for speaker in speakers]
    inputs = [video_path, *sounds, *(path for path in (output_audio, protect) if path is not None)]
    check_output(output_path, inputs)
    facts = probe_video(video_path)
    warnings = [*model.warnings, *filter(None, [format_warning(model.device, model.dtype)])]

    def warn(*texts: str | None) -> None:
        for text in texts:
            if text and text not in warnings:
                warnings.append(text)
                if on_warning is not None:
                    on_warning(text)

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked; no file was written")

    with torch.inference_mode(), float32_products(options.tf32):
        with stages.stage("listen"):
            speeches = [Speech(path, model, options, check) for path in sounds]
            longest = max(speeches, key=lambda one: one.num_samples)
            features = [one.features(longest.num_samples) for one in speeches]
            timeline = plan_time(video_path, facts, features[0], longest.source, options)
        warn(
            *facts.notices,
            None if facts.is_drawn else model.faces_notice,
            *format_warnings(output_path, facts.width, facts.height, facts.sample_aspect_ratio),
        )
        facts_of = {one: probe_audio(one.source) for one in speeches}
        for one in speeches:
            warn(*facts_of[one].notices, *one.notices)
        warn(*time_warnings(timeline, options))
        if options.silence != "off":
            warn(*(one.warning for one in speeches))
        if output_audio is not None:
            heard_facts = probe_audio(output_audio)
            warn(*heard_facts.notices, *sound_warnings(facts_of[longest], heard_facts, options))
        finder = finder or FaceTracker(model.device)
        warn(*getattr(finder, "notices", ()))
        progress = ProgressTeller(timeline.num_frames, options, started, on_progress, check)
        with stages.stage("find faces"):
            cache = track_cache if isinstance(finder, FaceTracker) else None
            window = source_window(video_path, facts, timeline, options)
            clip = _scanned(window, finder, cache, progress.scanned, check)
        warn(*rate_warnings(clip.times, facts, timeline, options))
        flow = FrameFlow(
            model, options, speakers, speeches, features, timeline, clip, finder, restorer=restorer, stages=stages
        )
        if len(speakers) == 1 and len(flow.parts) == 1:
            warn(choice_notice(clip, speakers[0].face, flow.parts[0].index))
        warn(*(cover_notice(part.path, part.index) for part in flow.parts))
        mesh_reader = None
        if measure_opening:
            mesh_reader = finder if isinstance(finder, FaceTracker) else FaceTracker(model.device)
        recorder = FrameRecorder(speakers, speeches, options.audio_offset_ms, mesh_reader, stages)
        heard = AudioSource(
            sounds[0] if output_audio is None else output_audio,
            options.start,
            options.duration,
            fitted=output_audio is not None or options.length == "trim" or options.tail == "keep",
            mixed_with=tuple(sounds[1:]) if output_audio is None else (),
        )
        masks = repeat(None) if protect is None else protect_masks(protect, video_path, facts, timeline, options)
        with (
            _job(jobs, video_path, speakers, model, options, finder) as job,
            VideoWriter(
                output_path,
                facts.width,
                facts.height,
                rate=timeline.fps,
                time_base=timeline.time_base,
                color=facts.output_color,
                audio=heard,
                sample_aspect_ratio=facts.sample_aspect_ratio,
                mark=marking_of(model, options),
                inputs=inputs,
                part_name=None if job is None else f"latentsync-{job.name}",
            ) as writer,
            ThreadedStages(check) as threads,
        ):

            def decoded() -> Iterator[tuple[VideoFrame, np.ndarray | None]]:
                source = stages.timed("decode", source_frames(video_path, facts, timeline, options))
                yield from without_stills(zip(source, masks, strict=False), facts, timeline, options)

            def encode() -> None:
                for frame, pixels in pasted:
                    with stages.stage("encode"):
                        writer.write(pixels, frame.pts)
                    del frame, pixels  # while the next one is waited for

            def on_step(step: int, num_steps: int, latents: torch.Tensor) -> None:
                threads.check()
                progress.generated(len(flow.shown), step + 1)

            length = _queue_length(facts, options)
            seen = threads.ahead("align", flow.seen(threads.ahead("decode", decoded(), FEW)), length)
            generated = threads.queue(length)
            finished = threads.ahead("finish", flow.finished(generated), FEW)
            pasted = threads.ahead("paste", flow.pasted(finished, recorder), FEW)
            threads.start("encode", encode)
            preview = None if on_preview is None else FacePreview(model, on_preview, preview_interval)
            denoiser = Denoiser(model, options, on_step, preview, None if job is None else job.chunks)
            for spoken in flow.spoken(seen, denoiser):
                progress.generated(len(flow.shown))
                generated.put(spoken)
                del spoken
            generated.end()
            threads.join()
            if not recorder.num_faces:
                raise FaceNotFoundError(
                    f"none of the faces in '{video_path}' can be made to speak: too small, turned away by more than "
                    f"{options.max_yaw:g} degrees, or covered. Choose another face or another part of the video "
                    "(start, duration), or a larger max_yaw"
                )
            progress.finish(len(flow.shown))
            flow.finish()
            warn(*flow.warnings)
    spoken = longest.num_samples / SAMPLE_RATE
    if options.length == "trim":
        spoken = min(spoken, recorder.last_time + 1 / float(timeline.fps))
    return LipSyncReport(
        path=Path(output_path),
        num_frames=len(flow.shown),
        seconds=time.monotonic() - started,
        fps=float(timeline.fps),
        duration=spoken,
        warnings=warnings,
        faces=recorder.faces(flow.parts),
        waveform_peaks=longest.peaks(spoken),
        pace=float(timeline.pace),
        stage_seconds=dict(stages.seconds),
        offset=recorder.offset(flow.parts[0], spoken),
        source=SourceFrames(window.path, window.start, tuple(flow.shown)),
        facts={
            "faces_found": described(clip),
            "resumed_frames": 0 if job is None else job.chunks.recalled,
            **run_facts(model, options, restorer),
        },
    )


def run(
    session: Session,
    request: RunRequest,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_preview: OnPreview | None = None,
    preview_interval: float = 0.5,
    on_warning: Callable[[str], None] | None = None,
) -> LipSyncReport:
    """Do what is asked for, with what is loaded. The callbacks, and the errors raised, are those of `lip_sync`."""
    with own_threads(request.threads):
        return lip_sync(
            request.video_path,
            request.speakers,
            request.video_out_path,
            session,
            request.options,
            output_audio=request.output_audio,
            protect=request.protect,
            track_cache=TrackCache(cache_folder()) if request.keep_faces else None,
            jobs=JobFolder(request.job_dir or default_job_folder(), request.resume) if request.keep_work else None,
            measure_opening=request.measure_opening,
            on_progress=on_progress,
            should_stop=should_stop,
            on_preview=on_preview,
            preview_interval=preview_interval,
            on_warning=on_warning,
        )


def _scanned(
    window: SourceWindow,
    finder: FaceFinder,
    cache: TrackCache | None,
    on_frame: Callable[[int], None],
    check: Callable[[], None],
) -> ClipFaces:
    """Return where the faces of the source are, from the cache or found now. Raises FaceNotFoundError for none."""

    def scan() -> ClipFaces:
        with ThreadedStages(check) as threads:
            return scan_faces(threads.ahead("decode", window.frames(), FEW), finder, on_frame=on_frame)

    settings = ScanSettings(type(finder).__name__, window.start)
    clip = cache.scanned(window.path, settings, window.duration, scan) if cache else scan().until(window.duration)
    check_seen(clip, "Choose another video or another part of it (start, duration)", window.path)
    return clip


def _job(
    jobs: JobFolder | None,
    video_path: str | Path,
    speakers: Sequence[Speaker],
    model: LipSyncModel,
    options: LipSyncOptions,
    finder: FaceFinder,
) -> AbstractContextManager[Job | None]:
    facts = None if jobs is None else job_facts(video_path, speakers, model, options, finder)
    return nullcontext() if jobs is None or facts is None else jobs.job(facts)


def _queue_length(facts: VideoFacts, options: LipSyncOptions) -> int:
    """Frames that may wait for the U-Net, and those that it has made: a chunk of them, as far as memory allows."""
    return max(FEW, min(options.chunk_frames, QUEUE_BYTES // (3 * facts.width * facts.height)))
