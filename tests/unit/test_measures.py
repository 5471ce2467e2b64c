"""Measures of benchmarks/ and the beds of sound in tests on cases whose result is known."""

import numpy as np
import pytest

from benchmarks import pictures
from latentsync.options import LipSyncOptions
from latentsync.synthetic.clips import AvatarClip
from tests.unit.sound_beds import BELOW_SPEECH, ROOM, with_bed, with_pauses


def test_a_jump_is_found_where_it_is():
    """Frames that change by one level, and by ten at the border."""
    values = np.cumsum([0, *[1] * 15, 10, *[1] * 15])
    frames = np.tile((values / 127.5)[:, None, None, None], (1, 3, 4, 4))
    found = pictures.jumps(frames, np.ones((4, 4), bool))
    (window,) = pictures.border_windows(32, LipSyncOptions(chunk_overlap=0))
    assert found[window] == pytest.approx(10)
    assert np.delete(found, window) == pytest.approx(1)
    shifted = np.ones(31)
    assert pictures.inside(found, shifted, 16) == pytest.approx(1)  # the border is taken from the other run


def test_borders_span_the_shared_frames():
    windows = pictures.border_windows(40, LipSyncOptions(chunk_overlap=4))
    assert [list(window) for window in windows] == [[11, 12, 13, 14, 15], [23, 24, 25, 26, 27]]


def test_pauses_are_silent_with_closed_lips_and_the_rest_is_kept():
    own = AvatarClip(0, 4, duration=3.6).speech
    speech = with_pauses(own, [(1.2, 2.4)])
    inside = slice(int(1.25 * 16_000), int(2.35 * 16_000))
    assert not speech.waveform[inside].any()
    np.testing.assert_array_equal(speech.waveform[: int(1.1 * 16_000)], own.waveform[: int(1.1 * 16_000)])
    assert speech.lips_at(np.array([1.8]))[0, 0] == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize("bed", ["music", "noise"])
def test_beds_lie_below_the_speech_as_said(bed):
    speech = with_pauses(AvatarClip(0, 4, duration=4.5).speech, [(1.5, 3.0)]).waveform * 0.5
    added = with_bed(speech, bed, np.random.default_rng(0)) - speech
    below = 20 * np.log10(speech[np.abs(speech) > ROOM].std() / added.std())
    assert below == pytest.approx(BELOW_SPEECH[bed], abs=0.3)
