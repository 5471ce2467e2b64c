"""The offset of lips and sound, told on synthetic speech whose lips are known."""

import numpy as np
import pytest

from latentsync.synthetic.clips import AvatarClip
from latentsync.voice_activity import WaveformPeaks, estimate_offset


def case(seed: int, late: float, seconds: float = 8.0, fps: float = 25.0, noise: float = 0.1):
    """times, openings of lips that come `late` seconds after the sound, peaks."""
    speech = AvatarClip(0, seed, seconds).speech
    outline = WaveformPeaks(16_000)
    outline.add(speech.waveform)
    times = np.arange(int(seconds * fps)) / fps
    openings = speech.lips_at(times + 0.5 / fps - late)[:, 0]
    return times, openings + noise * np.random.default_rng(seed).standard_normal(len(times)), outline.peaks()


@pytest.mark.parametrize("fps", [24, 29.97, 60])
@pytest.mark.parametrize("late", [-0.2, 0.0, 0.08, 0.3])
def test_a_known_offset_is_found(late, fps):
    for seed in (2, 5, 7):
        found = estimate_offset(*case(seed, late, fps=fps))
        assert found.ms == pytest.approx(1000 * late, abs=30)
        assert found.confidence > 0.5
        assert found.method == "loudness"


def test_unknown_openings_are_left_out():
    times, openings, peaks = case(2, 0.1)
    openings[30:60] = np.nan
    listed = [None if np.isnan(value) else value for value in openings]
    found = estimate_offset(times, listed, peaks)
    assert found == estimate_offset(times, openings, peaks)
    assert found.ms == pytest.approx(100, abs=30)


def test_lips_of_another_speech_are_rarely_believed():
    """Another speech's lips have a best lag too, but seldom a distinct one."""
    sure = 0
    for seed in range(12):
        times, openings, _ = case(seed, 0.0)
        found = estimate_offset(times, openings, case(seed + 20, 0.0)[2])
        sure += found is not None and found.confidence >= 0.5
    assert sure <= 3


def test_what_cannot_be_told_is_none():
    times, openings, peaks = case(2, 0.0)
    assert estimate_offset(times[:40], openings[:40], peaks) is None  # 1.6 s
    assert estimate_offset(times, np.full_like(openings, 0.3), peaks) is None
    assert estimate_offset(times, openings, np.zeros(400)) is None
    assert estimate_offset(times, np.full(len(times), None), peaks) is None
    assert estimate_offset([], [], []) is None
