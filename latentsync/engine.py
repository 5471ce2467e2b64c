"""From files to a file: find the faces, listen, then frame by frame align, generate, paste back and encode.

Memory does not depend on the length of the clip: frames are held for one chunk, of the rest only a few numbers a frame.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from .audio_tokens import TokenWindows, window_centre_at
from .errors import Cancelled, FaceNotFoundError, OptionError
from .faces.facemesh import mouth_opening
from .faces.tracking import FaceFinder, FaceTracker
from .frame_queue import FinishedFace, FrameQueue, WaitingFrame
from .media.audio_writer import AudioSource
from .media.output_file import check_output
from .media.video_reader import VideoFrame, probe_video
from .media.video_writer import VideoWriter
from .mel import SAMPLE_RATE
from .models import LipSyncModel
from .options import LipSyncOptions
from .pasting import FacePaster
from .previews import FacePreview, OnPreview
from .protection import protect_masks
from .report import FaceRecords, FrameRecord, LipSyncReport, SourceFrames
from .restoration.restorers import Restorer
from .run_facts import run_facts
from .speakers import Speaker, Speech, cast
from .speaking_face import SpeakingFace
from .stage_times import StageTimes
from .timeline import SourceWindow, Timeline, plan_time, sound_warnings, source_frames, source_window, time_warnings
from .tracks.cache import ScanSettings, TrackCache
from .tracks.choice import described
from .tracks.paths import ClipFaces, FacePath
from .tracks.placement import place
from .tracks.scan import scan_faces
from .voice.offset import OffsetEstimate, estimate_offset

SCAN_SHARE = 0.05  # of the progress, for finding the faces


@dataclass(frozen=True)
class Progress:
    """Where a run stands. frames_total is exact for a constant frame rate, else an estimate."""

    frames_done: int
    frames_total: int
    step: int  # of the chunk in work
    num_steps: int
    seconds: float  # since the start of the run
    fraction: float = 0.0  # of the run, 0..1; counts the steps of the chunk in work and never falls
    stage: str = "generate"  # or "find faces"


def lip_sync(
    video_path: str | Path,
    speech: str | Path | Sequence[Speaker],
    output_path: str | Path,
    model: LipSyncModel,
    options: LipSyncOptions = LipSyncOptions(),  # noqa: B008 (frozen)
    *,
    face: str = "largest",
    output_audio: str | Path | None = None,
    finder: FaceFinder | None = None,
    restorer: Restorer | None = None,
    protect: str | Path | None = None,
    track_cache: TrackCache | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    measure_opening: bool = False,
    on_preview: OnPreview | None = None,
    preview_interval: float = 0.5,
) -> LipSyncReport:
    """Write ``output_path``: the video with its lips speaking the speech, which becomes its sound.

    speech: a file, spoken by ``face`` (see tracks.choice), or several speakers with a face and a file each, which are
    heard together. A video shorter than the speech is played forward and backward; a longer one ends with the speech:
    ``length`` and ``tail`` of the options have other ways. ``output_audio`` is heard in place of the speech that moves
    the lips, from the same ``start`` on, cut off or followed by silence where it is not as long as the result.
    ``restorer`` restores the generated faces. ``protect``: a picture or a video along with the source, white where the
    source stays. ``track_cache`` keeps where the faces are for another run on the same video.

    The file appears under its name only when it is complete. ``should_stop`` is asked for every block of sound, every
    frame and every denoising step. ``measure_opening`` reads the mouth of every finished frame for the report.
    ``on_preview`` is given estimates of a face in work, one in ``preview_interval`` seconds (see FacePreview).

    Raises MediaError, AudioError, FaceNotFoundError, BrokenResultError, OutputError, OptionError, Cancelled.
    """
    started, stages = time.monotonic(), StageTimes()
    speakers = [Speaker(speech, face)] if isinstance(speech, str | Path) else list(speech)
    if not speakers:
        raise OptionError("nobody is to speak; expected one speaker at least")
    sounds = [speaker.audio_path for speaker in speakers]
    inputs = [video_path, *sounds, *(path for path in (output_audio, protect) if path is not None)]
    check_output(output_path, inputs)
    facts = probe_video(video_path)

    def check() -> None:
        if should_stop is not None and should_stop():
            raise Cancelled("stopped as asked; no file was written")

    with torch.inference_mode():
        with stages.stage("listen"):
            speeches = [Speech(path, model, options, check) for path in sounds]
            longest = max(speeches, key=lambda one: one.num_samples)
            features = [one.features(longest.num_samples) for one in speeches]
            timeline = plan_time(video_path, facts, features[0], longest.path, options)
        warnings = [*model.warnings, *time_warnings(timeline, options)]
        if options.silence != "off":
            warnings += [one.warning for one in speeches if one.warning]
        if output_audio is not None:
            warnings += sound_warnings(longest.path, output_audio, options)
        finder = finder or FaceTracker(model.device)
        progress = _ProgressTeller(timeline, options, started, on_progress, check)
        with stages.stage("find faces"):
            cache = track_cache if isinstance(finder, FaceTracker) else None
            window = source_window(video_path, facts, timeline, options)
            clip = _scanned(window, finder, cache, progress.scanned)
        run = _Run(model, options, clip, speakers, speeches, features, timeline, stages, progress, restorer)
        if on_preview is not None:
            run.preview = FacePreview(model, on_preview, preview_interval)
        if measure_opening:
            run.mesh_reader = finder if isinstance(finder, FaceTracker) else FaceTracker(model.device)
        run.cast(finder)
        heard = AudioSource(
            sounds[0] if output_audio is None else output_audio,
            options.start,
            options.duration,
            fitted=output_audio is not None or options.length == "trim" or options.tail == "keep",
            mixed_with=tuple(sounds[1:]) if output_audio is None else (),
        )
        masks = repeat(None) if protect is None else protect_masks(protect, video_path, facts, timeline, options)
        with VideoWriter(
            output_path,
            facts.width,
            facts.height,
            rate=timeline.fps,
            time_base=timeline.time_base,
            color=facts.output_color,
            audio=heard,
            sample_aspect_ratio=facts.sample_aspect_ratio,
            inputs=inputs,
        ) as writer:
            source = stages.timed("decode", source_frames(video_path, facts, timeline, options))
            for frame, pixels in run.frames(source, masks):
                with stages.stage("encode"):
                    writer.write(pixels, frame.pts)
            if not run.num_faces:
                raise FaceNotFoundError(
                    f"none of the faces in '{video_path}' can be made to speak: too small, turned away by more than "
                    f"{options.max_yaw:g} degrees, or covered. Choose another face or another part of the video "
                    "(start, duration), or a larger max_yaw"
                )
            progress.finish(len(run.shown))
            run.finish()
    spoken = longest.num_samples / SAMPLE_RATE
    if options.length == "trim":
        spoken = min(spoken, run.last_time + 1 / float(timeline.fps))
    return LipSyncReport(
        path=Path(output_path),
        num_frames=len(run.shown),
        seconds=time.monotonic() - started,
        fps=float(timeline.fps),
        duration=spoken,
        warnings=[*warnings, *run.warnings],
        faces=run.records(),
        waveform_peaks=longest.peaks(spoken),
        pace=float(timeline.pace),
        stage_seconds=dict(stages.seconds),
        offset=run.offset(spoken),
        source=SourceFrames(window.path, window.start, tuple(run.shown)),
        facts={"faces_found": described(clip), **run_facts(model, options, restorer)},
    )


def _scanned(
    window: SourceWindow, finder: FaceFinder, cache: TrackCache | None, on_frame: Callable[[int], None]
) -> ClipFaces:
    """Where the faces of the source are, from the cache or found now. Raises FaceNotFoundError where there is none."""
    clip = None
    settings = ScanSettings(type(finder).__name__, window.start)
    if cache:
        clip = cache.load(window.path, settings, window.duration)
    if clip is None:
        clip = scan_faces(window.frames(), finder, on_frame=on_frame)
        if cache:
            reaches_end = window.duration is None or clip.times[-1] + 2 * clip.interval < window.duration
            cache.store(window.path, settings, clip, whole=reaches_end)
    clip = clip.until(window.duration)
    if not clip.paths:
        raise FaceNotFoundError(
            f"no face was found in any of the {clip.num_frames} frames of '{window.path}'; expected a visible "
            "face, frontal or half turned, at least some 50 pixels and a twentieth of the frame wide. "
            "Choose another video or another part of it (start, duration)"
        )
    return clip


class _ProgressTeller:
    """Tells how far a run is, and asks whether it should stop."""

    def __init__(self, timeline: Timeline, options: LipSyncOptions, started: float, on_progress, check):
        self._total, self._options, self._started = timeline.num_frames, options, started
        self._on_progress, self.check = on_progress, check
        self._fraction = 0.0

    def scanned(self, index: int) -> None:
        """Frame `index` of the source was searched."""
        self.check()
        self._tell(0, 0, min(SCAN_SHARE, SCAN_SHARE * (index + 1) / max(self._total, 1)), "find faces")

    def generated(self, frames_done: int, step: int = 0) -> None:
        """So many frames are done and so many steps of the next chunk."""
        self.check()
        coming = step / self._options.num_inference_steps
        coming *= self._options.chunk_frames - self._options.chunk_overlap
        done = (frames_done + coming) / max(self._total, frames_done, 1)
        self._tell(frames_done, step, SCAN_SHARE + (1 - SCAN_SHARE) * min(1.0, done))

    def finish(self, num_frames: int) -> None:
        """Nothing is left to do, also where the number of frames was only an estimate."""
        self._total = num_frames
        self.generated(num_frames)

    def _tell(self, frames_done: int, step: int, fraction: float, stage: str = "generate") -> None:
        self._fraction = max(self._fraction, fraction)
        if self._on_progress is not None:
            total, seconds = max(self._total, frames_done), time.monotonic() - self._started
            num_steps = self._options.num_inference_steps
            self._on_progress(Progress(frames_done, total, step, num_steps, seconds, self._fraction, stage))


class _Run:
    """The faces of one run and the frames they come back to."""

    preview: FacePreview | None = None
    mesh_reader: FaceTracker | None = None

    def __init__(self, model, options, clip, speakers, speeches, features, timeline, stages, progress, restorer):
        self._model, self._options, self._clip = model, options, clip
        self._speakers, self._speeches, self._features = speakers, speeches, features
        self._speech, self._stages, self._progress, self._restorer = timeline.speech, stages, progress, restorer
        self._queue = FrameQueue()
        self._faces: list[_Part] = []
        self.num_faces = 0
        self.last_time = 0.0
        self.shown: list[int] = []  # of the source's frames
        self.warnings: list[str] = [] if restorer is None else list(restorer.warnings)

    def cast(self, finder: FaceFinder) -> None:
        """Give everyone who speaks a face."""
        restorer, model, options = self._restorer, self._model, self._options
        self._paste = FacePaster(
            model.resolution, options, model.blend_mask, model.resolution * options.sr_ratio if restorer else None
        )
        for number, (speaker, index) in enumerate(cast(self._speakers, self._clip, finder)):
            path = self._clip.paths[index]
            face = SpeakingFace(
                number,
                model,
                options,
                place(path, self._clip, model.resolution, options),
                self._clip.times,
                restorer,
                self._stages,
                self._on_step,
                self.preview,
            )
            self._faces.append(_Part(number, speaker, index, path, face))

    def finish(self) -> None:
        """Tell what was asked for and came to nothing."""
        frames = [frame for part in self._faces for frame in part.records]
        if self._restorer is not None and self._options.sr_strength and not any(frame.restored for frame in frames):
            self.warnings.append(
                f"{self._restorer.name} restored nothing: the frames show the face no larger than the "
                f"{self._model.resolution} px at which it is generated, so there is nothing to gain"
            )

    def records(self) -> tuple[FaceRecords, ...]:
        return tuple(
            FaceRecords(part.index, self._speakers[part.speaker].face, tuple(part.records)) for part in self._faces
        )

    def offset(self, duration: float) -> OffsetEstimate | None:
        """Of the first face's lips to its speech, where they were measured."""
        part = self._faces[0]
        times, openings = [frame.time for frame in part.records], [frame.opening for frame in part.records]
        return estimate_offset(times, openings, self._speeches[part.speaker].peaks(duration))

    def frames(self, source: Iterator[VideoFrame], masks: Iterator) -> Iterator[tuple[VideoFrame, np.ndarray]]:
        """Every source frame in order, with its finished pixels."""
        windows = [TokenWindows(features) for features in self._features]
        for frame, protect in zip(source, masks, strict=False):
            is_tail = bool(frame.index) and frame.time >= self._speech - 1e-6
            waiting = WaitingFrame(frame, protect, is_tail)
            self._queue.add(waiting)
            self._speak(waiting, windows)
            yield from self._written()
        for part in self._faces:
            part.face.flush()
        yield from self._written()

    def _speak(self, waiting: WaitingFrame, windows: list[TokenWindows]) -> None:
        """Give the frame's faces into work."""
        heard: dict[int, torch.Tensor] = {}
        moment = waiting.frame.time - self._options.audio_offset_ms / 1000

        def hear(speaker: int) -> torch.Tensor:
            if speaker not in heard:
                with self._stages.stage("listen"):
                    heard[speaker] = windows[speaker].tokens([window_centre_at(moment)])[0]
            return heard[speaker]

        for part in self._faces:
            self._progress.check()
            if waiting.is_tail:
                part.face.flush()
                continue
            gate = self._speeches[part.speaker].gate
            voice = float(gate.at(moment)) if self._options.silence == "source" else 1.0
            part.face.take(waiting, lambda speaker=part.speaker: hear(speaker), voice)

    def _written(self) -> Iterator[tuple[VideoFrame, np.ndarray]]:
        for waiting in self._queue.ready():
            pixels = waiting.frame.pixels
            for number in sorted(waiting.finished):
                done = waiting.finished[number]
                with self._stages.stage("paste"):
                    pixels = self._paste(
                        pixels,
                        done.face,
                        done.aligned,
                        done.placed.matrix,
                        waiting.protect,
                        contour=done.placed.contour,
                        weight=done.weight,
                    )
            self.num_faces += bool(waiting.finished)
            self.last_time = waiting.frame.time
            self.shown.append(waiting.frame.source_index)
            for part in self._faces:
                part.records.append(self._record(waiting, part, pixels))
            for warning in filter(None, (part.face.warning for part in self._faces)):
                if warning not in self.warnings:
                    self.warnings.append(warning)
            self._progress.generated(len(self.shown))
            yield waiting.frame, pixels

    def _record(self, waiting: WaitingFrame, part: "_Part", pixels: np.ndarray) -> FrameRecord:
        moment = waiting.frame.time - self._options.audio_offset_ms / 1000
        voice = float(self._speeches[part.speaker].gate.at(moment))
        row = None if waiting.is_tail else part.rows.get(waiting.frame.source_index)
        if row is None:
            return FrameRecord(waiting.frame.time, False, 0.0, faded=float(waiting.is_tail), voice=voice)
        done = waiting.finished.get(part.number)
        return FrameRecord(
            waiting.frame.time,
            True,
            float(part.path.confidence[row]),
            _known(part.path.opening[row]),
            None if done is None else self._opening(pixels, done),
            faded=1.0 if done is None else 1 - done.weight,
            yaw=_known(part.path.yaw[row]),
            voice=voice,
            restored=done is not None and done.restored,
        )

    def _opening(self, pixels: np.ndarray, done: FinishedFace) -> float | None:
        """Of the mouth in a finished frame, read where the source's face is."""
        if self.mesh_reader is None or done.placed.region is None:
            return None
        with self._stages.stage("measure"):
            found = self.mesh_reader.follow(pixels, done.placed.region)
        return None if found is None else mouth_opening(found.landmarks)

    def _on_step(self, step: int, num_steps: int, latents: torch.Tensor) -> None:
        self._progress.generated(len(self.shown), step + 1)


class _Part:
    """Who plays whom: a speaker's face and what is told of it."""

    def __init__(self, number: int, speaker: int, index: int, path: FacePath, face: SpeakingFace):
        self.number, self.speaker, self.index, self.path, self.face = number, speaker, index, path, face
        self.rows = {int(row): place for place, row in enumerate(path.rows)}
        self.records: list[FrameRecord] = []


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
