"""What stays as it is in front of a face, a hand or a microphone, as a picture or a video drawn by the user."""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from .errors import FrameCountError, MediaError
from .media.container import NoPictureError, opened_picture
from .media.video_reader import VideoFacts, probe_video, video_length
from .options import LipSyncOptions
from .timeline import Timeline, source_frames

# Share of black to white that counts as all black or all white: a video's coding leaves neither exact, and what is
# protected must keep the source's very bits.
SLACK = 0.04
SAME_RATE = 0.005  # relative difference of frame rates that is only rounding


def protect_masks(
    path: str | Path, video_path: str | Path, facts: VideoFacts, timeline: Timeline, options: LipSyncOptions
) -> Iterator[np.ndarray]:
    """For each frame of the result, in step with timeline.source_frames: (H, W) float32 in [0, 1], 1 keeps the source.

    path: a picture, which counts for all frames, or a video with the frames of the source at the same times. White
    keeps, black and what is transparent does not. Masks are to be read only.

    Raises MediaError where the file cannot be read or has another size than the video, FrameCountError for a video of
    another length or frame rate, at once or where it turns out to end early.
    """
    picture = _picture(path)
    if picture is not None:
        _check_size(path, picture.shape[1], picture.shape[0], facts)
        return repeat(picture)
    mask_facts = probe_video(path)
    _check_size(path, mask_facts.width, mask_facts.height, facts)
    length, expected, fps = video_length(path), video_length(video_path), float(facts.fps)
    if abs(length - expected) * fps > 0.75 or abs(mask_facts.fps / facts.fps - 1) > SAME_RATE:
        raise FrameCountError(
            f"the protecting mask '{path}' runs {length:.2f} s at {float(mask_facts.fps):.5g} frames a second, but the "
            f"video runs {expected:.2f} s at {fps:.5g}; expected one mask for each of its frames. Draw it over all of "
            "the video and export it at the same rate, or give one picture for all frames"
        )
    return _running(path, mask_facts, timeline, options)


def _running(path: str | Path, facts: VideoFacts, timeline: Timeline, options: LipSyncOptions) -> Iterator[np.ndarray]:
    count = 0
    for frame in source_frames(path, facts, timeline, options):
        yield _stretched(cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255)
        count += 1
    raise FrameCountError(
        f"the protecting mask '{path}' ended after {count} frames, before the video; expected one mask for each of its "
        "frames. Export it again, or give one picture for all frames"
    )


def _picture(path: str | Path) -> np.ndarray | None:
    """(H, W) float32 in [0, 1], or None where the file is no still picture."""
    try:
        with opened_picture(path, MediaError, "the protecting mask") as image:
            if getattr(image, "is_animated", False):
                return None
            if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would cut off at 255
                return _stretched(np.asarray(image, np.float32) / 65535)
            upright = image.convert("RGBA")
            black = Image.new("RGBA", upright.size, "black")
            return _stretched(np.asarray(Image.alpha_composite(black, upright).convert("L"), np.float32) / 255)
    except NoPictureError:
        return None


def _stretched(mask: np.ndarray) -> np.ndarray:
    return np.clip((mask - SLACK) / (1 - 2 * SLACK), 0, 1)


def _check_size(path: str | Path, width: int, height: int, facts: VideoFacts) -> None:
    if (width, height) != (facts.width, facts.height):
        raise MediaError(
            f"the protecting mask '{path}' is {width} x {height}, but the video is {facts.width} x {facts.height}; "
            "expected the same size. Resize the mask, or draw it over a frame of the video"
        )
