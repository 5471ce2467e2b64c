"""Several faces of a clip, their speeches, pauses, fades and restoration, from files to a file."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from latentsync.errors import FaceNotFoundError, OptionError
from latentsync.media.audio_reader import probe_audio, read_audio
from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import VideoWriter, write_wav
from latentsync.options import LipSyncOptions
from latentsync.restoration.restorers import Restorer
from latentsync.run import engine, flow
from latentsync.run import speech as speakers
from latentsync.run.engine import lip_sync
from latentsync.run.speech import Speaker, Speech
from tests.unit.media_clips import write_clip

FAST = LipSyncOptions(num_inference_steps=2, guidance_scale=1.0)
RATE = 16_000


@pytest.fixture
def written(monkeypatch) -> list[np.ndarray]:
    """The frames that the engine hands to the writer, which writes them all the same."""
    frames: list[np.ndarray] = []

    class Recorder(VideoWriter):
        def write(self, pixels, pts=None):
            frames.append(pixels)
            super().write(pixels, pts)

    monkeypatch.setattr(engine, "VideoWriter", Recorder)
    return frames


def halves(frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    stacked, middle = np.stack(frames), frames[0].shape[1] // 2
    return stacked[:, :, :middle], stacked[:, :, middle:]


def with_pause(speech: Path, path: Path, begin: float, end: float) -> Path:
    """The speech with silence in the given seconds."""
    samples = read_audio(speech, sample_rate=RATE).copy()
    samples[round(begin * RATE) : round(end * RATE)] = 0
    write_wav(path, samples, RATE)
    return path


def test_each_face_hears_its_own_speech_alone(small_model, two_people, speech, tmp_path, written):
    runs = []
    for left in (5, 6):
        speakers = [Speaker(speech(0.48, left), "left"), Speaker(speech(0.4, 7), "right")]
        report = lip_sync(two_people, speakers, tmp_path / "out.mp4", small_model, FAST)
        assert (report.num_frames, report.num_faces, len(report.faces)) == (12, 12, 2)
        runs.append(halves(written))
        written.clear()
    (left, right), (other_left, same_right) = runs
    before_left, before_right = halves([frame.pixels for frame in read_frames(two_people)][:12])
    assert np.array_equal(right, same_right)
    assert not np.array_equal(left, other_left)
    assert not np.array_equal(right, before_right)
    assert not np.array_equal(left, before_left)
    assert probe_audio(tmp_path / "out.mp4").duration == pytest.approx(0.48, abs=0.07)


def test_all_faces_may_say_the_same(small_model, two_people, speech, tmp_path, written):
    report = lip_sync(two_people, speech(0.2), tmp_path / "out.mp4", small_model, FAST, face="all")
    assert [(face.choice, len(face.frames)) for face in report.faces] == [("all", 5), ("all", 5)]
    for after, before in zip(halves(written), halves([f.pixels for f in read_frames(two_people)][:5]), strict=True):
        assert not np.array_equal(after, before)


def test_a_chosen_face_leaves_the_other_one_alone(small_model, two_people, speech, tmp_path, written):
    lip_sync(two_people, speech(0.2), tmp_path / "out.mp4", small_model, FAST, face="right")
    before_left, before_right = halves([frame.pixels for frame in read_frames(two_people)][:5])
    left, right = halves(written)
    assert np.array_equal(left, before_left)
    assert not np.array_equal(right, before_right)


def test_nobody_to_speak_is_refused(small_model, two_people, tmp_path):
    with pytest.raises(OptionError, match="one speaker at least"):
        lip_sync(two_people, [], tmp_path / "out.mp4", small_model, FAST)


def test_in_pauses_the_source_may_come_back(small_model, avatar_video, speech, tmp_path, written):
    spoken = with_pause(speech(2.0), tmp_path / "pause.wav", 0.6, 1.6)
    options = dataclasses.replace(FAST, silence="source", length="loop")
    report = lip_sync(avatar_video, spoken, tmp_path / "out.mp4", small_model, options)
    before = [frame.pixels for frame in read_frames(avatar_video)]
    unchanged = [np.array_equal(after, before[index % 12]) for index, after in enumerate(written)]
    assert all(unchanged[index] for index in range(24, 36))  # 0.96 s to 1.44 s
    assert not any(unchanged[:12])
    voice = [frame.voice for frame in report.frames]
    assert (voice[5], voice[30]) == (1.0, 0.0)
    assert any(0 < value < 1 for value in voice)
    assert [frame.faded for frame in report.frames] == pytest.approx([1 - value for value in voice])
    assert report.num_faces == sum(value > 0 for value in voice)


def test_a_closed_mouth_in_pauses_is_what_silence_gives(small_model, avatar_video, speech, tmp_path, monkeypatch):
    heard, warned = {}, {}

    class Recorder(flow.TokenWindows):
        def tokens(self, centres):
            found = super().tokens(centres)
            heard.setdefault(name, []).append(found)
            return found

    monkeypatch.setattr(flow, "TokenWindows", Recorder)
    noise = np.random.default_rng(0).normal(0, 0.03, RATE // 2).astype(np.float32)
    write_wav(tmp_path / "noise.wav", noise, RATE)
    write_wav(tmp_path / "silence.wav", np.zeros_like(noise), RATE)
    for name, file, silence in (("closed", "noise", "close"), ("off", "noise", "off"), ("true", "silence", "off")):
        options = dataclasses.replace(FAST, silence=silence)
        report = lip_sync(avatar_video, tmp_path / f"{file}.wav", tmp_path / f"{name}.mp4", small_model, options)
        warned[name] = report.warnings
    closed, off, true = (torch.cat(heard[name]) for name in ("closed", "off", "true"))
    assert torch.equal(closed, true)
    assert ["no voice was heard" in "".join(warned[name]) for name in ("closed", "off")] == [True, False]
    assert not torch.allclose(off, true, atol=0.1)


def test_a_face_that_is_lost_gives_way_gently(small_model, avatar_frames, speech, tmp_path):
    cover = np.kron(np.random.default_rng(0).integers(0, 256, (15, 15, 3), dtype="u1"), np.ones((10, 10, 1), "u1"))
    wide = [np.pad(frame, ((0, 0), (0, 192), (0, 0)), mode="edge") for frame in avatar_frames]
    covered = [frame.copy() for frame in wide[:5]]
    for frame in covered:
        frame[40:190, 20:170] = cover  # a third of the picture: no cut
    video = write_clip(tmp_path / "lost.mp4", pictures=[*wide, *covered, *wide[::-1]], size=(384, 192))
    report = lip_sync(video, speech(1.16), tmp_path / "out.mp4", small_model, FAST)
    faded = [frame.faded if frame.detected else None for frame in report.frames]
    assert None in faded[12:17]
    assert faded[2] == faded[-3] == 0
    assert 0 < faded[10] < faded[11] < 1
    sudden = lip_sync(video, speech(1.16), tmp_path / "out.mp4", small_model, dataclasses.replace(FAST, fade=0.0))
    assert {frame.faded for frame in sudden.frames} <= {0.0, 1.0}


def test_faces_that_cannot_speak_are_told_apart_from_none(small_model, avatar_video, speech, tmp_path):
    with pytest.raises(FaceNotFoundError, match=r"can be made to speak: too small, turned away by more than 0\.001"):
        lip_sync(avatar_video, speech(0.2), tmp_path / "o.mp4", small_model, dataclasses.replace(FAST, max_yaw=0.001))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("side", "restored"), [(192, True), (64, False)])
def test_restored_is_what_the_frame_can_show(small_model, avatar_frames, speech, tmp_path, side, restored):
    pictures = [np.ascontiguousarray(frame[:: 192 // side, :: 192 // side]) for frame in avatar_frames]
    video = write_clip(tmp_path / "v.mp4", pictures=pictures, size=(side, side))
    calls = []

    def network(faces: torch.Tensor) -> torch.Tensor:
        calls.append(len(faces))
        return F.interpolate(faces, scale_factor=2, mode="nearest")

    report = lip_sync(video, speech(0.2), tmp_path / "o.mp4", small_model, FAST, restorer=Restorer("double", network))
    assert {frame.restored for frame in report.frames} == {restored}
    assert bool(calls) == restored
    assert report.to_json()["restorer"] == {"name": "double", "sha256": None}
    assert ("face restored in 5 frames" in report.text()) == restored
    assert any("double restored nothing" in warning for warning in report.warnings) != restored


def test_one_noise_for_all_stretches_of_a_face(small_model, avatar_frames, tmp_path, written):
    """Fresh noise after each loss makes another mouth of the same frames."""
    gap = [np.zeros_like(avatar_frames[0]) for _ in range(8)]
    shown = [*[avatar_frames[0]] * 6, *gap, *[avatar_frames[0]] * 6]
    video = write_clip(tmp_path / "v.mp4", pictures=shown, size=(192, 192), options={"crf": "0"})
    write_wav(tmp_path / "silence.wav", np.zeros(round(0.8 * RATE), np.float32), RATE)
    options = dataclasses.replace(FAST, fade=0.0, smoothing="none", audio_windows="reference")
    lip_sync(video, tmp_path / "silence.wav", tmp_path / "out.mp4", small_model, options)
    first, again = written[2].astype(int), written[16].astype(int)
    assert np.abs(first - shown[0]).max() > 20
    assert np.abs(first - again).mean() < 0.1 * np.abs(first - shown[0]).mean()


def test_opposite_channels_are_heard_and_told(small_model, avatar_video, speech, tmp_path):
    samples = read_audio(speech(0.4), sample_rate=RATE)
    write_wav(tmp_path / "a.wav", np.stack([samples, -samples]), RATE)
    report = lip_sync(avatar_video, tmp_path / "a.wav", tmp_path / "out.mp4", small_model, FAST)
    assert [text for text in report.warnings if "opposite phase" in text]
    assert not [text for text in report.warnings if "no voice" in text]


@pytest.mark.parametrize("silence", ["close", "off"])
def test_a_short_speech_is_decoded_once_and_a_long_one_gives_the_same(small_model, speech, monkeypatch, silence):
    read, opened = speakers.read_audio_blocks, []

    def counted(*arguments, **options):
        opened.append(arguments)
        return read(*arguments, **options)

    monkeypatch.setattr(speakers, "read_audio_blocks", counted)
    features = []
    for kept, times in ((speakers.KEPT, 1), (RATE // 2, 3)):
        monkeypatch.setattr(speakers, "KEPT", kept)
        opened.clear()
        one = Speech(speech(1.5), small_model, dataclasses.replace(FAST, silence=silence))
        with torch.inference_mode():
            features.append(torch.cat(list(one.features(2 * RATE))))
        assert len(opened) == times
    assert torch.equal(*features)
