"""Speech from eSpeak NG: does the lip track fit the sound?"""

import numpy as np
import pytest

from latentsync.errors import LatentSyncError
from latentsync.synthetic import espeak
from latentsync.synthetic.espeak import EspeakVoice, espeak_available, synthesise_espeak
from latentsync.synthetic.speech import CONTROL_RATE, SAMPLE_RATE

installed = pytest.mark.skipif(not espeak_available(), reason="eSpeak NG is not installed")


@installed
def test_length_range_and_repeatability():
    first, second, other = (synthesise_espeak(np.random.default_rng(seed), 3.0) for seed in (1, 1, 2))
    assert (first.waveform.shape, first.waveform.dtype) == ((3 * SAMPLE_RATE,), np.float32)
    assert first.lips.shape == (3 * CONTROL_RATE + 1, 2)
    assert 0.25 < np.abs(first.waveform).max() <= 1
    assert first.lips[:, 0].min() >= 0
    assert first.lips[:, 0].max() > 0.4
    assert np.array_equal(first.waveform, second.waveform)
    assert np.array_equal(first.lips, second.lips)
    assert not np.array_equal(first.lips, other.lips)


@installed
def test_open_lips_are_louder_than_closed_ones():
    for seed in range(3):
        speech = synthesise_espeak(np.random.default_rng(seed), 8.0)
        times = (np.arange(8 * 25) + 0.5) / 25
        step = SAMPLE_RATE // 25
        level = np.sqrt((speech.waveform.reshape(-1, step) ** 2).mean(1))
        opening = speech.lips_at(times)[:, 0]
        # An i and an n are loud too, with narrow lips: the two are related, not the same.
        assert np.corrcoef(level, opening)[0, 1] > 0.3
        assert level[opening < 0.08].mean() < 0.5 * level[opening > 0.5].mean()


def test_without_the_program_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(espeak, "PROGRAM", "no-such-program")
    assert not espeak_available()
    with pytest.raises(LatentSyncError, match="is not installed; install it"):
        synthesise_espeak(np.random.default_rng(0), 1.0, EspeakVoice("m1", 201, 50, 0.5))
