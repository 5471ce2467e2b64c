"""What a run did, frame by frame: for programs (JSON), for reading (text) and for looking at (picture)."""

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .. import __version__
from ..files import sha256_of
from ..media.container import open_media
from ..media.marking import DIGITAL_SOURCE_TYPE, STATEMENT, Marking
from ..media.output_file import written_whole
from ..model.device import thread_count
from ..model.loading import LipSyncModel
from ..options import LipSyncOptions
from ..restoration.restorers import Restorer
from ..voice_activity import PEAKS_PER_SECOND, OffsetEstimate

# Where a result comes from: an entry in its metadata, written and read back.

TOOL = "latentsync-nodes"


def marking_of(model: LipSyncModel, options: LipSyncOptions) -> Marking:
    """What the options ask for. Names of files are told without folders. Raises OptionError.

    The entry's digest is the SHA-256 of its other fields as JSON with sorted keys and no blanks: it shows that a
    program has cut or changed the entry. It is no signature: whoever changes it on purpose can make another.
    """
    if not options.marking:
        return Marking(None, options.visible_mark)
    entry = {
        "statement": STATEMENT,
        "ai_generated": True,
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "tool": TOOL,
        "version": __version__,
        "model": model.name,
        "model_sha256": None if model.unet_path is None else sha256_of(model.unet_path),
        "adapter_sha256": None if model.lora_path is None else sha256_of(model.lora_path),
    }
    return Marking({**entry, "digest": _digest(entry)}, options.visible_mark)


