import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition

from latentsync.errors import AudioError, OptionError, OutputError
from latentsync.media.audio_reader import probe_audio, read_audio, read_audio_blocks
from latentsync.media.container import MAX_SECONDS
from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import write_wav
from latentsync.options import LipSyncOptions
from latentsync.run.timeline import sound_warnings
from tests.unit.media_clips import demo_video, encode_sound, sine, write_clip, write_pcm


def read(path, **options):
    return read_audio(path, **options)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_rates_and_channels(tmp_path, sample_rate, channels):
    samples = np.tile(sine(440, 0.5, sample_rate), (channels, 1))
    path = write_pcm(tmp_path / "tone.wav", samples, sample_rate)
    facts = probe_audio(path)
    assert (facts.sample_rate, facts.channels, facts.codec) == (sample_rate, channels, "pcm_s16le")
    assert facts.layout == {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    assert facts.duration == pytest.approx(0.5)
    mono = read(path)
    assert mono.dtype == np.float32
    assert abs(len(mono) - 8000) <= 1
    # The same tone in every channel: a true average keeps its level. The ends ring, as the filter has nothing there.
    np.testing.assert_allclose(mono[500:-500], sine(440, 0.5, 16_000)[500 : len(mono) - 500], atol=2e-3)
    own = read(path, sample_rate=sample_rate, mono=False)
    np.testing.assert_allclose(own, samples, atol=1e-4)


def test_downmix_weights(tmp_path):
    """Each channel alone; libswresample's weights .707 .707 1 0 .5 .5 over their sum."""
    weights = np.array([0.7071, 0.7071, 1, 0, 0.5, 0.5])
    found = []
    for channel in range(6):
        samples = np.zeros((6, 8000), np.float32)
        samples[channel] = 0.5
        found.append(read(write_pcm(tmp_path / "one.wav", samples, 16_000)).mean() / 0.5)
    np.testing.assert_allclose(found, weights / weights.sum(), atol=1e-3)
    stereo = np.stack([np.full(8000, 0.6), np.full(8000, -0.2)])
    np.testing.assert_allclose(read(write_pcm(tmp_path / "two.wav", stereo, 16_000)), 0.2, atol=1e-3)


def test_equals_ffmpegs_resampling_to_16_bits(tmp_path):
    """The reference reads 16-bit samples from the ffmpeg program; ours are the same but for that rounding."""
    generator = np.random.default_rng(0)
    path = write_pcm(tmp_path / "noise.wav", generator.uniform(-0.5, 0.5, (2, 44_100)), 44_100)
    resampler = av.AudioResampler("s16", "mono", 16_000)
    with av.open(str(path)) as container:
        frames = [part for frame in (*container.decode(audio=0), None) for part in resampler.resample(frame)]
    expected = np.concatenate([frame.to_ndarray()[0] for frame in frames]) / 32768
    found = read(path)
    assert len(found) == len(expected)
    np.testing.assert_allclose(found, expected, atol=1.5 / 32768)


@pytest.mark.parametrize(
    ("name", "codec", "sample_rate"),
    [
        ("a.m4a", "aac", 44_100),
        ("a.mp3", "libmp3lame", 44_100),
        ("a.flac", "flac", 48_000),
        ("a.opus", "libopus", 48_000),
        ("a.ogg", "libopus", 48_000),
        ("a.mkv", "aac", 22_050),
    ],
)
def test_codecs_keep_time(tmp_path, name, codec, sample_rate):
    """A burst at 0.5 s is heard at 0.5 s: encoder delays are taken out."""
    samples = np.zeros((2, sample_rate))
    samples[:, sample_rate // 2 :] = sine(1000, 0.5, sample_rate)
    if codec == "flac":
        path = _encode_flac(tmp_path / name, samples, sample_rate)
    else:
        path = encode_sound(tmp_path / name, samples, sample_rate, codec, "stereo")
    found = read(path)
    assert probe_audio(path).sample_rate == sample_rate
    onset = np.flatnonzero(np.abs(found) > 0.2)[0] / 16_000
    assert onset == pytest.approx(0.5, abs=0.004)
    assert len(found) / 16_000 == pytest.approx(1.0, abs=0.1)


def _encode_flac(path, samples, sample_rate):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=sample_rate)
        stream.layout = "stereo"
        packed = (samples.T * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), "s16", "stereo")
        frame.sample_rate, frame.time_base, frame.pts = sample_rate, Fraction(1, sample_rate), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_part_is_exact_to_the_sample(tmp_path, sample_rate):
    path = write_pcm(tmp_path / "tone.wav", sine(100, 2.0, 44_100)[None], 44_100)
    whole = read(path, sample_rate=sample_rate)
    part = read(path, sample_rate=sample_rate, start=0.7, duration=0.9)
    np.testing.assert_array_equal(part, whole[round(0.7 * sample_rate) :][: round(0.9 * sample_rate)])
    assert len(read(path, sample_rate=sample_rate, start=1.5, duration=9)) == len(whole) - round(1.5 * sample_rate)


