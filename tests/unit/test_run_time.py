"""The time of whole runs: lengths, tails, offsets, sounds. What is shown when is read off the pictures."""

import dataclasses
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from latentsync.media.audio_reader import read_audio
from latentsync.media.length_modes import source_indices
from latentsync.media.video_reader import probe_video, read_frames, video_length
from latentsync.media.video_writer import VideoWriter, write_wav
from latentsync.options import LipSyncOptions
from latentsync.run import engine, flow
from latentsync.run.chunks import ChunkGenerator, FaceFrame
from latentsync.run.engine import lip_sync
from latentsync.run.timeline import plan_time, rate_warnings, source_frames, without_stills
from tests.unit.media_clips import read_number, write_clip

FAST = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
RATE = 16_000


@pytest.fixture
def written(monkeypatch):
    """The (pixels, time) that the engine hands to the writer, which writes them all the same."""
    frames: list[tuple[np.ndarray, float]] = []

    class Recorder(VideoWriter):
        def write(self, pixels, pts=None):
            frames.append((pixels, float(pts * self._time_base)))
            super().write(pixels, pts)

    monkeypatch.setattr(engine, "VideoWriter", Recorder)
    return frames


def shown(video, written) -> list[int]:
    """Which source frame each result shows, told by the part of the frame above the face."""
    before = [frame.pixels[:40] for frame in read_frames(video)]
    assert len({pixels.tobytes() for pixels in before}) == len(before)
    return [next(i for i, b in enumerate(before) if np.array_equal(b, pixels[:40])) for pixels, _ in written]


def sound_of(path) -> np.ndarray:
    return read_audio(path, sample_rate=RATE)


def run(video, audio, out, model, *, output_audio=None, **changes):
    return lip_sync(video, audio, out, model, dataclasses.replace(FAST, **changes), output_audio=output_audio)


