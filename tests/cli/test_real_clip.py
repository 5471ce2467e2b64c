"""The measure of real clips, on videos whose lips are known: the source itself, the source five frames late."""

import math

import numpy as np
import pytest

from benchmarks.quality import SHOWN, Source, real_clip_sheet, real_clip_table, score_run
from latentsync.synthetic.clips import AvatarClip
from tests.unit.media_clips import write_clip

SIDE, FRAMES, AHEAD = 192, 30, 5


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The source, the same again, and one that shows five frames earlier what the source shows."""
    folder, clip = tmp_path_factory.mktemp("real"), AvatarClip(3, 3, duration=2.0)
    frames = [clip.frame(index, SIDE, SIDE) for index in range(FRAMES)]
    shown = {"source": frames, "ahead": frames[AHEAD:]}
    paths = {name: write_clip(folder / f"{name}.mp4", pictures=part, size=(SIDE, SIDE)) for name, part in shown.items()}
    return Source.of(paths["source"], 60.0), paths


def test_the_source_itself_is_perfect(clips):
    source, paths = clips
    score = score_run("own", source, paths["source"])
    assert (score.num_frames, score.r_sound, score.r_source) == (FRAMES, pytest.approx(1), pytest.approx(1))
    assert score.opening == pytest.approx(1)
    assert math.isinf(score.psnr) or score.psnr > 60


def test_lips_that_are_ahead_go_with_the_sound_and_not_with_the_source(clips):
    source, paths = clips
    score = score_run("ahead", source, paths["ahead"], AHEAD)
    assert score.num_frames == FRAMES - AHEAD
    assert score.r_sound > 0.9
    assert score.r_source < 0.7
    assert score.opening == pytest.approx(1, abs=0.05)
    assert score.psnr is None
    other = score_run("other 1", source, paths["ahead"], speaks_own=False)
    assert (other.r_sound, other.r_source) == (None, pytest.approx(score.r_source, abs=0.1))
    text = real_clip_table([score, other])
    assert "| ahead | " in text
    assert text.endswith(
        f"mean r with the source's lips {other.r_source:.2f}, from {other.r_source:.2f} to {other.r_source:.2f}."
    )


def test_the_sheet_has_a_row_of_faces_for_each_video(clips):
    source, paths = clips
    picture = real_clip_sheet(source, [source.video, paths["ahead"]])
    side = picture.shape[0] // 2
    assert picture.shape == (2 * side, SHOWN * side, 3)
    assert np.abs(picture[:side, :side].astype(int) - picture[side:, :side]).mean() > 0.5