def read_provenance(path: str | Path) -> dict | None:
    """The provenance entry of a file; None where it has none, or one that was cut or changed. Raises MediaError."""
    with open_media(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    try:
        entry = json.loads(tags["provenance"])
        return entry if entry.pop("digest") == _digest(entry) else None
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _digest(entry: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# What a result was made with, for its report: programs, model, settings.

PACKAGES = ("torch", "diffusers", "transformers", "av", "numpy", "opencv-python", "opencv-python-headless")


def run_facts(model: LipSyncModel, options: LipSyncOptions, restorer: Restorer | None) -> dict:
    """A dict of plain values: versions, device, model and restorer with their files' SHA-256, settings.

    Names of files are given without their folders, so that a report can be passed on.
    """
    return {
        "versions": {"latentsync": __version__, "python": platform.python_version(), **_packages()},
        "system": platform.platform(),
        "device": _device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": {part: thread_count(getattr(model, part)) for part in ("unet", "vae", "whisper")},
        "model": {
            "name": model.name,
            "resolution": model.resolution,
            "framing": model.framing,
            "files": _hashes(model),
            "lora": _lora(model),
        },
        "restorer": None if restorer is None else {"name": restorer.name, "sha256": restorer.sha256},
        "settings": {field.name: _plain(getattr(options, field.name)) for field in dataclasses.fields(options)},
    }


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # one of the two opencv wheels, usually
    return found


def _device_name(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _hashes(model: LipSyncModel) -> dict[str, str]:
    return {} if model.unet_path is None else {model.unet_path.name: sha256_of(model.unet_path)}


def _lora(model: LipSyncModel) -> dict | None:
    path = model.lora_path
    return None if path is None else {"name": path.name, "strength": model.lora_strength, "sha256": sha256_of(path)}


def _plain(value):
    return float(value) if isinstance(value, Fraction) else value


# The report

VERSION = 2  # of the JSON

BACKGROUND, INK, FAINT = (24, 26, 30), (205, 208, 214), (66, 70, 78)
WAVEFORM, VOICE = (110, 140, 190), (70, 95, 140)
MADE, SHOWN, MISSING = (80, 160, 105), (215, 175, 75), (205, 85, 75)  # generated; found, but the source shown; lost
MAX_BARS = 4  # faces that get a bar in the picture
SOURCE, RESULT = (150, 152, 158), (245, 180, 70)


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One face in one frame of the result.

    time            s from the beginning of the result
    detected        whether the face was found; not looked for after the speech (tail "keep")
    confidence      0..1 that it is a face; 0 without one
    source_opening  mouth opening of the source in units of the distance of the outer eye corners: about 0 closed, 0.3
                    wide open; None where unknown
    opening         the same of the result; None where it was not measured or there is no face
    faded           weight of the source's picture inside the generated region, 0..1; 1 where the face was found but not
                    generated (turned away, covered, too small, a pause with silence "source"), and in a kept tail
    yaw             degrees, positive turned to the picture's right; None where unknown
    voice           0..1, whether the face's speech is heard, not a pause
    restored        whether super-resolution changed the face
    """

    time: float
    detected: bool
    confidence: float
    source_opening: float | None = None
    opening: float | None = None
    faded: float = 0.0
    yaw: float | None = None
    voice: float = 1.0
    restored: bool = False

    @property
    def is_made(self) -> bool:
        """Whether something of a generated face is seen."""
        return self.detected and self.faded < 1


@dataclass(frozen=True)
class FaceRecords:
    """One of the faces that speak. index: its number in the clip; choice: how it was asked for; frames: one a frame."""

    index: int
    choice: str
    frames: tuple[FrameRecord, ...]


@dataclass(frozen=True)
class SourceFrames:
    """What was made to speak.

    path     the source video
    start    s of it from which on its frames are counted
    indices  for each frame of the result, which of those it shows
    """

    path: Path
    start: float
    indices: tuple[int, ...]

    def to_json(self, folder: Path | None) -> dict:
        """The path as seen from `folder`, so that both can be moved together; without one the name alone."""
        name = self.path.name
        if folder is not None:
            try:
                name = Path(os.path.relpath(self.path, folder)).as_posix()
            except ValueError:  # on another drive
                name = str(self.path.absolute())
        return {"video": name, "start": round(self.start, 4), "frames": list(self.indices)}


@dataclass(frozen=True)
class SyncRecord:
    """How the lips of the result go with its sound, as a SyncNet sees it (see sync/score.py).

    syncnet   which one, for a person to read; note: what to know of the figures
    seconds   that were looked at; None for all figures where it could not be measured, see note
    """

    syncnet: str
    score: float | None = None
    accuracy: float | None = None
    offset_ms: float | None = None
    seconds: float | None = None
    note: str = ""

    def text(self) -> str:
        """A line for a person."""
        if self.score is None:
            return f"sync was not measured: {self.note}"
        figures = f"sync score {self.score:.3f}, offset {self.offset_ms:+.0f} ms over {self.seconds:.1f} s"
        return f"{figures}, by {self.syncnet}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True, kw_only=True)
class LipSyncReport:
    """What a run did.

    path            the file that was written, None for frames in memory
    num_frames      frames of the result
    seconds         what the run took; stage_seconds: by stage, wall time
    warnings        for a person to read
    fps             frames a second of the result, the average where it varies
    duration        s, of the speech
    faces           those who speak
    waveform_peaks  the largest |sample| of the speech in each fiftieth of a second, 0..1
    pace            how many times faster the video runs than it was taken (length "speed")
    offset          how far the lips of the first face come after its speech, None where it cannot be told
    source          what the frames of the result show; None for frames in memory
    sync            None where it was not measured
    facts           what the result was made with, see run/report.py
    """

    path: Path | None
    num_frames: int
    seconds: float
    fps: float
    duration: float
    warnings: list[str] = field(default_factory=list)
    faces: tuple[FaceRecords, ...] = ()
    waveform_peaks: tuple[float, ...] = ()
    pace: float = 1.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    offset: OffsetEstimate | None = None
    source: SourceFrames | None = None
    sync: SyncRecord | None = None
    facts: dict = field(default_factory=dict)

    @property
    def frames(self) -> tuple[FrameRecord, ...]:
        """Of the first face."""
        return self.faces[0].frames if self.faces else ()

    @property
    def num_faces(self) -> int:
        """Frames in which a generated face is seen; the others are the source's."""
        frames = zip(*(face.frames for face in self.faces), strict=True)
        return sum(any(face.is_made for face in faces) for faces in frames)

    @property
    def num_tail(self) -> int:
        """Frames after the speech, the source's own (tail "keep")."""
        return sum(map(_is_tail, self.frames))

    def to_json(self, folder: Path | None = None) -> dict:
        """A dict of plain numbers, strings, lists and None; frames as columns. folder: where it is written, if so."""
        return {
            "version": VERSION,
            "fps": round(self.fps, 4),
            "duration": round(self.duration, 4),
            "num_frames": self.num_frames,
            "num_faces": self.num_faces,
            "seconds": round(self.seconds, 2),
            "warnings": list(self.warnings),
            "faces": [
                {"index": face.index, "choice": face.choice, "frames": _columns(face.frames)} for face in self.faces
            ],
            "offset": None
            if self.offset is None
            else {
                "ms": round(self.offset.ms, 1),
                "confidence": round(self.offset.confidence, 3),
                "method": self.offset.method,
            },
            "source": None if self.source is None else self.source.to_json(folder),
            "sync": None if self.sync is None else dataclasses.asdict(self.sync),
            "stages": {name: round(seconds, 3) for name, seconds in self.stage_seconds.items()},
            **self.facts,
            "waveform": {"rate": PEAKS_PER_SECOND, "peaks": [round(peak, 3) for peak in self.waveform_peaks]},
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON, and its picture beside it; each complete or not at all. Raises OutputError."""
        with written_whole(path) as part:
            part.write_text(json.dumps(self.to_json(path.absolute().parent)), encoding="utf-8")
        with written_whole(path.with_suffix(".png")) as part:
            Image.fromarray(report_picture(self)).save(part, format="PNG")

    def text(self) -> str:
        """A few lines for a person."""
        missing = self.num_frames - self.num_faces - self.num_tail
        lines = [
            f"{self.num_frames} frames at {self.fps:g} per second ({self.duration:.2f} s of speech), "
            f"made in {self.seconds:.1f} s",
            f"face made in {self.num_faces} of them, {missing} left as they were" if missing else "face made in each",
        ]
        if len(self.faces) > 1:
            lines += [
                f"face {face.index} ({face.choice}): made in {sum(frame.is_made for frame in face.frames)} frames"
                for face in self.faces
            ]
        if self.num_tail:
            lines.append(f"the last {self.num_tail} frames, after the speech, are the source's")
        if gap := self.longest_gap():
            lines.append(
                f"longest stretch without a face: {gap[1] - gap[0]:.2f} s, from {gap[0]:.2f} s to {gap[1]:.2f} s"
            )
        if restored := sum(frame.restored for face in self.faces for frame in face.frames):
            lines.append(f"face restored in {restored} frames")
        if self.offset is not None and self.offset.is_sure:
            way = "after" if self.offset.ms >= 0 else "before"
            lines.append(
                f"the lips come about {abs(self.offset.ms):.0f} ms {way} the speech (confidence "
                f"{self.offset.confidence:.2f})"
            )
        if self.sync is not None:
            lines.append(self.sync.text())
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def longest_gap(self) -> tuple[float, float] | None:
        """Begin and end in s of the longest stretch without the first face; None where every frame has it."""
        gaps = [(first, last) for found, first, last in _stretches(self.frames, self.fps, _is_found) if not found]
        return max(gaps, key=lambda gap: gap[1] - gap[0], default=None)


def _columns(frames: Sequence[FrameRecord]) -> dict[str, list]:
    return {
        "time": [round(frame.time, 4) for frame in frames],
        "detected": [int(frame.detected) for frame in frames],
        "confidence": [round(frame.confidence, 3) for frame in frames],
        "source_opening": [_rounded(frame.source_opening) for frame in frames],
        "opening": [_rounded(frame.opening) for frame in frames],
        "faded": [round(frame.faded, 3) for frame in frames],
        "yaw": [None if frame.yaw is None else round(frame.yaw, 1) for frame in frames],
        "voice": [round(frame.voice, 3) for frame in frames],
        "restored": [int(frame.restored) for frame in frames],
    }


def _is_tail(frame: FrameRecord) -> bool:
    return not frame.detected and frame.faded >= 1


def _rounded(opening: float | None) -> float | None:
    return None if opening is None else round(opening, 4)


def _is_found(frame: FrameRecord) -> bool:
    return frame.detected


def _colour(frame: FrameRecord) -> tuple[int, int, int]:
    return MADE if frame.is_made else SHOWN if frame.detected else MISSING


def _ends(frames: Sequence[FrameRecord], fps: float) -> list[float]:
    """When each frame gives way to the next, s."""
    times = [frame.time for frame in frames]
    return [*times[1:], times[-1] + 1 / fps] if times else []


def _stretches(frames: Sequence[FrameRecord], fps: float, key: Callable) -> list[tuple[object, float, float]]:
    """Runs of frames of one key: (key, begin, end) in s; a kept tail is left out."""
    timed = [pair for pair in zip(frames, _ends(frames, fps), strict=True) if not _is_tail(pair[0])]
    runs = [(value, list(run)) for value, run in groupby(timed, key=lambda pair: key(pair[0]))]
    return [(value, run[0][0].time, run[-1][1]) for value, run in runs]


def report_picture(report: LipSyncReport, width: int = 1280, height: int = 360) -> np.ndarray:
    """The run over time, (height, width, 3) uint8 RGB: the waveform, where somebody speaks, for each face where it was
    generated, shown as it was, or lost, and how far the first one's mouth is open in source and result.

    Raises ValueError below 160 x 120.
    """
    if width < 160 or height < 120:
        raise ValueError(f"a picture of {width} x {height} was asked for; expected at least 160 x 120")
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=max(10, height // 26))
    line, margin = max(10, height // 26) + 6, 10
    length = max([report.duration, *_ends(report.frames, report.fps)[-1:], 1e-6])
    left, right = margin, width - margin

    def x(time: float) -> float:
        return left + min(time / length, 1) * (right - left)

    draw.text((left, 4), f"{report.num_frames} frames, {report.text().splitlines()[1]}", INK, font)
    for label, colour, place in (("source", SOURCE, 0.72), ("result", RESULT, 0.86)):
        draw.text((left + (right - left) * place, 4), f"mouth: {label}" if label == "source" else label, colour, font)
    bottom = height - line
    rows = np.linspace(line + 6, bottom, 8)
    _draw_waveform(draw, report.waveform_peaks, x, (float(rows[0]), float(rows[3]) - 6), (left, right))
    for spoken, begin, end in _stretches(report.frames, report.fps, lambda frame: frame.voice >= 0.5):
        if spoken:
            draw.line((x(begin), rows[3] - 4, max(x(end) - 1, x(begin)), rows[3] - 4), VOICE, width=3)
    bars = np.linspace(rows[3], rows[4] - 6, min(len(report.faces), MAX_BARS) + 1)
    for face, top, below in zip(report.faces, bars[:-1], bars[1:], strict=False):
        for colour, begin, end in _stretches(face.frames, report.fps, _colour):
            draw.rectangle((x(begin), float(top), max(x(end) - 1, x(begin)), float(below) - 2), colour)
    openings = [
        value for frame in report.frames for value in (frame.source_opening, frame.opening) if value is not None
    ]
    highest = max([0.2, *openings])
    draw.line((left, bottom, right, bottom), FAINT)
    for name, colour in (("source_opening", SOURCE), ("opening", RESULT)):
        points = [(frame.time, getattr(frame, name)) for frame in report.frames]
        for known, run in groupby(points, key=lambda point: point[1] is not None):
            curve = [(x(time), bottom - value / highest * (bottom - float(rows[4]))) for time, value in run if known]
            if len(curve) == 1:
                draw.point(curve, colour)
            elif curve:
                draw.line(curve, colour, width=2)
    for share in (0, 0.25, 0.5, 0.75, 1):
        text = f"{share * length:.2f} s"
        place = left + share * (right - left - draw.textlength(text, font))
        draw.text((place, bottom + 2), text, INK, font)
    return np.asarray(image).copy()


def _draw_waveform(draw: ImageDraw.ImageDraw, peaks: Sequence[float], x, rows: tuple, columns: tuple) -> None:
    """Each column shows the loudest peak of its time."""
    middle, half = sum(rows) / 2, (rows[1] - rows[0]) / 2
    draw.line((columns[0], middle, columns[1], middle), FAINT)
    loudest: dict[int, float] = {}
    for index, peak in enumerate(peaks):
        first, last = int(x(index / PEAKS_PER_SECOND)), int(x((index + 1) / PEAKS_PER_SECOND))
        for column in range(first, max(last, first + 1)):
            loudest[column] = max(loudest.get(column, 0), peak)
    for column, peak in loudest.items():
        draw.line((column, middle - peak * half, column, middle + peak * half), WAVEFORM)
