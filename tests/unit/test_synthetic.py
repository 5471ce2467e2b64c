"""Drawn avatars and their speech: fixed by seeds, the same person whatever is said, lips the face mesh can read."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.measure import HELD_OUT_SECONDS, NUM_HELD_OUT, held_out_clip
from latentsync.metrics.faces import correlation, opening_track
from latentsync.synthetic.avatar import Pose
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.speech import SAMPLE_RATE, Voice, synthesise

ROOT = Path(__file__).parents[2]


def test_a_seed_fixes_every_sample_and_pixel():
    first, second = AvatarClip(7, 8, 1.0), AvatarClip(7, 8, 1.0)
    assert np.array_equal(first.speech.waveform, second.speech.waveform)
    assert np.array_equal(first.frame(9, 96, 96), second.frame(9, 96, 96))
    other_face, other_words = AvatarClip(9, 8, 1.0), AvatarClip(7, 9, 1.0)
    assert np.array_equal(first.speech.waveform, other_face.speech.waveform)
    assert not np.array_equal(first.frame(9, 96, 96), other_face.frame(9, 96, 96))
    assert not np.array_equal(first.speech.waveform, other_words.speech.waveform)


def test_frames_are_pictures_of_the_size_asked_for():
    frame = AvatarClip(1, 1, 1.0).frame(0, 90, 160)
    assert frame.shape == (90, 160, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 10
    assert AvatarClip(1, 1, duration=4.0, fps=25).num_frames == 100
    assert AvatarClip(1, 1, duration=1.0, fps=29.97).num_frames == 29


@pytest.mark.parametrize("seed", [0, 5])
def test_other_words_change_only_the_mouth_and_chin(seed):
    """The same identity and motion; frame by frame only the lower part of the face may differ."""
    own, other = AvatarClip(seed, 100, 1.0), AvatarClip(seed, 200, 1.0)
    for index in range(0, 25, 6):
        assert own.motion.pose(index / 25) == other.motion.pose(index / 25)
        difference = np.abs(own.frame(index, 160, 160).astype(int) - other.frame(index, 160, 160)).max(-1)
        rows, columns = np.nonzero(difference > 2)
        if len(rows) == 0:
            continue  # both mouths happen to be shaped alike
        pose = own.pose(index)
        matrix = pose.head_from_frame()
        y = (matrix[1, 0] * columns + matrix[1, 1] * rows) / 160 + matrix[1, 2]
        x = (matrix[0, 0] * columns + matrix[0, 1] * rows) / 160 + matrix[0, 2]
        assert y.min() > 0.0  # below the eyes
        assert np.abs(x).max() < 0.42


@pytest.mark.parametrize("seed", [1, 4, 1_000_000])
def test_face_mesh_follows_the_true_opening(seed):
    clip = AvatarClip(seed, seed + 50, duration=2.0)
    frames = [clip.frame(index, 192, 192) for index in range(0, clip.num_frames, 2)]
    assert correlation(opening_track(frames), clip.lips[::2, 0]) >= 0.8


@pytest.mark.parametrize("seed", range(4))
def test_lips_are_those_of_the_sound(seed):
    """Shut where the speech pauses, open where it is loud."""
    rng = np.random.default_rng(seed)
    speech = synthesise(rng, 6.0, Voice.random(rng))
    assert speech.waveform.shape == (6 * SAMPLE_RATE,)
    assert speech.waveform.dtype == np.float32
    assert np.abs(speech.waveform).max() <= 1
    times = np.arange(0.0, 5.9, 0.04)
    starts = (times * SAMPLE_RATE).astype(int)
    loudness = np.array([np.sqrt((speech.waveform[s : s + 640] ** 2).mean()) for s in starts])
    opening, spread = speech.lips_at(times + 0.02).T
    silent, loud = loudness < 0.03 * loudness.max(), loudness > 0.3 * loudness.max()
    assert opening[silent].mean() < 0.15 < 0.25 < opening[loud].mean()
    assert 0 <= opening.min() < 0.1
    assert 0.6 < opening.max() < 1.3
    assert 0.4 < spread.min() < spread.max() < 1.4


def test_voices_differ():
    voices = [Voice.random(np.random.default_rng(seed)) for seed in range(6)]
    assert len({round(voice.pitch) for voice in voices}) == 6
    assert max(voice.pitch for voice in voices) > 1.4 * min(voice.pitch for voice in voices)


def test_pose_matrix_takes_the_heads_place_to_its_origin():
    pose = Pose(x=0.6, y=0.4, scale=0.8, roll=0.3)
    matrix = pose.head_from_frame()
    np.testing.assert_allclose(matrix @ [0.6, 0.4, 1], [0, 0], atol=1e-12)
    assert np.linalg.det(matrix[:, :2]) == pytest.approx(1 / 0.8**2)


def test_held_out_seeds_are_not_trained_on():
    training = yaml.safe_load((ROOT / "training_scripts" / "configs" / "tiny.yaml").read_text(encoding="utf-8"))
    clips, count = [held_out_clip(index) for index in range(NUM_HELD_OUT)], training["data"]["num_clips"]
    assert HELD_OUT_SECONDS >= 4
    identities = {clip.own.identity_seed for clip in clips}
    speeches = {side.speech_seed for clip in clips for side in (clip.own, clip.new)}
    assert len(identities) == NUM_HELD_OUT >= 16
    assert len(speeches) == 2 * NUM_HELD_OUT
    # what training draws: identity i with speech 500,000 + i
    from training_scripts.config import TrainingConfig, load_settings
    from training_scripts.make_synthetic_dataset import training_clip

    config = load_settings(TrainingConfig)
    drawn = [training_clip(index, config) for index in range(count)]
    assert not identities & {clip.identity_seed for clip in drawn}
    assert not speeches & {clip.speech_seed for clip in drawn}


def test_other_voices_say_the_same_with_the_same_lips():
    clip = AvatarClip(3, 4, duration=1.0)
    takes = [clip.speech_by(voice) for voice in range(3)]
    assert np.array_equal(takes[0].waveform, clip.speech.waveform)
    assert all(np.array_equal(take.lips, clip.speech.lips) for take in takes)
    assert np.abs(takes[1].waveform - takes[0].waveform).max() > 0.1
    assert np.abs(takes[2].waveform - takes[1].waveform).max() > 0.1


@pytest.mark.parametrize("duration", [0.6, 3.2, 3.9])  # 3.2: a whole number of glances
def test_clips_of_any_duration_move(duration):
    clip = AvatarClip(3, 4, duration)
    assert clip.frame(clip.num_frames - 1, 48, 48).shape == (48, 48, 3)
