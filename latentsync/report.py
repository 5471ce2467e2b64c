"""What a run did, frame by frame: for programs (JSON), for reading (text) and for looking at (picture)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .waveform import PEAKS_PER_SECOND

VERSION = 1  # of the JSON

BACKGROUND, INK, FAINT = (24, 26, 30), (205, 208, 214), (66, 70, 78)
WAVEFORM, FOUND, MISSING = (110, 140, 190), (80, 160, 105), (205, 85, 75)
SOURCE, RESULT = (150, 152, 158), (245, 180, 70)


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame of the result.

    time            s from the beginning of the result
    detected        whether its face was found, and so generated; not looked for after the speech (tail "keep")
    confidence      0..1 that it is a face; 0 without one
    source_opening  mouth opening of the source in units of the distance of the outer eye corners: about 0 closed, 0.3
                    wide open; None where unknown
    opening         the same of the result; None where it was not measured or there is no face
    faded           weight of the source's picture inside the generated region, 0..1; 1 in a kept tail
    """

    time: float
    detected: bool
    confidence: float
    source_opening: float | None = None
    opening: float | None = None
    faded: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LipSyncReport:
    """What a run did.

    path            the file that was written, None for frames in memory
    num_frames      frames of the result
    num_faces       those whose face was generated; the others are the source's
    seconds         what the run took
    warnings        for a person to read
    fps             frames a second of the result, the average where it varies
    duration        s, of the speech
    frames          one record a frame
    waveform_peaks  the largest |sample| of the speech in each fiftieth of a second, 0..1
    pace            how many times faster the video runs than it was taken (length "speed")
    """

    path: Path | None
    num_frames: int
    num_faces: int
    seconds: float
    fps: float
    duration: float
    warnings: list[str] = field(default_factory=list)
    frames: tuple[FrameRecord, ...] = ()
    waveform_peaks: tuple[float, ...] = ()
    pace: float = 1.0

    @property
    def num_tail(self) -> int:
        """Frames after the speech, the source's own (tail "keep")."""
        return sum(map(_is_tail, self.frames))

    def to_json(self) -> dict:
        """A dict of plain numbers, strings, lists and None; frames as columns."""
        return {
            "version": VERSION,
            "fps": round(self.fps, 4),
            "duration": round(self.duration, 4),
            "num_frames": self.num_frames,
            "num_faces": self.num_faces,
            "seconds": round(self.seconds, 2),
            "warnings": list(self.warnings),
            "frames": {
                "time": [round(frame.time, 4) for frame in self.frames],
                "detected": [int(frame.detected) for frame in self.frames],
                "confidence": [round(frame.confidence, 3) for frame in self.frames],
                "source_opening": [_rounded(frame.source_opening) for frame in self.frames],
                "opening": [_rounded(frame.opening) for frame in self.frames],
                "faded": [round(frame.faded, 3) for frame in self.frames],
            },
            "waveform": {"rate": PEAKS_PER_SECOND, "peaks": [round(peak, 3) for peak in self.waveform_peaks]},
        }

    def text(self) -> str:
        """A few lines for a person."""
        missing = self.num_frames - self.num_faces - self.num_tail
        lines = [
            f"{self.num_frames} frames at {self.fps:g} per second ({self.duration:.2f} s of speech), "
            f"made in {self.seconds:.1f} s",
            f"face found in {self.num_faces} of them, {missing} left as they were" if missing else "face found in each",
        ]
        if self.num_tail:
            lines.append(f"the last {self.num_tail} frames, after the speech, are the source's")
        if gap := self.longest_gap():
            lines.append(
                f"longest stretch without a face: {gap[1] - gap[0]:.2f} s, from {gap[0]:.2f} s to {gap[1]:.2f} s"
            )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def longest_gap(self) -> tuple[float, float] | None:
        """Begin and end in s of the longest stretch of frames without a face; None where every frame has one."""
        gaps = [(first, last) for found, first, last in _stretches(self) if not found]
        return max(gaps, key=lambda gap: gap[1] - gap[0], default=None)


def _is_tail(frame: FrameRecord) -> bool:
    return not frame.detected and frame.faded >= 1


def _rounded(opening: float | None) -> float | None:
    return None if opening is None else round(opening, 4)


def _ends(report: LipSyncReport) -> list[float]:
    """When each frame gives way to the next, s."""
    times = [frame.time for frame in report.frames]
    return [*times[1:], times[-1] + 1 / report.fps] if times else []


def _stretches(report: LipSyncReport) -> list[tuple[bool, float, float]]:
    """Runs of frames with a face or without: (found, begin, end) in s; a kept tail is neither."""
    timed = [pair for pair in zip(report.frames, _ends(report), strict=True) if not _is_tail(pair[0])]
    runs = [(found, list(run)) for found, run in groupby(timed, key=lambda pair: pair[0].detected)]
    return [(found, run[0][0].time, run[-1][1]) for found, run in runs]


def report_picture(report: LipSyncReport, width: int = 1280, height: int = 360) -> np.ndarray:
    """The run over time, (height, width, 3) uint8 RGB: the waveform, where a face was found, and how far the mouth is
    open in source and result. Raises ValueError below 160 x 120."""
    if width < 160 or height < 120:
        raise ValueError(f"a picture of {width} x {height} was asked for; expected at least 160 x 120")
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=max(10, height // 26))
    line, margin = max(10, height // 26) + 6, 10
    length = max([report.duration, *_ends(report)[-1:], 1e-6])
    left, right = margin, width - margin

    def x(time: float) -> float:
        return left + min(time / length, 1) * (right - left)

    draw.text((left, 4), f"{report.num_frames} frames, {report.text().splitlines()[1]}", INK, font)
    for label, colour, place in (("source", SOURCE, 0.72), ("result", RESULT, 0.86)):
        draw.text((left + (right - left) * place, 4), f"mouth: {label}" if label == "source" else label, colour, font)
    bottom = height - line
    rows = np.linspace(line + 6, bottom, 8)
    _draw_waveform(draw, report.waveform_peaks, x, (float(rows[0]), float(rows[3]) - 6), (left, right))
    for found, begin, end in _stretches(report):
        draw.rectangle((x(begin), rows[3], max(x(end) - 1, x(begin)), rows[4] - 8), FOUND if found else MISSING)
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