def test_blocks_are_small(tmp_path):
    path = write_pcm(tmp_path / "tone.wav", np.zeros((1, 16_000 * 20)), 16_000)
    read(path)
    tracemalloc.start()
    total = sum(len(block) for block in read_audio_blocks(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 320_000
    assert peak < 500_000


def test_sound_that_starts_late_in_a_video(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", pictures=50, tone=1000, tone_delay=0.6)
    found = read(path)
    assert np.flatnonzero(np.abs(found) > 0.2)[0] / 16_000 == pytest.approx(0.6, abs=0.004)
    assert not found[:9000].any()


def test_gap_on_the_way(tmp_path):
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        for start in (0, 24_000):
            tone = (sine(1000, 0.5, 16_000) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(tone, "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = read(path)
    assert len(found) == 32_000
    assert np.abs(found[7990:24_000]).max() < 0.5
    assert not found[8100:23_900].any()
    assert np.abs(found[24_000:]).max() > 0.4


@pytest.mark.parametrize(("dtype", "code"), [("u1", 1), ("<f4", 3), ("<f8", 3), ("<i4", 1)])
def test_sample_formats(tmp_path, dtype, code):
    tone = sine(440, 0.2, 16_000)
    scale = {"u1": 127, "<i4": 2**31 - 1}.get(dtype, 1)
    values = (tone * scale + (128 if dtype == "u1" else 0)).astype(dtype)
    path = _write_wav(tmp_path / "tone.wav", values, code)
    np.testing.assert_allclose(read(path), tone, atol=0.02)


def _write_wav(path, values, code):
    """A wav file by hand, since the standard library writes integers only. (T,) or (C, T); code: 1 integer, 3 float."""
    values = np.atleast_2d(values)
    width, content = values.dtype.itemsize * len(values), values.T.tobytes()
    header = b"fmt " + (16).to_bytes(4, "little") + code.to_bytes(2, "little") + len(values).to_bytes(2, "little")
    header += (16_000).to_bytes(4, "little") + (16_000 * width).to_bytes(4, "little")
    header += width.to_bytes(2, "little") + (8 * values.dtype.itemsize).to_bytes(2, "little")
    body = b"WAVE" + header + b"data" + len(content).to_bytes(4, "little") + content
    path.write_bytes(b"RIFF" + len(body).to_bytes(4, "little") + body)
    return path


def test_silence_is_no_error(tmp_path):
    assert not read(write_pcm(tmp_path / "silence.wav", np.zeros((1, 1600)), 16_000)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path, value):
    tone = sine(440, 0.2, 16_000)
    tone[1000] = value
    path = _write_wav(tmp_path / "bad.wav", tone.astype("<f4"), 3)
    with pytest.raises(AudioError, match="not numbers"):
        read(path)


def test_unusable_files(tmp_path):
    (tmp_path / "text.wav").write_text("This is not sound.\n" * 20)
    write_clip(tmp_path / "mute.mp4", pictures=2)
    write_pcm(tmp_path / "empty.wav", np.zeros((1, 0)), 16_000)
    cases = {
        "nothing.wav": "No such file",
        ".": "is a folder",
        "text.wav": "not a video or audio file",
        "mute.mp4": "a video without an audio track",
    }
    for name, message in cases.items():
        for attempt in (probe_audio, read):
            with pytest.raises(AudioError, match=message):
                attempt(tmp_path / name)
    with pytest.raises(AudioError, match="0 samples"):
        read(tmp_path / "empty.wav")


def test_impossible_parts(tmp_path):
    path = write_pcm(tmp_path / "tone.wav", sine(440, 0.5, 16_000)[None], 16_000)
    for start in (0.5, 3):
        with pytest.raises(AudioError, match=r"is 0\.50 s long; cannot start at"):
            read(path, start=start)
    for options in ({"start": -1}, {"duration": 0}, {"sample_rate": 0}, {"start": float("inf")}):
        with pytest.raises(OptionError):
            read(path, **options)


@pytest.mark.parametrize("shape", [(1600,), (2, 1600), (6, 1600)])
def test_write_wav(tmp_path, shape):
    samples = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    write_wav(tmp_path / "new" / "tone.wav", samples, 16_000)
    np.testing.assert_allclose(read(tmp_path / "new" / "tone.wav", mono=False), np.atleast_2d(samples), atol=1e-4)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tone.wav"]


def test_write_wav_refuses(tmp_path):
    with pytest.raises(OutputError, match="finite"):
        write_wav(tmp_path / "a.wav", np.array([0, np.nan]), 16_000)
    with pytest.raises(OutputError, match=r"ending in one of: \.wav"):
        write_wav(tmp_path / "a.mp3", np.zeros(10), 16_000)
    assert not list(tmp_path.iterdir())


def test_demo_clip():
    path = demo_video()
    assert probe_audio(path).layout == "stereo"
    assert len(read(path, duration=2.0)) == 32_000


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (999, 1), (2**31 - 1, 1), (48_000, 65), (2**31 - 1, 64)])
def test_absurd_rates_and_channels(tmp_path, rate, channels):
    path = write_pcm(tmp_path / "a.wav", np.zeros((1, 1000), np.float32), 16_000)
    content = bytearray(path.read_bytes())
    content[22:28] = channels.to_bytes(2, "little") + rate.to_bytes(4, "little")
    content[32:34] = (2 * channels).to_bytes(2, "little")
    path.write_bytes(content)
    for read in (probe_audio, lambda path: list(read_audio_blocks(path))):
        with pytest.raises(AudioError, match=f"claims {rate} samples a second in {channels} channels"):
            read(path)


def test_a_gap_of_days_is_a_wrong_timestamp(tmp_path):
    """Filled with silence, a file of a few kB would give sound without end."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        for start in (0, 5 * 24 * 3600):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), start * 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert probe_audio(path).duration <= MAX_SECONDS
    assert sum(map(len, read_audio_blocks(path))) == 3200


def test_sound_of_more_than_a_day(tmp_path, monkeypatch):
    monkeypatch.setattr("latentsync.media.audio_reader.MAX_SECONDS", 0.5)
    path = write_pcm(tmp_path / "a.wav", np.zeros((1, 16_000), np.float32), 16_000)
    with pytest.raises(AudioError, match="longer than"):
        list(read_audio_blocks(path))


def _rms(samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples))))


def _voices(seconds=4.0, rate=16_000):
    """(2, T): two independent noises whose loudness changes like speech's."""
    generator = np.random.default_rng(1)
    loudness = 0.1 + 0.1 * np.sin(2 * np.pi * 3 * np.arange(round(seconds * rate)) / rate)
    return generator.uniform(-1, 1, (2, len(loudness))) * loudness


@pytest.mark.parametrize("gain", [1.0, 0.8, 0.5])
def test_channels_of_opposite_polarity_are_heard(tmp_path, gain):
    voice = _voices()[0]
    path = write_pcm(tmp_path / "a.wav", np.stack([voice, -gain * voice]), 16_000)
    told = []
    found = read_audio(path, on_notice=told.append)
    same = read(write_pcm(tmp_path / "b.wav", np.stack([voice, gain * voice]), 16_000))
    np.testing.assert_allclose(found[200:], same[200:], atol=1e-4)
    assert len(told) == 1
    assert "a.wav' are of opposite phase for 4.0 s" in told[0]


def test_a_stretch_of_opposite_polarity(tmp_path):
    """The ordinary part before it keeps every bit, and so does what follows later."""
    voice, other = _voices(8.0)
    plain = np.stack([voice + 0.3 * other, voice - 0.3 * other])
    turned = plain.copy()
    turned[1, 48_000:96_000] *= -1
    told = []
    found = read_audio(write_pcm(tmp_path / "a.wav", turned, 16_000), on_notice=told.append)
    expected = read(write_pcm(tmp_path / "b.wav", plain, 16_000))
    np.testing.assert_array_equal(found[:48_000], expected[:48_000])
    np.testing.assert_array_equal(found[100_000:], expected[100_000:])
    assert _rms(found[52_000:92_000]) == pytest.approx(_rms(expected[52_000:92_000]), rel=0.05)
    assert np.abs(np.diff(found)).max() < 1.1 * np.abs(np.diff(expected)).max()
    assert "for 3.1 s" in told[0]  # whole packets


def test_front_channels_that_cancel_in_surround_sound(tmp_path):
    voice, other = _voices()
    samples = np.stack([voice, -voice, 0 * voice, 0.2 * other, 0.05 * other, 0.05 * other])
    assert _rms(read(write_pcm(tmp_path / "a.wav", samples, 16_000))) > 0.3 * _rms(voice)


def test_ordinary_stereo_keeps_every_bit(tmp_path):
    """Alike, unlike, on one side, with a wide rest, and from two microphones a metre apart."""
    voice, other = _voices()
    late = np.roll(voice, 48)
    for pair in ((voice, voice), (voice, other), (voice, 0 * voice), (voice + other, voice - other), (voice, late)):
        path = write_pcm(tmp_path / "a.wav", np.stack(pair), 16_000)
        told = []
        found = read_audio(path, on_notice=told.append)
        with av.open(str(path)) as container:
            resampler = av.AudioResampler("s16", "mono", 16_000)
            frames = [part for frame in (*container.decode(audio=0), None) for part in resampler.resample(frame)]
        np.testing.assert_allclose(found, np.concatenate([f.to_ndarray()[0] for f in frames]) / 32768, atol=1.5 / 32768)
        assert not told


@pytest.mark.parametrize(("dtype", "code"), [("u1", 1), ("<f4", 3), ("<f8", 3), ("<i2", 1), ("<i4", 1)])
def test_any_sample_format_is_turned_over(tmp_path, dtype, code):
    tone = sine(440, 0.4, 16_000) * 1.9
    scale = {"u1": 127, "<i2": 2**15 - 1, "<i4": 2**31 - 1}.get(dtype, 1)
    values = (np.stack([tone, -tone]) * scale + (128 if dtype == "u1" else 0)).astype(dtype)
    found = read(_write_wav(tmp_path / "tone.wav", values, code))
    np.testing.assert_allclose(found[300:], tone[300:], atol=0.02)


FLASH = 60  # number of the picture in which the beep is heard, of 25 a second


def _flash_and_beep(path, *, picture_late=0.0, sound_late=0.0, gop=250, bframes=0):
    """4 s: a white picture and, at the same moment, a beep. One of the two streams may begin later than the other."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "30", "bf": str(bframes)})
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 64, 48, "yuv420p", gop
        sound = container.add_stream("aac", rate=48_000)
        sound.layout = "mono"
        for number in range(round(picture_late * 25), 100):
            value = 230 if FLASH <= number < FLASH + 3 else 20
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8))
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        samples = np.zeros((1, 4 * 48_000), np.float32)
        samples[0, FLASH * 1920 : FLASH * 1920 + 4800] = sine(1000, 0.1, 48_000)
        first = round(sound_late * 48_000)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[:, first:]), "fltp", "mono")
        frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), first
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


def _beep_after_flash(path, **part) -> float:
    """s"""
    flash = next(frame.time for frame in read_frames(path, **part) if frame.pixels.mean() > 120)
    return np.flatnonzero(np.abs(read(path, **part)) > 0.2)[0] / 16_000 - flash


@pytest.mark.parametrize("late", [{"picture_late": 0.48}, {"sound_late": 0.48}, {"picture_late": 1.04}, {}])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_video_as_its_own_speech_stays_together(tmp_path, suffix, late):
    path = _flash_and_beep(tmp_path / f"a.{suffix}", **late, bframes=2)
    assert abs(_beep_after_flash(path)) < 0.02
    assert abs(_beep_after_flash(path, start=0.6)) < 0.04  # the nearest picture
    facts, early = probe_audio(path), late.get("picture_late", 0)
    assert facts.duration == pytest.approx(4 - early, abs=0.06)
    assert len(read(path)) / 16_000 == pytest.approx(4 - early, abs=0.06)
    assert ["before its first picture" in notice for notice in facts.notices] == [True] * (early > 0)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35])
def test_a_cut_between_key_frames_stays_together(tmp_path, share):
    """A recording of a broadcast that begins anywhere: pictures can be shown from the next key frame on."""
    whole = _flash_and_beep(tmp_path / "whole.ts", gop=30).read_bytes()
    path = tmp_path / "cut.ts"
    path.write_bytes(whole[round(len(whole) * share) // 188 * 188 :])
    assert abs(_beep_after_flash(path)) < 0.02
    assert probe_audio(path).duration == pytest.approx(len(read(path)) / 16_000, abs=0.06)


def test_sound_that_ends_before_the_first_picture(tmp_path):
    path = write_clip(tmp_path / "a.mp4", pictures=2, pts=[30, 31], tone=440)
    with pytest.raises(AudioError, match="ends before its first picture"):
        read(path)


def _two_tracks(path, flags, titles=(None, None)):
    """A quiet mono track, and a second one in stereo with more bits; flags: which of them are the default."""
    tones = sine(300, 1.0, 48_000)[None], np.tile(sine(900, 1.0, 48_000), (2, 1))
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("aac", rate=48_000) for _ in tones]
        for stream, tone, flag, title in zip(streams, tones, flags, titles, strict=True):
            stream.layout, stream.bit_rate = ("mono", 48_000) if len(tone) == 1 else ("stereo", 320_000)
            stream.disposition = (Disposition.default if flag else Disposition(0)).value
            stream.metadata.update({"title": title} if title else {})
        for stream, tone in zip(streams, tones, strict=True):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone), "fltp", stream.layout.name)
            frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("flags", "taken"), [((1, 1), 1), ((0, 0), 1), ((1, 0), 1), ((0, 1), 2)])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_first_of_several_tracks_is_heard(tmp_path, suffix, flags, taken):
    path = _two_tracks(tmp_path / f"a.{suffix}", flags)
    spectrum = np.abs(np.fft.rfft(read(path)[:16_000]))
    assert np.argmax(spectrum) == {1: 300, 2: 900}[taken]
    facts = probe_audio(path)
    assert facts.channels == taken
    (notice,) = facts.notices
    assert f"has 2 audio tracks, of which number {taken} is heard" in notice
    assert f"-map 0:a:{2 - taken}" in notice


def test_one_track_needs_no_word(tmp_path):
    assert not probe_audio(write_clip(tmp_path / "a.mp4", tone=440)).notices
    assert "(Comments, stereo)" in probe_audio(_two_tracks(tmp_path / "b.mkv", (0, 1), (None, "Comments"))).notices[0]


def _changing_mp3(path, seconds=(3.0, 5.0), rates=(32_000, 192_000)):
    """An mp3 without a header, the second part of it at another bit rate: its length can only be counted."""
    parts = []
    for number, (length, rate) in enumerate(zip(seconds, rates, strict=True)):
        part = path.with_name(f"{number}.mp3")
        options = {"write_xing": "0", "id3v2_version": "0"}
        with av.open(str(part), "w", options=options) as container:
            stream = container.add_stream("libmp3lame", rate=44_100)
            stream.layout, stream.bit_rate = "mono", rate
            frame = av.AudioFrame.from_ndarray(sine(440, length, 44_100)[None], "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = 44_100, Fraction(1, 44_100), 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize("rates", [(32_000, 192_000), (192_000, 32_000)])
def test_the_length_of_an_mp3_without_a_header(tmp_path, rates):
    path = _changing_mp3(tmp_path / "a.mp3", rates=rates)
    with av.open(str(path)) as container:
        assert abs(container.duration / 1e6 - 8) > 1  # FFmpeg's guess
    lasts = len(read(path)) / 16_000
    assert probe_audio(path).duration == pytest.approx(lasts, abs=0.06)
    mp3 = probe_audio(path)
    equal, shorter = (
        probe_audio(write_pcm(tmp_path / "a.wav", sine(440, seconds, 16_000)[None], 16_000)) for seconds in (lasts, 6)
    )
    assert not sound_warnings(equal, mp3, LipSyncOptions())
    assert not sound_warnings(mp3, equal, LipSyncOptions())
    assert sound_warnings(mp3, shorter, LipSyncOptions())


@pytest.mark.parametrize("name", ["a.flac", "a.mka", "a.webm", "a.mp3"])
def test_the_length_of_a_file_that_was_cut_off(tmp_path, name):
    """Its head still tells the whole length."""
    whole = tmp_path / f"whole_{name}"
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (2, 6 * 48_000))
    if name.endswith("flac"):
        _encode_flac(whole, samples, 48_000)
    else:
        codec = {"a.mka": "aac", "a.webm": "libopus", "a.mp3": "libmp3lame"}[name]
        encode_sound(whole, samples, 48_000, codec, "stereo")
    (tmp_path / name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert probe_audio(whole).duration == pytest.approx(6, abs=0.05)
    assert probe_audio(tmp_path / name).duration == pytest.approx(len(read(tmp_path / name)) / 16_000, abs=0.11)


def test_the_length_of_a_track_shorter_than_its_file(tmp_path):
    path = write_clip(tmp_path / "a.mkv", pictures=100, tone=440)  # 4 s of pictures, 1 s of sound
    assert probe_audio(path).duration == pytest.approx(1, abs=0.06)
