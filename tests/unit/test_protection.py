"""Protecting masks: a picture for all frames, or a video in step with the frames that are shown."""

from dataclasses import replace
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from latentsync.errors import FrameCountError, MediaError
from latentsync.media.video_reader import probe_video
from latentsync.options import LipSyncOptions
from latentsync.run.timeline import Timeline, protect_masks, source_frames
from tests.unit.media_clips import numbered_picture, read_number, write_clip

SIZE = (160, 96)


def timeline(seconds: float, fps=Fraction(25), source=Fraction(0)) -> Timeline:
    """Of a video that is to speak for so long."""
    return Timeline(
        fps=fps,
        time_base=1 / fps,
        speech=seconds,
        end=seconds,
        num_frames=round(seconds * fps),
        source=source,
        whole_speech=Fraction(seconds),
        repeats=True,
    )


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "video.mp4"
    write_clip(path, pictures=12, size=SIZE)
    return path


@pytest.mark.parametrize(
    ("options", "time"),
    [
        (LipSyncOptions(), timeline(0.48)),
        (LipSyncOptions(), timeline(1.2)),  # bounces
        (LipSyncOptions(length="loop"), timeline(1.2)),
        (LipSyncOptions(fps=Fraction(30)), timeline(1.0, Fraction(30))),
        (LipSyncOptions(length="speed"), timeline(0.8, source=Fraction(12, 25))),
        (LipSyncOptions(start=0.2), timeline(0.6)),
    ],
    ids=["whole", "bounce", "loop", "resampled", "speed", "start"],
)
def test_a_mask_video_shows_the_frame_that_is_shown(video, tmp_path, options, time):
    path = tmp_path / "mask.mkv"
    write_clip(path, pictures=12, size=SIZE, pts=range(0, 480, 40), time_base=Fraction(1, 1000))
    facts = probe_video(video)
    shown = [read_number(frame.pixels) for frame in source_frames(video, facts, time, options)]
    masks = list(islice(protect_masks(path, video, facts, time, options), len(shown)))
    assert [read_number(mask[..., None].repeat(3, 2) * 255) for mask in masks] == shown
    assert len(set(shown)) > 6


def test_what_coding_leaves_of_black_and_white_is_taken_for_them(video, tmp_path):
    mask = np.zeros((*SIZE[::-1], 3), np.uint8)
    mask[:, 80:] = 255
    write_clip(tmp_path / "mask.mp4", pictures=[mask] * 12, size=SIZE)
    masks = protect_masks(tmp_path / "mask.mp4", video, probe_video(video), timeline(0.4), LipSyncOptions())
    for mask in islice(masks, 10):
        assert mask.dtype == np.float32
        assert (mask[:, :70] == 0).all()
        assert (mask[:, 90:] == 1).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "I;16"])
def test_a_picture_counts_for_all_frames(video, tmp_path, mode):
    levels = np.zeros(SIZE[::-1], np.uint8)
    levels[:, 80:] = 255
    if mode == "I;16":
        picture = Image.fromarray(levels.astype(np.uint16) * 257)
    elif mode == "RGBA":
        white = np.full_like(levels, 255)
        picture = Image.fromarray(np.dstack([white, white, white, levels]))
    else:
        picture = Image.fromarray(levels).convert(mode)
    picture.save(tmp_path / "mask.png")
    masks = protect_masks(tmp_path / "mask.png", video, probe_video(video), timeline(2.0), LipSyncOptions())
    for mask in islice(masks, 50):
        assert np.array_equal(mask, levels.astype(np.float32) / 255)


def test_another_size_is_refused(video, tmp_path):
    facts = probe_video(video)
    Image.new("L", (96, 160)).save(tmp_path / "mask.png")
    with pytest.raises(MediaError, match="96 x 160, but the video is 160 x 96"):
        protect_masks(tmp_path / "mask.png", video, facts, timeline(0.4), LipSyncOptions())
    write_clip(tmp_path / "mask.mp4", pictures=12, size=(320, 192))
    with pytest.raises(MediaError, match="320 x 192"):
        protect_masks(tmp_path / "mask.mp4", video, facts, timeline(0.4), LipSyncOptions())


@pytest.mark.parametrize("given", [{"pictures": 11}, {"pictures": 13}, {"pictures": 12, "fps": 24}])
def test_another_length_or_rate_is_refused_at_once(video, tmp_path, given):
    write_clip(tmp_path / "mask.mp4", size=SIZE, **given)
    with pytest.raises(FrameCountError, match="one mask for each"):
        protect_masks(tmp_path / "mask.mp4", video, probe_video(video), timeline(0.4), LipSyncOptions())


def test_a_mask_that_ends_early_never_shortens_the_result(video, tmp_path):
    write_clip(tmp_path / "mask.mp4", pictures=12, size=SIZE)
    facts, time = probe_video(video), timeline(0.48)
    masks = protect_masks(tmp_path / "mask.mp4", video, facts, replace(time, end=0.2), LipSyncOptions())
    with pytest.raises(FrameCountError, match="ended after 5 frames"):
        list(masks)


def test_unreadable_masks_are_named(video, tmp_path):
    facts, picture = probe_video(video), numbered_picture(1, *SIZE)
    with pytest.raises(MediaError, match=r"none\.png"):
        protect_masks(tmp_path / "none.png", video, facts, timeline(0.4), LipSyncOptions())
    (tmp_path / "text.png").write_text("a mask")
    with pytest.raises(MediaError, match=r"text\.png"):
        protect_masks(tmp_path / "text.png", video, facts, timeline(0.4), LipSyncOptions())
    Image.fromarray(picture).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:120])
    with pytest.raises(MediaError, match=r"cut\.png"):
        protect_masks(tmp_path / "cut.png", video, facts, timeline(0.4), LipSyncOptions())
