"""Frames of a part of a source at 25 fps, by their timestamps, each with its true time."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from latentsync.media.video_decoder import FrameSelection, VideoDecoder
from latentsync.media.video_reader import FrameConverter

from .settings import FPS


@dataclass(frozen=True)
class TimedFrame:
    """pixels: (H, W, 3) uint8 RGB, read-only; time: s from the source's first picture; source: which of its pictures of
    this part is shown, so that repeats are told; is_damaged: the decoder had to guess."""

    pixels: np.ndarray
    time: float
    source: int
    is_damaged: bool = False


def frames_at_25(path: Path, start: float, duration: float) -> Iterator[TimedFrame]:
    """One in memory at a time. A rate that varies is followed: a picture is shown for as long as it lasts.

    The part begins with the picture nearest to `start`, whose own time counts: sound taken by `time` is in step.
    Raises MediaError.
    """
    with VideoDecoder(path) as decoder:
        selection = FrameSelection(decoder, start, duration, Fraction(FPS))
        convert, begin = FrameConverter(decoder), None
        for selected in selection:
            if begin is None:
                is_known = start > 0 and selected.source_pts is not None
                begin = float((selected.source_pts - decoder.origin) * decoder.time_base) if is_known else start
            time = begin + selected.pts / FPS
            yield TimedFrame(convert(selected.frame), time, selected.source_index, bool(selected.frame.is_corrupt))
