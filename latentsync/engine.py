"""From files to a file: decode, find and align the face, generate, paste back, encode, one chunk at a time.

Memory does not depend on the length of the clip: frames are held for one chunk, of the rest only a few numbers a frame.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .audio_tokens import AudioFeatureStream, TokenWindows, window_centre_at
from .chunks import ChunkGenerator, FaceFrame
from .errors import Cancelled, FaceNotFoundError
from .face_locator import FaceLocator, LocatedFace
from .faces.alignment import warp_faces
from .faces.facemesh import mouth_opening
from .faces.tracking import FaceDetector, FaceTracker
from .media.audio_reader import read_audio_blocks
from .media.audio_writer import AudioSource
from .media.output_file import check_output
from .media.video_reader import VideoFrame, probe_video
from .media.video_writer import VideoWriter
from .mel import SAMPLE_RATE
from .models import LipSyncModel
from .options import LipSyncOptions
from .pasting import FacePaster
from .pipeline import range_warning
from .previews import FacePreview, OnPreview
from .report import FrameRecord, LipSyncReport
from .timeline import Timeline, plan_time, sound_warnings, source_frames, time_warnings
from .waveform import PEAKS_PER_SECOND, WaveformPeaks


@dataclass(frozen=True)
class Progress:
    """Where a run stands. frames_total is exact for a constant frame rate, else an estimate."""

    frames_done: int
    frames_total: int
    step: int  # of the chunk in work
    num_steps: int
    seconds: float  # since the start of the run
    fraction: float = 0.0  # of the run, 0..1; counts the steps of the chunk in work and never falls


@dataclass(frozen=True)
class _Placed:
    """A frame and where its face is."""

    frame: VideoFrame
    face: LocatedFace


def lip_sync(
    video_path: str | Path,
    audio_path: str | Path,
    output_path: str | Path,
    model: LipSyncModel,
    options: LipSyncOptions = LipSyncOptions(),  # noqa: B008 (frozen)
    *,
    output_audio: str | Path | None = None,
    detector: FaceDetector | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    measure_opening: bool = False,
    on_preview: OnPreview | None = None,
    preview_interval: float = 0.5,
) -> LipSyncReport:
    """Write ``output_path``: the video with its lips speaking the audio, which becomes its sound.

    A video shorter than the speech is played forward and backward; a longer one ends with the speech: ``length`` and
    ``tail`` of the options have other ways. ``output_audio`` is heard in place of the speech that moves the lips, from
    the same ``start`` on, cut off or followed by silence where it is not as long as the result. The file appears under
    its name only when it is complete. ``should_stop`` is asked for every block of sound, every frame and every
    denoising step. ``measure_opening`` reads the mouth of every finished frame for the report. ``on_preview`` is given
    estimates of a face in work, one in ``preview_interval`` seconds (see FacePreview).

    Raises MediaError, AudioError, FaceNotFoundError, OutputError, OptionError, Cancelled.
    """
    started = time.monotonic()
    inputs = (video_path, audio_path, *([] if output_audio is None else [output_audio]))
    check_output(output_path, inputs)
    facts = probe_video(video_path)

    outlines: list[WaveformPeaks] = []  # one a reading of the sound

    def speech_blocks() -> Iterator[np.ndarray]:
        outlines.append(WaveformPeaks(SAMPLE_RATE))
        blocks = read_audio_blocks(audio_path, sample_rate=SAMPLE_RATE, start=options.start, duration=options.duration)
        for block in blocks:
            _stop_if(should_stop)
            outlines[-1].add(block)
            yield block

    with torch.inference_mode():
        sound = AudioFeatureStream(speech_blocks, model.whisper, options.audio_windows)
        timeline = plan_time(video_path, facts, sound, audio_path, options)
        warnings = [*model.warnings, *time_warnings(timeline, options)]
        if output_audio is not None:
            warnings += sound_warnings(audio_path, output_audio, options)
        detector = detector or FaceTracker(model.device)
        run = _Run(
            model,
            options,
            FaceLocator(
                detector,
                model.resolution,
                options.smoothing,
                float(timeline.fps),
                bounces=timeline.repeats,
            ),
            timeline,
            on_progress,
            should_stop,
            None if on_preview is None else FacePreview(model, on_preview, preview_interval),
            _mesh_reader(detector, model) if measure_opening else None,
        )
        heard = AudioSource(
            audio_path if output_audio is None else output_audio,
            options.start,
            options.duration,
            fitted=output_audio is not None or options.length == "trim" or options.tail == "keep",
        )
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
            for frame, pixels in run.frames(source_frames(video_path, facts, timeline, options), sound):
                writer.write(pixels, frame.pts)
            if not run.num_faces:
                raise FaceNotFoundError(
                    f"no face was found in any of the {run.num_written} frames of '{video_path}'; expected a visible "
                    "face, frontal or half turned, at least some 50 pixels and a twentieth of the frame wide. "
                    "Choose another video or another part of it (start, duration)"
                )
            run.finish()
    spoken = sound.num_samples / SAMPLE_RATE
    if options.length == "trim":
        spoken = min(spoken, run.records[-1].time + 1 / float(timeline.fps))
    return LipSyncReport(
        path=Path(output_path),
        num_frames=run.num_written,
        num_faces=run.num_faces,
        seconds=time.monotonic() - started,
        fps=float(timeline.fps),
        duration=spoken,
        warnings=[*warnings, *run.warnings],
        frames=tuple(run.records),
        waveform_peaks=outlines[0].peaks()[: math.ceil(spoken * PEAKS_PER_SECOND)],
        pace=float(timeline.pace),
    )


def _stop_if(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise Cancelled("stopped as asked; no file was written")


def _mesh_reader(detector: FaceDetector, model: LipSyncModel) -> FaceTracker:
    return detector if isinstance(detector, FaceTracker) else FaceTracker(model.device)


class _Run:
    """The state of one run: counters, progress, the face's place."""

    def __init__(self, model, options, locate, timeline: Timeline, on_progress, should_stop, preview, mesh_reader):
        self.model, self.options, self._locate = model, options, locate
        self._total, self._speech = timeline.num_frames, timeline.speech
        self._on_progress, self._should_stop = on_progress, should_stop
        self._started = time.monotonic()
        generator = torch.Generator("cpu").manual_seed(options.seed)
        self._chunks = ChunkGenerator(model, options, generator, self._on_step, preview)
        self._paste = FacePaster(model.resolution, options, model.blend_mask)
        self._mesh_reader: FaceTracker | None = mesh_reader
        self._fraction = 0.0
        self.warnings: list[str] = []
        self.records: list[FrameRecord] = []

    @property
    def num_written(self) -> int:
        return len(self.records)

    @property
    def num_faces(self) -> int:
        return sum(record.detected for record in self.records)

    def frames(
        self, source: Iterator[VideoFrame], sound: AudioFeatureStream
    ) -> Iterator[tuple[VideoFrame, np.ndarray]]:
        """Every source frame in order, with its finished pixels."""
        tokens, offset = TokenWindows(sound), self.options.audio_offset_ms / 1000
        for frame in source:
            _stop_if(self._should_stop)
            if frame.index and frame.time >= self._speech - 1e-6:
                yield from self._pasted(self._chunks.flush())
                yield self._count(frame, frame.pixels, None, is_tail=True)
                continue
            face = self._locate(frame)
            if face is None:
                yield from self._pasted(self._chunks.flush())
                yield self._count(frame, frame.pixels, None)
                continue
            aligned = warp_faces([frame.pixels], face.matrix[None], self.model.resolution, self.options.sampling)[0]
            heard = tokens.tokens([window_centre_at(frame.time - offset)])[0]
            yield from self._pasted(self._chunks.push(FaceFrame(aligned, heard, _Placed(frame, face))))
        yield from self._pasted(self._chunks.flush())

    def _pasted(self, generated: Iterator[tuple[FaceFrame, torch.Tensor]]) -> Iterator[tuple[VideoFrame, np.ndarray]]:
        for item, face in generated:
            placed: _Placed = item.payload
            if not self.warnings and (warning := range_warning(self.model, self._chunks.out_of_range)):
                self.warnings.append(warning)
            pixels = self._paste(placed.frame.pixels, face, item.aligned, placed.face.matrix)
            yield self._count(placed.frame, pixels, placed.face)

    def _count(
        self, frame: VideoFrame, pixels: np.ndarray, face: LocatedFace | None, *, is_tail: bool = False
    ) -> tuple[VideoFrame, np.ndarray]:
        _stop_if(self._should_stop)
        if face is None:
            self.records.append(FrameRecord(frame.time, False, 0.0, faded=float(is_tail)))
        else:
            opening = self._opening(pixels, face)
            self.records.append(FrameRecord(frame.time, True, face.confidence, face.opening, opening))
        self._report(0)
        return frame, pixels

    def _opening(self, pixels: np.ndarray, face: LocatedFace) -> float | None:
        """Of the mouth in a finished frame, read where the source's face is."""
        if self._mesh_reader is None or face.region is None:
            return None
        found = self._mesh_reader.follow(pixels, face.region)
        return None if found is None else mouth_opening(found.landmarks)

    def _on_step(self, step: int, num_steps: int, latents: torch.Tensor) -> None:
        _stop_if(self._should_stop)
        self._report(step + 1)

    def finish(self) -> None:
        """Tell that nothing is left to do, also where the number of frames was only an estimate."""
        self._total = self.num_written
        self._report(0)

    def _report(self, step: int) -> None:
        if self._on_progress is None:
            return
        num_steps, total = self.options.num_inference_steps, max(self._total, self.num_written)
        coming = step / num_steps * (self.options.chunk_frames - self.options.chunk_overlap)
        self._fraction = max(self._fraction, min(1.0, (self.num_written + coming) / max(total, 1)))
        self._on_progress(
            Progress(self.num_written, total, step, num_steps, time.monotonic() - self._started, self._fraction)
        )
