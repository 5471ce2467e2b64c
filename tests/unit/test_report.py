"""What a run tells of itself: the records of the engine, JSON, text and picture."""

import dataclasses
import json
import math

import numpy as np
import pytest

from latentsync.errors import Cancelled
from latentsync.faces.finder import FaceTracker
from latentsync.media.audio_reader import read_audio
from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import VideoWriter
from latentsync.metrics.faces import opening_track
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from latentsync.run.report import (
    MADE,
    MISSING,
    RESULT,
    SHOWN,
    SOURCE,
    VOICE,
    WAVEFORM,
    FaceRecords,
    FrameRecord,
    LipSyncReport,
    report_picture,
)
from latentsync.voice_activity import OffsetEstimate, WaveformPeaks
from tests.unit.media_clips import write_clip

FAST = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)


def made_up(found: str, fps: float = 10.0, **facts) -> LipSyncReport:
    """A frame for each letter: F face, f face without a measured result, s shown as it was, . none."""
    frames = tuple(
        FrameRecord(
            time=index / fps,
            detected=letter != ".",
            confidence=0.0 if letter == "." else 0.9,
            source_opening=None if letter == "." else 0.05 + 0.01 * index,
            opening=0.1 if letter == "F" else None,
            faded=1.0 if letter == "s" else 0.0,
            voice=float(letter != "s"),
        )
        for index, letter in enumerate(found)
    )
    return LipSyncReport(
        path=None,
        num_frames=len(found),
        seconds=1.25,
        fps=fps,
        duration=len(found) / fps,
        warnings=["mind the gap"],
        faces=(FaceRecords(0, "largest", frames),),
        waveform_peaks=tuple(abs(math.sin(i / 9)) for i in range(round(len(found) / fps * 50))),
        **facts,
    )


def test_the_engine_records_every_frame(small_model, avatar, avatar_frames, speech, tmp_path, monkeypatch):
    blank = np.kron(np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8), np.ones((16, 16, 1), "u1"))
    video = write_clip(tmp_path / "v.mp4", pictures=[*avatar_frames[:4], blank, *avatar_frames[4:]], size=(192, 192))
    written = []

    class Recorder(VideoWriter):
        def write(self, pixels, pts=None):
            written.append(pixels)
            super().write(pixels, pts)

    monkeypatch.setattr("latentsync.run.engine.VideoWriter", Recorder)
    report = lip_sync(video, speech(0.52), tmp_path / "o.mp4", small_model, FAST, measure_opening=True)
    assert report.num_frames == len(report.frames) == 13
    assert [frame.time for frame in report.frames] == pytest.approx([i / 25 for i in range(13)])
    assert [frame.detected for frame in report.frames] == [index != 4 for index in range(13)]
    assert (report.frames[4].confidence, report.frames[4].opening, report.frames[4].source_opening) == (0, None, None)
    assert (report.fps, report.duration) == (25.0, pytest.approx(0.52))
    with_face = [frame for frame in report.frames if frame.detected]
    assert all(0.5 < frame.confidence <= 1 and frame.faded == 0 for frame in with_face)
    source = opening_track(frame.pixels for frame in read_frames(video))
    assert [frame.source_opening for frame in with_face] == pytest.approx(np.delete(source, 4).tolist(), abs=0.005)
    # the result's mouths, found anew in the frames themselves
    measured = [frame.opening for frame in with_face if frame.opening is not None]
    assert len(measured) >= 6  # random weights do not always draw a face
    again = opening_track(written)
    pairs = [
        (frame.opening, value) for frame, value in zip(report.frames, again, strict=True) if frame.opening is not None
    ]
    assert np.nanmax(np.abs(np.subtract(*zip(*pairs, strict=True)))) < 0.05
    assert json.loads(json.dumps(report.to_json()))["num_faces"] == 12