@pytest.mark.parametrize("length", ["bounce", "loop", "hold", "trim", "speed"])
@pytest.mark.parametrize("seconds", [0.3, 1.04])
def test_every_length_shows_the_frames_of_the_rule(
    small_model, avatar_video, speech, tmp_path, written, length, seconds
):
    report = run(avatar_video, speech(seconds), tmp_path / "out.mp4", small_model, length=length)
    wanted = -(-round(seconds * 100) // 4)
    exact = Fraction(round(seconds * 100), 4)
    assert shown(avatar_video, written) == source_indices(12, wanted, length, exact=exact)
    assert [time for _, time in written] == pytest.approx([index / 25 for index in range(len(written))])
    assert report.num_faces == report.num_frames == len(written)
    assert report.duration == pytest.approx(min(seconds, 0.48) if length == "trim" else seconds)
    assert len(report.waveform_peaks) == pytest.approx(report.duration * 50, abs=1)
    assert probe_video(tmp_path / "out.mp4").fps == 25
    end = min(seconds, 0.48) if length == "trim" else seconds
    assert len(sound_of(tmp_path / "out.mp4")) / RATE == pytest.approx(end, abs=0.07)


def test_the_reference_preset_doubles_the_turning_frames(small_model, avatar_video, speech, tmp_path, written):
    lip_sync(avatar_video, speech(1.04), tmp_path / "out.mp4", small_model, FAST.as_reference())
    assert shown(avatar_video, written) == [*range(12), *range(11, -1, -1), 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("length", "start", "duration"),
    [("loop", 0.6, 0.2), ("hold", 0.4, 0.24), ("speed", 0.4, 0.32), ("speed", 0.2, 9.0)],
)
def test_a_preview_shows_what_the_whole_run_shows_there(
    small_model, avatar_video, speech, tmp_path, written, length, start, duration
):
    run(avatar_video, speech(1.0), tmp_path / "out.mp4", small_model, length=length, start=start, duration=duration)
    whole = source_indices(12, 25, length)
    first = round(start * 25)
    assert shown(avatar_video, written) == whole[first : first + round(duration * 25)]
    assert written[0][1] == 0


def test_a_kept_tail_is_the_sources_to_the_bit_in_silence(small_model, avatar_video, speech, tmp_path, written):
    """The tail is not cut where it is wanted; nothing of it is generated."""
    report = run(avatar_video, speech(0.3), tmp_path / "out.mp4", small_model, tail="keep")
    before = [frame.pixels for frame in read_frames(avatar_video)]
    assert (report.num_frames, report.num_faces, report.num_tail) == (12, 8, 4)
    same = [np.array_equal(pixels, source) for (pixels, _), source in zip(written, before, strict=True)]
    assert same == [False] * 8 + [True] * 4
    sound = sound_of(tmp_path / "out.mp4")
    assert len(sound) / RATE == pytest.approx(0.48, abs=0.07)
    assert np.abs(sound[: int(0.28 * RATE)]).max() > 0.01
    assert np.abs(sound[int(0.37 * RATE) :]).max() < 1e-3
    assert "the last 4 frames, after the speech, are the source's" in report.text()
    assert report.longest_gap() is None


def test_a_kept_tail_ends_with_the_preview(small_model, avatar_video, speech, tmp_path, written):
    options = {"tail": "keep", "start": 0.08, "duration": 0.32}
    report = run(avatar_video, speech(0.3), tmp_path / "out.mp4", small_model, **options)
    assert shown(avatar_video, written) == list(range(2, 10))
    assert report.num_tail == 2  # 0.22 s of speech are left after 0.08 s


def test_variable_times_are_kept_beyond_the_end_and_in_the_tail(small_model, avatar_frames, speech, tmp_path, written):
    times = [0, 33, 100, 110, 250, 300, 390, 400, 450, 480, 520, 560]  # ms
    video = write_clip(
        tmp_path / "vfr.mp4", pictures=avatar_frames, size=(192, 192), pts=times, time_base=Fraction(1, 1000)
    )
    run(video, speech(0.2), tmp_path / "keep.mp4", small_model, tail="keep")
    assert [time for _, time in written] == pytest.approx([time / 1000 for time in times], abs=1e-3)
    written.clear()
    run(video, speech(1.04), tmp_path / "loop.mp4", small_model, length="loop")
    once = [time for _, time in written][:12]
    again = [time for _, time in written][12:]
    assert shown(video, written)[12:] == list(range(len(again)))
    np.testing.assert_allclose(np.diff(again), np.diff(once)[: len(again) - 1], atol=1e-6)
    written.clear()
    run(video, speech(1.04), tmp_path / "speed.mp4", small_model, length="speed")
    rate = probe_video(video).fps
    steps = np.diff([time for _, time in written])
    np.testing.assert_allclose(steps, float(1 / rate), atol=1e-6)  # constant
    for index, frame in enumerate(shown(video, written)):
        now = (index + 0.5) / float(rate) * (video_length(video) / 1.04)
        assert times[frame] / 1000 <= now + 2e-3
        assert frame == 11 or now <= times[frame + 1] / 1000 + 2e-3


@pytest.mark.parametrize(
    ("name", "times", "length", "seconds", "longest", "warned"),
    [
        ("screen.mp4", [0, 40, 80, 720, 760, 800], "bounce", 0.84, 0.04, "stands still for up to 0.64 s"),
        ("slides.mp4", [0, 1000, 2000], "trim", 2.6, 0.04, "stands still for up to 1.00 s"),
        ("slides.avi", [0, 1000, 2000], "hold", 3.3, 0.04, "stands still for up to 1.00 s"),  # ticks of a second
        ("slides.mp4", [0, 1000, 2000], "speed", 1.0, 0.04, None),
        ("slow.mp4", [0, 100, 200], "hold", 0.4, 0.1, "only 10 frames a second"),
        ("phone.mp4", [0, 40, 80, 120, 160, 320], "bounce", 0.36, 0.16, None),
    ],
)
def test_a_frame_that_stays_for_long_is_shown_again_while_there_is_speech(
    tmp_path, name, times, length, seconds, longest, warned
):
    """And those of the source keep their times."""
    rate = Fraction(1000, times[1])
    of_time = {} if name.endswith("avi") else {"pts": times, "time_base": Fraction(1, 1000)}
    path = write_clip(tmp_path / name, pictures=len(times), fps=rate, options={"bf": "0"}, **of_time)
    facts, options = probe_video(path), dataclasses.replace(FAST, length=length)
    time = plan_time(path, facts, SimpleNamespace(num_samples=round(seconds * RATE)), "", options)
    pairs = ((frame, read_number(frame.pixels)) for frame in source_frames(path, facts, time, options))
    frames, found = zip(*without_stills(pairs, facts, time, options), strict=True)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(frame.source_index == number for frame, number in zip(frames, found, strict=True))
    when = [frame.time for frame in frames]
    assert [float(frame.pts * time.time_base) for frame in frames] == pytest.approx(when)
    assert np.diff([*when, seconds]).max() == pytest.approx(longest, abs=2e-3)
    if length != "speed":
        first = [when[found.index(number)] for number in range(len(times))]
        assert first == pytest.approx([time / 1000 for time in times], abs=1e-3)
    texts = rate_warnings(np.array([frame.time for frame in read_frames(path)]), facts, time, options)
    assert [warned in text for text in texts] == ([True] if warned else [])
    assert all("--fps 25" in text for text in texts)
    asked = dataclasses.replace(options, fps=Fraction(2))  # a rate that was asked for is kept
    time = plan_time(path, facts, SimpleNamespace(num_samples=2 * RATE), "", asked)
    pairs = ((frame, None) for frame in source_frames(path, facts, time, asked))
    assert {frame.time % 0.5 for frame, _ in without_stills(pairs, facts, time, asked)} == {0.0}
    assert rate_warnings(np.zeros(1), facts, time, asked) == []


def test_lips_move_where_the_picture_stands_still(small_model, avatar_frames, speech, tmp_path, written):
    pictures, times = avatar_frames[:4], [0, 40, 320, 360]
    path = write_clip(tmp_path / "clip.mp4", pictures=pictures, size=(192, 192), pts=times, time_base=Fraction(1, 1000))
    report = run(path, speech(0.4), tmp_path / "out.mp4", small_model)
    assert [time for _, time in written] == pytest.approx([index / 25 for index in range(len(written))], abs=1e-3)
    assert shown(path, written) == [0, 1, 1, 1, 1, 1, 1, 1, 2, 3]
    assert len({pixels.tobytes() for pixels, _ in written[1:8]}) == 7
    assert report.num_faces == report.num_frames == 10
    assert not [text for text in report.warnings if "stands still" in text]  # 0.28 s: as one would expect


@pytest.mark.parametrize("fps", [Fraction(24_000, 1001), 50, Fraction(60_000, 1001)])
def test_other_rates_stay_what_they_are(small_model, avatar_frames, speech, tmp_path, written, fps):
    """Not written as 25 frames a second, and each frame hears the speech of its own time."""
    video = write_clip(tmp_path / "clip.mp4", pictures=avatar_frames, size=(192, 192), fps=fps)
    for length in ("bounce", "speed"):
        written.clear()
        run(video, speech(0.6), tmp_path / "out.mp4", small_model, length=length)
        assert probe_video(tmp_path / "out.mp4").fps == fps
        assert len(written) == int(np.ceil(0.6 * float(fps)))
        assert written[-1][1] == pytest.approx((len(written) - 1) / float(fps))


def test_an_unusual_pace_is_a_warning(small_model, avatar_video, speech, tmp_path):
    report = run(avatar_video, speech(1.2), tmp_path / "out.mp4", small_model, length="speed")
    assert [w for w in report.warnings if "0.40 times as fast" in w and "take another length mode" in w]
    report = run(avatar_video, speech(0.6), tmp_path / "out.mp4", small_model, length="speed")
    assert report.warnings == []


# Sound


@pytest.fixture
def pushed(monkeypatch) -> list[FaceFrame]:
    """The frames that chunks were made of, in order."""
    given: list[FaceFrame] = []

    class Recorder(ChunkGenerator):
        def push(self, frame):
            given.append(frame)
            return super().push(frame)

    monkeypatch.setattr(flow, "ChunkGenerator", Recorder)
    return given


def test_finished_frames_let_go_of_their_pictures(small_model, avatar_video, speech, tmp_path, pushed):
    run(avatar_video, speech(0.48), tmp_path / "out.mp4", small_model)
    assert len(pushed) == 12
    assert all(frame.payload is None for frame in pushed)


def test_an_offset_moves_the_lips_and_not_the_sound(small_model, avatar_video, speech, tmp_path, pushed):
    """80 ms are two frames at 25 a second: with +80 frame 2 hears what frame 0 would."""
    sounds = []
    for offset in (0, 80, -80):
        run(avatar_video, speech(0.48), tmp_path / f"{offset}.mp4", small_model, audio_offset_ms=offset)
        sounds.append(sound_of(tmp_path / f"{offset}.mp4"))
    heard = [frame.tokens for frame in pushed]
    now, later, earlier = heard[:12], heard[12:24], heard[24:]
    assert all(torch.equal(late, usual) for late, usual in zip(later[2:], now[:-2], strict=True))
    assert all(torch.equal(early, usual) for early, usual in zip(earlier[:-2], now[2:], strict=True))
    assert not torch.equal(now[4], now[6])
    assert np.array_equal(sounds[0], sounds[1])
    assert np.array_equal(sounds[0], sounds[2])


def test_frames_without_a_face_do_not_delay_the_lips(small_model, avatar_frames, speech, tmp_path, pushed):
    """Each frame is found by its time: after a missed face the next one hears its own speech, not the missed one's."""
    plain = write_clip(tmp_path / "plain.mp4", pictures=avatar_frames, size=(192, 192))
    blank = np.random.default_rng(0).integers(0, 256, (192, 192, 3), dtype=np.uint8)
    holed = [blank if index in (0, 4, 5) else frame for index, frame in enumerate(avatar_frames)]
    gaps = write_clip(tmp_path / "gaps.mp4", pictures=holed, size=(192, 192))
    run(plain, speech(0.48), tmp_path / "a.mp4", small_model)
    report = run(gaps, speech(0.48), tmp_path / "b.mp4", small_model)
    assert report.num_faces == 9
    heard = [frame.tokens for frame in pushed]
    assert len(heard) == 12 + 9
    kept = [tokens for index, tokens in enumerate(heard[:12]) if index not in (0, 4, 5)]
    assert all(torch.equal(a, b) for a, b in zip(kept, heard[12:], strict=True))


def tone(path, seconds: float, hertz: float = 440.0, rate: int = 48_000):
    times = np.arange(round(seconds * rate)) / rate
    write_wav(path, np.stack([0.4 * np.sin(2 * np.pi * hertz * times)] * 2), rate)
    return path


@pytest.mark.parametrize(
    ("seconds", "warned"), [(0.2, "it is followed by silence"), (0.9, "its rest is cut off"), (0.5, None)]
)
def test_another_sound_is_heard(small_model, avatar_video, speech, tmp_path, pushed, seconds, warned):
    mix, spoken = tone(tmp_path / "mix.wav", seconds), speech(0.48)
    report = run(avatar_video, spoken, tmp_path / "out.mp4", small_model, output_audio=mix)
    assert report.num_frames == 12  # the speech decides
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert (container.streams.audio[0].rate, container.streams.audio[0].channels) == (48_000, 2)
    sound = sound_of(tmp_path / "out.mp4")
    assert len(sound) / RATE == pytest.approx(0.48, abs=0.07)
    middle = sound[1600:3000]
    assert np.argmax(np.abs(np.fft.rfft(middle, RATE))) == pytest.approx(440, abs=8)
    silent = np.abs(sound[int((seconds + 0.07) * RATE) :])
    assert silent.size == 0 or silent.max() < 1e-3
    assert [warned in warning for warning in report.warnings] == ([True] if warned else [])
    run(avatar_video, spoken, tmp_path / "own.mp4", small_model)
    heard = [frame.tokens for frame in pushed]
    assert len(heard) == 24
    assert all(torch.equal(a, b) for a, b in zip(heard[:12], heard[12:], strict=True))  # the lips hear the speech


def test_another_sound_follows_start_and_duration(small_model, avatar_video, speech, tmp_path):
    """A click at 0.3 s of the mix is heard 0.1 s after a preview from 0.2 s begins."""
    samples = np.zeros(RATE, np.float32)
    samples[int(0.3 * RATE)] = 1
    write_wav(tmp_path / "click.wav", samples, RATE)
    options = {"start": 0.2, "duration": 0.24, "output_audio": tmp_path / "click.wav"}
    report = run(avatar_video, speech(1.0), tmp_path / "out.mp4", small_model, **options)
    sound = sound_of(tmp_path / "out.mp4")
    assert np.abs(sound).argmax() / RATE == pytest.approx(0.1, abs=0.005)
    assert report.warnings == []
