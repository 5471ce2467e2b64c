"""From files to a file: decode, find and align the face, generate, paste back, encode, one chunk at a time.

Memory does not depend on the length of the clip: frames are held for one chunk, of the rest only one matrix a frame.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch

from .audio_tokens import AudioFeatureStream, TokenWindows, num_reference_frames, window_centre_at
from .chunks import ChunkGenerator, FaceFrame
from .errors import Cancelled, FaceNotFoundError
from .faces.alignment import Aligner, warp_faces
from .faces.blending import FaceBlender, keep_surroundings
from .faces.tracking import FaceDetector, FaceObservation, FaceTracker
from .masks import generation_mask
from .media.audio_reader import read_audio_blocks
from .media.audio_writer import AudioSource
from .media.output_file import check_output
from .media.pingpong import read_pingpong
from .media.video_reader import VideoFacts, VideoFrame, probe_video
from .media.video_writer import VideoWriter
from .models import LipSyncModel
from .options import LipSyncOptions
from .pipeline import to_pixels

SAMPLE_RATE = 16_000
MAX_OUT_OF_RANGE = 0.02  # share of values; a fitting model and VAE stay far below


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
class LipSyncReport:
    """What a run did."""

    path: Path
    num_frames: int
    num_faces: int  # frames whose face was generated; the others are the source's
    seconds: float
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Placed:
    """A frame and where its face goes."""

    frame: VideoFrame
    matrix: np.ndarray


class FaceLocator:
    """Frame -> alignment matrix (2, 3), or None without a face; a frame shown again is not searched again."""

    def __init__(self, detector: FaceDetector, resolution: int, options: LipSyncOptions, fps: float):
        self._detector = detector
        self._aligner = Aligner(resolution, options.smoothing, fps)
        self._last: FaceObservation | None = None
        self._known: dict[int, np.ndarray | None] = {}

    def __call__(self, frame: VideoFrame) -> np.ndarray | None:
        if frame.source_index not in self._known:
            self._known[frame.source_index] = self._locate(frame.pixels)
        return self._known[frame.source_index]

    def _locate(self, pixels: np.ndarray) -> np.ndarray | None:
        observation = self._detector(pixels, self._last)
        if observation is None:
            self._aligner.reset()
            return None
        self._last = observation
        return self._aligner(observation.points)


def lip_sync(
    video_path: str | Path,
    audio_path: str | Path,
    output_path: str | Path,
    model: LipSyncModel,
    options: LipSyncOptions = LipSyncOptions(),  # noqa: B008 (frozen)
    *,
    detector: FaceDetector | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> LipSyncReport:
    """Write ``output_path``: the video with its lips speaking the audio, which becomes its sound.

    A video shorter than the speech is played forward and backward; a longer one ends with the speech. The file appears
    under its name only when it is complete. ``should_stop`` is asked for every block of sound, every frame and every
    denoising step. Raises MediaError, AudioError, FaceNotFoundError, OutputError, OptionError, Cancelled.
    """
    started = time.monotonic()
    check_output(output_path, (video_path, audio_path))
    facts = probe_video(video_path)

    def speech_blocks() -> Iterator[np.ndarray]:
        blocks = read_audio_blocks(audio_path, sample_rate=SAMPLE_RATE, start=options.start, duration=options.duration)
        for block in blocks:
            _stop_if(should_stop)
            yield block

    with torch.inference_mode():
        sound = AudioFeatureStream(speech_blocks, model.whisper, options.audio_windows)
        fps = options.fps or facts.fps
        total = count_frames(sound, float(fps), options)
        run = _Run(model, options, detector or FaceTracker(model.device), float(fps), total, on_progress, should_stop)
        with VideoWriter(
            output_path,
            facts.width,
            facts.height,
            rate=fps,
            time_base=1 / options.fps if options.fps else facts.time_base,
            color=facts.output_color,
            audio=AudioSource(audio_path, options.start, options.duration),
            sample_aspect_ratio=facts.sample_aspect_ratio,
            inputs=(video_path, audio_path),
        ) as writer:
            for frame, pixels in run.frames(source_frames(video_path, facts, sound, total, options), sound):
                writer.write(pixels, frame.pts)
            if not run.num_faces:
                raise FaceNotFoundError(
                    f"no face was found in any of the {run.num_written} frames of '{video_path}'; expected a visible "
                    "face, frontal or half turned, at least some 50 pixels and a twentieth of the frame wide. "
                    "Choose another video or another part of it (--start, --duration)"
                )
            run.finish()
    return LipSyncReport(
        Path(output_path), run.num_written, run.num_faces, time.monotonic() - started, [*model.warnings, *run.warnings]
    )


def count_frames(sound: AudioFeatureStream, fps: float, options: LipSyncOptions) -> int:
    """Frames of the output at a constant rate: as long as the speech, or two more as in the reference."""
    if options.extra_frames:
        return num_reference_frames(sound.num_features, fps)
    return max(1, math.ceil(sound.num_samples / SAMPLE_RATE * fps - 1e-6))


def source_frames(
    path: str | Path, facts: VideoFacts, sound: AudioFeatureStream, total: int, options: LipSyncOptions
) -> Iterator[VideoFrame]:
    """The source's frames for the time of the speech, forward and backward where the video is the shorter one.

    A preview that reaches beyond the video shows the frames that the whole run has there, so it is counted from the
    video's beginning. The length a file declares is not relied on: one that ends early is played backward from there.
    """
    fps = options.fps or facts.fps
    end = total / fps if options.extra_frames else sound.num_samples / SAMPLE_RATE
    if options.start and facts.duration < options.start + end:
        frames = _from_time(read_pingpong(path, fps=options.fps), options.start - 0.5 / float(fps))
    else:
        frames = read_pingpong(path, start=options.start, fps=options.fps)
    return takewhile(lambda frame: frame.index == 0 or frame.time < end - 1e-6, frames)


def _from_time(frames: Iterator[VideoFrame], start: float) -> Iterator[VideoFrame]:
    """Frames from ``start`` seconds on, counted anew from the first of them."""
    first = None
    for frame in frames:
        if frame.time >= start:
            first = first or frame
            yield replace(
                frame, time=frame.time - first.time, pts=frame.pts - first.pts, index=frame.index - first.index
            )


def _stop_if(should_stop: Callable[[], bool] | None) -> None:
    if should_stop is not None and should_stop():
        raise Cancelled("stopped as asked; no file was written")


def blender(model: LipSyncModel, options: LipSyncOptions) -> FaceBlender:
    """What pastes the generated faces back."""
    mask = generation_mask(model.resolution, options.blend_mask or model.blend_mask or options.mask)
    return FaceBlender(model.resolution, mode=options.blend, mask=mask, feather=options.mask_smooth)


class _Run:
    """The state of one run: counters, progress, the face's place."""

    def __init__(self, model, options, detector, fps, total, on_progress, should_stop):
        self.model, self.options, self._total = model, options, total
        self._on_progress, self._should_stop = on_progress, should_stop
        self._started = time.monotonic()
        self._locate = FaceLocator(detector, model.resolution, options, fps)
        generator = torch.Generator("cpu").manual_seed(options.seed)
        self._chunks = ChunkGenerator(model, options, generator, self._on_step)
        self._blender = blender(model, options)
        self.num_written = self.num_faces = 0
        self._fraction = 0.0
        self.warnings: list[str] = []

    def frames(
        self, source: Iterator[VideoFrame], sound: AudioFeatureStream
    ) -> Iterator[tuple[VideoFrame, np.ndarray]]:
        """Every source frame in order, with its finished pixels."""
        tokens = TokenWindows(sound)
        for frame in source:
            _stop_if(self._should_stop)
            matrix = self._locate(frame)
            if matrix is None:
                yield from self._pasted(self._chunks.flush())
                yield self._count(frame, frame.pixels)
                continue
            aligned = warp_faces([frame.pixels], matrix[None], self.model.resolution, self.options.sampling)[0]
            heard = tokens.tokens([window_centre_at(frame.time)])[0]
            yield from self._pasted(self._chunks.push(FaceFrame(aligned, heard, _Placed(frame, matrix))))
        yield from self._pasted(self._chunks.flush())

    def _pasted(self, generated: Iterator[tuple[FaceFrame, torch.Tensor]]) -> Iterator[tuple[VideoFrame, np.ndarray]]:
        for item, face in generated:
            placed: _Placed = item.payload
            if not self.warnings and self._chunks.out_of_range > MAX_OUT_OF_RANGE:
                self.warnings.append(
                    f"the model's pictures exceed their range; is {self.model.resolution} the right resolution for "
                    f"{self.model.name}, and is the VAE the one it was trained with?"
                )
            if self.options.blend == "reference":
                pixels = to_pixels(torch.from_numpy(item.aligned)[None])[0]
                face = keep_surroundings(face, pixels, self._chunks.mask)
            self.num_faces += 1
            yield self._count(placed.frame, self._blender.paste(placed.frame.pixels, face, placed.matrix))

    def _count(self, frame: VideoFrame, pixels: np.ndarray) -> tuple[VideoFrame, np.ndarray]:
        _stop_if(self._should_stop)
        self.num_written += 1
        self._report(0)
        return frame, pixels

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