def test_mouths_are_measured_on_request_only(small_model, avatar_video, speech, tmp_path):
    report = lip_sync(avatar_video, speech(0.2), tmp_path / "o.mp4", small_model, FAST)
    assert [frame.opening for frame in report.frames] == [None] * 5
    assert None not in [frame.source_opening for frame in report.frames]


def test_a_detector_without_landmarks_leaves_openings_unknown(small_model, avatar_video, speech, tmp_path):
    tracker = FaceTracker()

    class PointsOnly:
        def detect(self, frame, known=()):
            faces = [] if known else tracker.detect(frame)
            return [dataclasses.replace(face, landmarks=None) for face in faces]

        def follow(self, frame, previous):
            return next(iter(self.detect(frame)), None)

    report = lip_sync(
        avatar_video, speech(0.2), tmp_path / "o.mp4", small_model, FAST, finder=PointsOnly(), measure_opening=True
    )
    assert report.num_faces == 5
    assert {(frame.source_opening, frame.opening) for frame in report.frames} == {(None, None)}


def test_measuring_and_previews_change_no_frame(small_model, avatar_video, speech, tmp_path):
    looks: list[np.ndarray] = []
    plain, seen = tmp_path / "plain.mp4", tmp_path / "seen.mp4"
    lip_sync(avatar_video, speech(0.48), plain, small_model, FAST)
    lip_sync(
        avatar_video,
        speech(0.48),
        seen,
        small_model,
        FAST,
        measure_opening=True,
        on_preview=looks.append,
        preview_interval=0,
    )
    assert plain.read_bytes() == seen.read_bytes()
    assert [look.shape for look in looks] == [(64, 64, 3)]


def test_a_preview_may_stop_the_run(small_model, avatar_video, speech, tmp_path):
    def stop(_):
        raise Cancelled("seen enough")

    with pytest.raises(Cancelled):
        lip_sync(avatar_video, speech(0.48), tmp_path / "o.mp4", small_model, FAST, on_preview=stop)
    assert list(tmp_path.iterdir()) == []


def test_peaks_are_those_of_the_speech(small_model, avatar_video, speech, tmp_path):
    report = lip_sync(avatar_video, speech(0.3), tmp_path / "o.mp4", small_model, FAST)
    samples = np.abs(read_audio(speech(0.3)))
    assert report.waveform_peaks == pytest.approx(samples.reshape(-1, 320).max(1).tolist())
    assert len(report.waveform_peaks) == 15


@pytest.mark.parametrize("length", [1, 319, 320, 321, 1000])
def test_peaks_do_not_depend_on_the_blocks(length):
    samples = np.random.default_rng(0).uniform(-1.2, 1.2, length).astype(np.float32)
    whole, parts = WaveformPeaks(16_000), WaveformPeaks(16_000)
    whole.add(samples)
    for part in np.array_split(samples, 7):
        parts.add(part)
    expected = [min(1.0, float(np.abs(samples[i : i + 320]).max())) for i in range(0, length, 320)]
    assert whole.peaks() == parts.peaks() == pytest.approx(expected)


def test_no_sound_has_no_peaks():
    assert WaveformPeaks(16_000).peaks() == ()


def test_json_is_columns():
    content = made_up(
        "F.f", offset=OffsetEstimate(40.04, 0.5), facts={"device": "cpu"}, stage_seconds={"paste": 0.25}
    ).to_json()
    assert content == json.loads(json.dumps(content, allow_nan=False))
    assert content["faces"][0] == {"index": 0, "choice": "largest", "frames": content["faces"][0]["frames"]}
    assert content["faces"][0]["frames"] == {
        "time": [0.0, 0.1, 0.2],
        "detected": [1, 0, 1],
        "confidence": [0.9, 0.0, 0.9],
        "source_opening": [0.05, None, 0.07],
        "opening": [0.1, None, None],
        "faded": [0.0, 0.0, 0.0],
        "yaw": [None, None, None],
        "voice": [1.0, 1.0, 1.0],
        "restored": [0, 0, 0],
    }
    assert (content["offset"], content["device"]) == ({"ms": 40.0, "confidence": 0.5, "method": "loudness"}, "cpu")
    assert content["stages"] == {"paste": 0.25}
    assert {key: content[key] for key in ("version", "fps", "duration", "num_frames", "num_faces", "seconds")} == {
        "version": 2,
        "fps": 10.0,
        "duration": 0.3,
        "num_frames": 3,
        "num_faces": 2,
        "seconds": 1.25,
    }
    assert content["warnings"] == ["mind the gap"]
    assert content["waveform"]["rate"] == 50
    assert len(content["waveform"]["peaks"]) == 15


