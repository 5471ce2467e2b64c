"""Decoding where another package has turned PyAV's logging on, as importing torchvision 0.25 and older does.

PyAV's log callback takes Python's lock in FFmpeg's decoding threads. Whoever waits for these with the lock held waits
for ever; so each case is a process of its own, with a time limit.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.unit.media_clips import write_clip

ROOT = Path(__file__).resolve().parents[2]
OPENED = 10
LIMIT = 300  # s; the whole takes 5 on one idle core

# argv: the video, and when logging is turned on. Each clip is left in the middle of decoding.
LEAVING = f"""
import sys
import av.logging
from latentsync.media.video_reader import probe_video, read_frames

path, when = sys.argv[1:]
if when == "before":
    av.logging.set_level(av.logging.ERROR)
for attempt in range({OPENED}):
    probe_video(path)
    frames = read_frames(path, start=0.4 * (attempt % 2))
    next(frames)
    if when == "between":
        av.logging.set_level(av.logging.ERROR)
    next(frames)
    frames.close()
    assert av.logging.get_level() == av.logging.ERROR  # as it was found
    if when == "between":
        av.logging.set_level(None)
print("left", attempt + 1)
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """40 noisy frames, which give every decoding thread work."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 180, 320, 3), np.uint8)
    pictures = [noise[index % 4] for index in range(40)]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures=pictures, size=(320, 180))


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_video_left_in_the_middle_does_not_hang(clip, when):
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, clip, when], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.stdout == f"left {OPENED}\n", done.stderr[-2000:]
