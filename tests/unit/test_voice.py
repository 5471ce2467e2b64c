"""Voice activity against Silero's own network, and the gate on speech with pauses, over music and in noise."""

import importlib.util
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from latentsync.errors import AudioError
from latentsync.synthetic.clips import AvatarClip
from latentsync.voice_activity import SECONDS, SILENT, WINDOW, SpeechActivity, VoiceGate, gated_blocks, speech_activity
from tests.unit.sound_beds import BEDS, music, noise, with_bed, with_pauses

PAUSES = ((1.5, 2.5), (4.0, 5.5))


@pytest.fixture(scope="module")
def speech():
    return with_pauses(AvatarClip(0, 4, duration=7.0).speech, PAUSES)


def activity_of(probability, level=-20.0) -> SpeechActivity:
    probability = np.asarray(probability, np.float32)
    return SpeechActivity(probability, np.broadcast_to(np.float32(level), probability.shape))


def test_equals_the_released_network(speech):
    found = importlib.util.find_spec("silero_vad")
    if found is None:
        pytest.skip("silero-vad is not installed (pip install silero-vad==6.2.3)")
    reference = torch.jit.load(Path(found.origin).parent / "data" / "silero_vad.jit")
    reference.reset_states()
    samples = with_bed(speech.waveform, "music", np.random.default_rng(0))
    windows = torch.from_numpy(np.pad(samples, (0, -len(samples) % WINDOW))).reshape(-1, WINDOW)
    with torch.no_grad():
        expected = np.array([reference(window, 16_000).item() for window in windows])
    error = np.abs(speech_activity([samples]).probability - expected)
    print(f"error mean {error.mean():.1e}, max {error.max():.1e} in window {error.argmax()} of {len(error)}")
    assert expected.max() > 0.9
    assert error.max() < 1e-4


def test_blocks_of_any_size_give_the_same(speech):
    whole = speech_activity([speech.waveform])
    parts = speech_activity(np.split(speech.waveform, [1, 700, 701, 50_000, 50_000]))
    assert len(whole.probability) == -(-len(speech.waveform) // WINDOW)
    np.testing.assert_allclose(parts.probability, whole.probability, atol=1e-5)
    np.testing.assert_allclose(parts.level, whole.level, atol=1e-4)


def test_level_is_in_decibels():
    square = np.tile(np.float32([0.1, -0.1]), WINDOW)
    found = speech_activity([np.concatenate([square, np.zeros(WINDOW, np.float32)])])
    np.testing.assert_allclose(found.level, [-20, -20, SILENT], atol=1e-4)


def test_no_samples_are_an_error():
    with pytest.raises(AudioError, match="no samples"):
        speech_activity([np.empty(0, np.float32)])


def test_memory_does_not_grow_with_the_length():
    block = np.zeros(16_384, np.float32)
    speech_activity([block])

    def peak(count: int) -> int:
        tracemalloc.start()
        speech_activity(block for _ in range(count))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(240) < peak(60) + 200_000  # bytes; three minutes more, of which a few numbers are kept


@pytest.mark.parametrize("bed", BEDS)
@pytest.mark.parametrize("seed", [0, 4, 6])
def test_closed_in_pauses_and_open_for_words(bed, seed):
    speech = with_pauses(AvatarClip(0, seed, duration=7.0).speech, PAUSES)
    gate = VoiceGate(speech_activity([with_bed(speech.waveform, bed, np.random.default_rng(seed))]))
    for start, end in PAUSES:
        assert gate.at(np.linspace(start + 0.5, end - 0.25, 20)).max() < 0.1
    level = speech_activity([speech.waveform]).level
    loud = (np.flatnonzero(level > np.percentile(level, 95) - 20) + 0.5) * SECONDS
    assert (gate.at(loud) == 1).mean() > 0.99


def test_real_speech(speech):
    path = Path(__file__).parents[3] / "shared" / "media" / "demo1_audio.wav"
    if not path.is_file():
        pytest.skip(f"no demo speech at {path}")
    from latentsync.media.audio_reader import read_audio

    samples = read_audio(path)
    samples[5 * 16_000 : 6 * 16_000] = 0
    for bed in BEDS:
        gate = VoiceGate(speech_activity([with_bed(samples, bed, np.random.default_rng(0))]))
        assert gate.at(5.6) < 0.1
        assert gate.at(np.arange(0.6, 4.8, 0.01)).mean() > 0.95


@pytest.mark.parametrize("bed", [music, noise])
def test_closed_where_nobody_speaks(bed):
    gate = VoiceGate(speech_activity([(0.05 * bed(np.random.default_rng(1), 160_000)).astype(np.float32)]))
    assert gate.spoken.shape == (0, 2)
    assert gate.at(5.0) == 0
    assert not gate.at(np.arange(10)).any()


def test_opens_before_a_word_and_closes_after_it():
    probability, level = np.zeros(100), np.full(100, -60.0)
    probability[40:60], level[40:60] = 1, -20
    gate = VoiceGate(SpeechActivity(probability, level), attack=0.1, release=0.2)
    ((start, end),) = gate.spoken
    assert 36 * SECONDS < start < 38 * SECONDS  # the mean of three windows and the quiet edge of a word
    assert 61 * SECONDS < end < 63 * SECONDS
    np.testing.assert_allclose(gate.at(np.array([start - 0.11, start - 0.05, start, end, end + 0.1, end + 0.21])),
                               [0, 0.5, 1, 1, 0.5, 0], atol=1e-9)  # fmt: skip
    assert gate.at(-1.0) == gate.at(99.0) == 0


def test_short_pauses_are_none():
    probability = np.ones(100)
    probability[50:62] = 0  # 0.38 s, less the words' edges
    assert len(VoiceGate(activity_of(probability)).spoken) == 1
    assert len(VoiceGate(activity_of(probability), shortest_pause=0.1, release=0.1).spoken) == 2
    assert len(VoiceGate(activity_of(probability), shortest_pause=0.1, release=0.3).spoken) == 1  # no time to close


def test_singing_is_held_open_by_its_loudness():
    """Of a voice that the network hardly knows, notes that it misses count too if they are as loud."""
    probability, level = np.full(300, 0.01), np.full(300, -60.0)
    level[20:280] = -20
    probability[100:110], probability[200:210] = 0.9, 0.9
    ((start, end),) = VoiceGate(SpeechActivity(probability, level)).spoken
    assert (start, end) == (pytest.approx(20 * SECONDS, abs=0.1), pytest.approx(280 * SECONDS, abs=0.1))


def test_gated_sound_is_untouched_in_words_and_silent_in_pauses(speech):
    samples = with_bed(speech.waveform, "noise", np.random.default_rng(0))
    gate = VoiceGate(speech_activity([samples]))
    gated = np.concatenate(list(gated_blocks(np.array_split(samples, 7), gate)))
    times = np.arange(len(samples)) / 16_000
    assert gated.dtype == np.float32
    is_open, is_closed = gate.at(times) == 1, gate.at(times) == 0
    assert is_closed.mean() > 0.15
    assert is_open.mean() > 0.4
    np.testing.assert_array_equal(gated[is_open], samples[is_open])
    assert not gated[is_closed].any()
    assert np.abs(gated).max() <= np.abs(samples).max()