def test_text_names_the_longest_gap_and_the_warnings():
    text = made_up("F.FF...F..").text()
    assert "10 frames at 10 per second (1.00 s of speech), made in 1.2 s" in text
    assert "face made in 4 of them, 6 left as they were" in text
    assert "longest stretch without a face: 0.30 s, from 0.40 s to 0.70 s" in text
    assert text.endswith("warning: mind the gap")
    assert made_up("FF...").longest_gap() == pytest.approx((0.2, 0.5))  # to the end of the last frame
    assert made_up("FFF").longest_gap() is None
    assert "face made in each" in made_up("FFF").text()
    assert "stretch" not in made_up("FFF").text()


def near(picture: np.ndarray, colour: tuple) -> np.ndarray:
    return (np.abs(picture.astype(int) - colour) <= 2).all(-1)


def test_the_picture_shows_sound_faces_and_mouths():
    picture = report_picture(made_up("FFFFF.....FFFss"))
    assert picture.shape == (360, 1280, 3)
    assert picture.dtype == np.uint8
    for colour in (WAVEFORM, VOICE, MADE, SHOWN, MISSING, SOURCE, RESULT):
        assert near(picture, colour).sum() > 100, colour
    missing = np.nonzero(near(picture, MISSING).any(0))[0]  # the middle third
    assert (missing.min(), missing.max()) == pytest.approx((1280 / 3, 2 * 1280 / 3), abs=12)
    below = picture[200:330]  # no text there
    assert not near(below, RESULT)[:, 480:800].any()  # no curve across the gap
    complete = report_picture(made_up("FFF"))
    assert not near(complete, MISSING).any()


@pytest.mark.parametrize("size", [(160, 120), (641, 241), (2560, 720)])
def test_pictures_of_any_size_and_of_little(size):
    for found in ("", "F", ".", "f."):
        assert report_picture(made_up(found), *size).shape == (size[1], size[0], 3)


def test_every_face_has_its_own_bar_and_counts():
    one = made_up("FFFFFFFFFF")
    other = FaceRecords(2, "left", made_up("ssssss....").frames)
    report = dataclasses.replace(one, faces=(*one.faces, other))
    bars = report_picture(report)[150:210]
    for colour in (MADE, SHOWN, MISSING):
        assert near(bars, colour).sum() > 100, colour
    assert "face 2 (left): made in 0 frames" in report.text()
    assert (report.num_faces, dataclasses.replace(one, faces=(other,)).num_faces) == (10, 0)


def test_text_tells_of_offset_and_restoration():
    late = made_up("FF", offset=OffsetEstimate(-60, 0.8))
    assert "the lips come about 60 ms before the speech (confidence 0.80)" in late.text()
    assert "the lips come" not in made_up("FF", offset=OffsetEstimate(-260, 0.49)).text()  # a guess
    frames = tuple(dataclasses.replace(frame, restored=index > 0) for index, frame in enumerate(late.frames))
    assert "face restored in 1 frames" in dataclasses.replace(late, faces=(FaceRecords(0, "largest", frames),)).text()


def test_tiny_pictures_are_refused():
    with pytest.raises(ValueError, match="at least 160 x 120"):
        report_picture(made_up("F"), 100, 100)
