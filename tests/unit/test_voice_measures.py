"""The measures of eval/ on cases whose result is known."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from eval import chunk_borders, frame_rates, pauses
from eval.beds import BELOW_SPEECH, ROOM, with_bed, with_pauses
from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import VideoWriter
from latentsync.options import LipSyncOptions
from latentsync.synthetic.clips import AvatarClip

OPTIONS = LipSyncOptions(num_inference_steps=2, chunk_frames=4, chunk_overlap=0, colour_match=False)


@pytest.fixture(scope="module")
def faces(small_model) -> chunk_borders.Faces:
    rng, side = np.random.default_rng(0), small_model.resolution
    aligned = rng.integers(0, 256, (8, side, side, 3), dtype=np.uint8)
    return chunk_borders.Faces(aligned, torch.randn(8, 50, 384, generator=torch.Generator().manual_seed(0)))


def test_without_an_overlap_every_step_is_the_usual_way(small_model, faces):
    with torch.inference_mode():
        joint = chunk_borders.overlapped_at_every_step(faces, small_model, OPTIONS)
        usual = chunk_borders.chunked(faces, small_model, OPTIONS)
    np.testing.assert_allclose(joint, usual, atol=1e-4)


@pytest.mark.parametrize(("overlap", "hears"), [(0, False), (2, True)])
def test_chunks_hear_of_each_other_through_the_frames_they_share(small_model, faces, overlap, hears):
    options = LipSyncOptions(num_inference_steps=2, chunk_frames=4, chunk_overlap=overlap, colour_match=False)
    other = chunk_borders.Faces(np.concatenate([faces.aligned[:5], 255 - faces.aligned[5:]]), faces.tokens)
    with torch.inference_mode():
        first, second = (chunk_borders.overlapped_at_every_step(one, small_model, options)[0] for one in (faces, other))
    assert np.array_equal(first, second) != hears


def test_weights_of_neighbouring_chunks_add_up_to_one():
    weight = chunk_borders.fading(16, 4)
    torch.testing.assert_close(weight[-4:] + weight[:4], torch.ones(4))
    torch.testing.assert_close(weight[4:-4], torch.ones(8))


def test_a_jump_is_found_where_it_is():
    """Frames that change by one level, and by ten at the border."""
    values = np.cumsum([0, *[1] * 15, 10, *[1] * 15])
    frames = np.tile((values / 127.5)[:, None, None, None], (1, 3, 4, 4))
    found = chunk_borders.jumps(frames, np.ones((4, 4), bool))
    (window,) = chunk_borders.borders(32, LipSyncOptions(chunk_overlap=0))
    assert found[window] == pytest.approx(10)
    assert np.delete(found, window) == pytest.approx(1)
    shifted = np.ones(31)
    assert chunk_borders.inside(found, shifted, 16) == pytest.approx(1)  # the border is taken from the other run


def test_borders_span_the_shared_frames():
    windows = chunk_borders.borders(40, LipSyncOptions(chunk_overlap=4))
    assert [list(window) for window in windows] == [[11, 12, 13, 14, 15], [23, 24, 25, 26, 27]]


def test_pauses_are_silent_with_closed_lips_and_the_rest_is_kept():
    own = AvatarClip(0, 4, duration=3.6).speech
    (pause,) = pauses.pauses_of(3.6)
    assert pause == (1.2, 2.4)
    speech = with_pauses(own, [pause])
    inside = slice(int(1.25 * 16_000), int(2.35 * 16_000))
    assert not speech.waveform[inside].any()
    np.testing.assert_array_equal(speech.waveform[: int(1.1 * 16_000)], own.waveform[: int(1.1 * 16_000)])
    assert speech.lips_at(np.array([1.8]))[0, 0] == pytest.approx(0.02, abs=1e-3)
    quiet = pauses.in_pauses(np.array([1.3, 1.6, 2.1, 2.3, 3.0]), [pause])
    assert list(quiet) == [False, True, True, False, False]


@pytest.mark.parametrize("bed", ["music", "noise"])
def test_beds_lie_below_the_speech_as_said(bed):
    speech = with_pauses(AvatarClip(0, 4, duration=4.5).speech, [(1.5, 3.0)]).waveform * 0.5
    added = with_bed(speech, bed, np.random.default_rng(0)) - speech
    below = 20 * np.log10(speech[np.abs(speech) > ROOM].std() / added.std())
    assert below == pytest.approx(BELOW_SPEECH[bed], abs=0.3)


def test_a_shift_of_sound_is_measured():
    sound = np.random.default_rng(0).standard_normal(16_000)
    assert frame_rates.shift(sound, np.roll(sound, 80)) == pytest.approx(5.0)
    assert frame_rates.shift(sound, sound) == 0


def test_variable_source_has_uneven_times(tmp_path):
    show = frame_rates.avatar_at(AvatarClip(1, 2, duration=0.5))
    frame_rates.write_source(show, 0.5, None, tmp_path / "variable.mp4")
    intervals = np.diff([frame.time for frame in read_frames(tmp_path / "variable.mp4")])
    assert 1 / 61 < intervals.min() < 0.03 < intervals.max() < 1 / 19


def test_a_video_shows_the_frame_of_each_moment(tmp_path):
    with VideoWriter(tmp_path / "grey.mp4", 32, 32, rate=Fraction(10)) as writer:
        for level in range(0, 250, 50):
            writer.write(np.full((32, 32, 3), level, np.uint8))
    show = frame_rates.video_at(tmp_path / "grey.mp4", 0.4)
    shown = [show(moment).mean() for moment in (0.0, 0.09, 0.1, 0.25, 0.39, 9.0)]
    assert shown == pytest.approx([0, 0, 50, 100, 150, 150], abs=3)


def test_of_one_s_own_video_the_lips_are_not_known():
    measure = pauses._Measure(90, 25.0, 3.6, None)
    opening = np.where(np.arange(90) % 2 == 0, 0.1, 0.14)
    score = measure("room", "close", opening)
    assert score.motion == pytest.approx(0.04 * 25)
    assert score.opening == pytest.approx(0.12, abs=0.01)
    assert score.r is None
    assert pauses.table([score, measure("room", "reference", 2 * opening)]).count("| 0.50 |") == 1
