import numpy as np
import pytest

from latentsync.errors import AudioError, OptionError, OutputError
from latentsync.media.audio_reader import probe_audio, read_audio
from latentsync.media.video_writer import AudioSource, VideoWriter, probe_mix, read_mix_blocks
from tests.unit.media_clips import encode_sound, numbered_picture, sine, write_pcm

RATE = 48_000


def mix(paths, **options):
    return np.concatenate(list(read_mix_blocks(paths, **{"sample_rate": RATE, "layout": "stereo"} | options)), axis=-1)


def tone(path, frequency, seconds, rate=RATE, channels=2, gain=0.3):
    return write_pcm(path, np.tile(gain * sine(frequency, seconds, rate) / 0.5, (channels, 1)), rate)


def test_the_mix_is_the_sum_until_the_longest_ends(tmp_path):
    first, second = tone(tmp_path / "a.wav", 300, 1.0), tone(tmp_path / "b.wav", 700, 2.5, gain=0.2)
    mixed = mix([first, second])
    alone = [read_audio(path, sample_rate=RATE, mono=False) for path in (first, second)]
    assert mixed.shape == (2, round(2.5 * RATE))
    np.testing.assert_allclose(mixed[:, :RATE], alone[0] + alone[1][:, :RATE], atol=1e-6)
    np.testing.assert_array_equal(mixed[:, RATE:], alone[1][:, RATE:])


def test_one_file_stays_as_it_is(tmp_path):
    path = tone(tmp_path / "a.wav", 300, 1.0, gain=0.5)
    np.testing.assert_array_equal(mix([path]), read_audio(path, sample_rate=RATE, mono=False))


def test_loud_sounds_are_turned_down_together_and_not_clipped(tmp_path):
    paths = [tone(tmp_path / f"{i}.wav", 300, 1.0, gain=0.5) for i in range(3)]  # 1.5 at its peak
    mixed = mix(paths)
    assert np.abs(mixed).max() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(mixed, mix(paths[:1]) * 2, atol=1e-3)  # the same wave, nothing cut off


def test_highest_rate_and_widest_layout(tmp_path):
    low, wide = tone(tmp_path / "a.wav", 300, 1.0, 16_000, 1), tone(tmp_path / "b.wav", 700, 0.5, 44_100, 2)
    facts = probe_mix([low, wide])
    assert (facts.sample_rate, facts.layout, facts.channels) == (44_100, "stereo", 2)
    assert facts.duration == pytest.approx(1.0)
    mixed = mix([low, wide], sample_rate=44_100)
    spectrum = np.abs(np.fft.rfft(mixed[0, :22_050]))
    assert set(np.argsort(spectrum)[-2:] * 2) == {300, 700}


def test_start_and_duration_count_for_each(tmp_path):
    early, late = tmp_path / "early.wav", tmp_path / "late.wav"
    write_pcm(early, np.concatenate([np.full(RATE, 0.1), np.full(RATE, 0.2)])[None], RATE)
    write_pcm(late, np.concatenate([np.full(RATE, 0.3), np.full(2 * RATE, 0.4)])[None], RATE)
    mixed = mix([early, late], layout="mono", start=0.5, duration=2.0)[0]
    assert len(mixed) == 2 * RATE
    middles = mixed[[RATE // 4, RATE, 7 * RATE // 4]]
    np.testing.assert_allclose(middles, [0.4, 0.6, 0.4], atol=1e-3)


def test_a_sound_that_ended_before_the_start_is_silent(tmp_path):
    short, long = tone(tmp_path / "a.wav", 300, 0.5), tone(tmp_path / "b.wav", 700, 2.0)
    np.testing.assert_array_equal(mix([short, long], start=1.0), mix([long], start=1.0))
    with pytest.raises(AudioError, match="cannot start at 3"):
        mix([short, long], start=3.0)


def test_a_sound_that_only_claims_to_last_beyond_the_start(tmp_path):
    """Its head, cut off with the rest, tells 4 s, but 2 s are there."""
    whole, cut = tmp_path / "whole.mp3", tmp_path / "cut.mp3"
    encode_sound(whole, sine(300, 4.0, RATE)[None], RATE, "libmp3lame", "mono")
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    long = tone(tmp_path / "b.wav", 700, 5.0)
    np.testing.assert_array_equal(mix([cut, long], start=3.0), mix([long], start=3.0))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(OptionError, match="expected one file"):
        probe_mix([])
    with pytest.raises(AudioError, match=r"gone\.wav"):
        probe_mix([tone(tmp_path / "a.wav", 300, 0.5), tmp_path / "gone.wav"])


def test_a_video_gets_the_mix_for_its_sound(tmp_path):
    first, second = tone(tmp_path / "a.wav", 300, 1.0, 16_000, 1), tone(tmp_path / "b.wav", 700, 1.0)
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 160, 96, rate=25, audio=AudioSource(first, mixed_with=(second,), fitted=True)) as writer:
        for number in range(25):
            writer.write(numbered_picture(number, 160, 96))
    facts = probe_audio(path)
    assert (facts.sample_rate, facts.layout) == (RATE, "stereo")
    heard = read_audio(path, sample_rate=RATE)[:RATE]
    assert set(np.argsort(np.abs(np.fft.rfft(heard)))[-2:]) == {300, 700}


def test_no_sound_of_a_mix_is_written_over(tmp_path):
    first, second = tone(tmp_path / "a.wav", 300, 0.5), tmp_path / "b.mp4"
    with VideoWriter(second, 160, 96, rate=25, audio=AudioSource(first)) as writer:
        writer.write(numbered_picture(0, 160, 96))
    with pytest.raises(OutputError):
        VideoWriter(second, 160, 96, rate=25, audio=AudioSource(first, mixed_with=(second,)))
