"""The sync score of files and reports: a sound moved by a known time is found, and what was looked at is told."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from latentsync.errors import AudioError, FaceNotFoundError, MediaError
from latentsync.faces.place import PlacedFace, Placement
from latentsync.media.video_writer import write_wav
from latentsync.model.loading import BUNDLED
from latentsync.model_files import STABLE_SYNCNET
from latentsync.run.report import RESULT, LipSyncReport
from latentsync.sync.score import (
    clip_sync,
    clip_text,
    described_syncnet,
    find_syncnet,
    sync_of,
    sync_picture,
    syncnet_for,
    with_sync,
)
from latentsync.sync.syncnet import BUNDLED_SYNCNET, StableSyncNet, load_syncnet
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech
from latentsync.synthetic.speech import SAMPLE_RATE
from tests.unit.media_clips import write_clip as write_numbers

SIDE, SECONDS = 192, 2.6


@pytest.fixture(scope="module")
def syncnet() -> StableSyncNet:
    return load_syncnet(BUNDLED_SYNCNET)


@pytest.fixture(scope="module")
def talk(tmp_path_factory) -> Path:
    """A held-out avatar with its own sound."""
    folder = tmp_path_factory.mktemp("talk")
    avatar = AvatarClip(identity_seed=1_000_003, speech_seed=2_000_003, duration=SECONDS)
    write_speech(avatar, folder / "own.wav")
    write_clip(avatar, folder / "talk.mp4", side=SIDE, audio=folder / "own.wav")
    np.save(folder / "own.npy", avatar.speech.waveform)
    return folder / "talk.mp4"


@pytest.fixture(scope="module")
def own(talk, syncnet):
    return clip_sync(talk, syncnet)


def test_a_clip_in_sync(own):
    assert own.score.offset_frames == 0
    assert own.score.confidence > 0.2
    assert own.score.accuracy > 0.9
    assert own.seconds == pytest.approx(SECONDS, abs=0.05)
    assert own.notes == ()
    assert own.estimate().ms == 0
    assert own.estimate().confidence > 0.5
    assert "with the sound" in clip_text(own, "x")


@pytest.mark.parametrize("late", [-6, 5])
def test_a_moved_sound_is_found(talk, syncnet, tmp_path, late):
    """late: frames by which the lips come after the sound."""
    waveform, moved = np.load(talk.with_name("own.npy")), abs(late) * SAMPLE_RATE // 25
    sound = waveform[moved:] if late > 0 else np.concatenate([np.zeros(moved, np.float32), waveform])
    write_wav(tmp_path / "moved.wav", sound.astype(np.float32), SAMPLE_RATE)
    found = clip_sync(talk, syncnet, audio_path=tmp_path / "moved.wav")
    assert found.score.offset_frames == late
    assert found.score.accuracy < 0.6
    way = "after" if late > 0 else "before"
    assert f"{40 * abs(late)} ms {way} the sound" in clip_text(found, "x")


def test_only_the_beginning(talk, syncnet):
    found = clip_sync(talk, syncnet, longest=1.2)
    assert found.seconds == pytest.approx(1.2, abs=0.05)
    assert found.notes == ("the first 1.2 s were looked at",)


def test_a_clip_that_begins_without_a_face(own, syncnet):
    """Compared where the face is, and told; sound that ends before it is an error."""
    faces = SimpleNamespace(faces=np.zeros((20, 128, 128, 3), np.uint8), start=1.0, seconds=0.8, clip=2.5)
    found = sync_of(faces, np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLE_RATE).astype(np.float32), syncnet)
    assert "from 1.00 s to 1.80 s, the longest stretch with a face of 2.50 s" in found.notes[0]
    with pytest.raises(AudioError, match=r"ends before 1\.00 s"):
        sync_of(faces, np.zeros(SAMPLE_RATE // 2, np.float32), syncnet)


def test_the_longest_stretch():
    seen, again = (PlacedFace(np.eye(2, 3), 1.0, 1.0, restart=restart) for restart in (False, True))

    def longest(*placed: PlacedFace | None) -> list[int]:
        faces = {row: face for row, face in enumerate(placed) if face is not None}
        return Placement(faces, np.ones(len(placed))).longest_stretch()

    assert longest(again, seen, None, again, seen, seen) == [3, 4, 5]
    assert longest(again, seen, again, seen, None) == [0, 1]
    assert longest(again, seen, seen, again) == [0, 1, 2]
    assert longest(None) == []


def test_nobody_and_no_sound_are_told(talk, syncnet, tmp_path):
    write_numbers(tmp_path / "numbers.mp4", pictures=20, tone=300)
    with pytest.raises(FaceNotFoundError, match="16 consecutive frames"):
        clip_sync(tmp_path / "numbers.mp4", syncnet)
    write_numbers(tmp_path / "silent.mp4", pictures=20)
    with pytest.raises(MediaError):
        clip_sync(tmp_path / "silent.mp4", syncnet)


def test_the_picture_marks_the_best_shift(own):
    for offset in (0, 6):
        curve = np.roll(own.score.curve, offset)
        picture = sync_picture(replace(own.score, offset_frames=offset, curve=curve))
        assert (picture.shape, picture.dtype) == ((320, 640, 3), np.uint8)
        marked = np.nonzero((picture == RESULT).all(2))[1]
        expected = 12 + (15 + offset) / 30 * (640 - 24)
        assert marked.mean() == pytest.approx(expected, abs=2)


def report_of(path: Path) -> LipSyncReport:
    return LipSyncReport(path=path, num_frames=65, seconds=1.0, fps=25.0, duration=SECONDS)


def test_a_report_gets_the_score(talk):
    found = with_sync(report_of(talk), BUNDLED_SYNCNET)
    assert (found.sync.offset_ms, found.offset.method) == (0, "SyncNet")
    assert found.sync.score > 0.2
    assert "drawn avatars only" in found.sync.text()
    assert found.to_json()["sync"]["score"] == found.sync.score


def test_a_report_tells_why_there_is_none(tmp_path):
    write_numbers(tmp_path / "numbers.mp4", pictures=20, tone=300)
    found = with_sync(report_of(tmp_path / "numbers.mp4"), BUNDLED_SYNCNET)
    assert found.sync.score is None
    assert "sync was not measured: no face was found in any of the 20 frames" in found.sync.text()
    assert found.offset is None


def test_each_model_is_judged_by_who_knows_its_faces(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTSYNC_METRIC_WEIGHTS", "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    small, other = (SimpleNamespace(unet_path=folder / "unet.safetensors") for folder in (BUNDLED, tmp_path))
    assert syncnet_for(small, tmp_path) == BUNDLED_SYNCNET
    assert syncnet_for(other, tmp_path) is None
    (tmp_path / STABLE_SYNCNET.names[0]).touch()
    assert syncnet_for(small, tmp_path) == BUNDLED_SYNCNET
    assert syncnet_for(other, tmp_path) == find_syncnet([tmp_path]) == tmp_path / STABLE_SYNCNET.names[0]
    assert find_syncnet([]) == BUNDLED_SYNCNET
    assert described_syncnet(tmp_path / "stable_syncnet.pt") == str(tmp_path / "stable_syncnet.pt")
