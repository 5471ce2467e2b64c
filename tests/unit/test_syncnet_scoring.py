"""The bundled SyncNet on avatars it never saw: a shift of the sound is found, and told with the right sign."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from latentsync.errors import AudioError, FrameCountError, OptionError
from latentsync.faces.align import fit_matrices, warp_faces
from latentsync.faces.finder import FaceTracker
from latentsync.sync.pairs import pair_scores
from latentsync.sync.score import sync_score
from latentsync.sync.syncnet import BUNDLED_SYNCNET, StableSyncNet, load_syncnet, sync_mel
from latentsync.synthetic.clips import AvatarClip
from training_scripts.config import SyncNetTraining, load_settings

FRAMES, SIDE = 64, 128
SAMPLES = 640  # of a frame


@pytest.fixture(scope="module")
def syncnet() -> StableSyncNet:
    return load_syncnet(BUNDLED_SYNCNET)


@pytest.fixture(scope="module")
def clip() -> tuple[np.ndarray, np.ndarray]:
    """Aligned faces (F, 128, 128, 3) and waveform of a held-out avatar."""
    avatar = AvatarClip(identity_seed=1_000_003, speech_seed=2_000_003, duration=FRAMES / 25)
    tracker, observation, frames, points = FaceTracker(), None, [], []
    for index in range(avatar.num_frames):
        frames.append(avatar.frame(index, 192, 192))
        observation = tracker(frames[-1], observation)
        points.append(observation.points)
    return warp_faces(frames, fit_matrices(np.stack(points), SIDE), SIDE), avatar.speech.waveform


def test_the_bundled_one_is_small_and_says_what_it_is(syncnet):
    assert BUNDLED_SYNCNET.stat().st_size <= 5_000_000
    assert syncnet.config == load_settings(SyncNetTraining).network()
    told = json.loads(BUNDLED_SYNCNET.with_name("config.json").read_text(encoding="utf-8"))
    assert told["held_out"]["accuracy"] >= 0.9


@pytest.mark.parametrize("shift", [-9, -4, 0, 2, 7])
def test_a_shift_of_the_sound_is_found(syncnet, clip, shift):
    faces, waveform = clip
    # Without its first frames the sound comes earlier, so the lips come later; without those of the pictures, earlier.
    faces, waveform = (faces, waveform[shift * SAMPLES :]) if shift > 0 else (faces[-shift:], waveform)
    score = sync_score(faces, waveform, syncnet)
    assert score.offset_frames == shift
    assert score.offset_ms == 40 * shift
    assert score.confidence > 0.2
    assert score.curve[score.offsets == shift] == np.nanmax(score.curve)


def test_other_speech_scores_worse(syncnet, clip):
    faces, waveform = clip
    other = AvatarClip(0, 3_000_003, duration=FRAMES / 25).speech.waveform
    own, foreign = (sync_score(faces, sound, syncnet) for sound in (waveform, other))
    assert own.cosine > foreign.cosine + 0.2
    assert own.accuracy > 0.9 > foreign.accuracy + 0.3
    assert own.confidence > foreign.confidence + 0.1
    assert own.distance < foreign.distance - 0.1


def test_a_softer_and_darker_picture_still_scores(syncnet, clip):
    faces, waveform = clip
    small = torch.nn.functional.avg_pool2d(torch.from_numpy(faces).permute(0, 3, 1, 2).float(), 3, 1, 1)
    soft = (0.9 * small.permute(0, 2, 3, 1)).round().byte().numpy()
    score = sync_score(soft, waveform, syncnet)
    assert score.offset_frames == 0
    assert score.cosine > sync_score(faces, waveform, syncnet).cosine - 0.15


def test_each_window_scores_as_by_itself(syncnet, clip):
    """The curve of one run of frames: its cosines with the windows of sound around it."""
    faces, waveform = clip
    mel = sync_mel(waveform)
    whole = sync_score(faces[:20], mel, syncnet, max_shift=3, batch_size=2)
    assert whole.num_windows == 5
    pair = sync_score(faces[:21], mel, syncnet, max_shift=0)
    singles = [sync_score(faces[s : s + 16], mel[:, 80 * s // 25 :], syncnet, max_shift=0).cosine for s in range(6)]
    assert pair.cosine == pytest.approx(np.mean(singles), abs=1e-5)


def test_shifts_with_hardly_any_windows_are_not_told(syncnet, clip):
    faces, waveform = clip
    score = sync_score(faces[:24], waveform[: 24 * SAMPLES], syncnet)
    assert np.isnan(score.curve[[0, -1]]).all()
    assert np.isfinite(score.curve[score.offsets == 0]).all()


@pytest.mark.parametrize(
    ("faces", "sound", "error"),
    [
        (np.zeros((15, 128, 128, 3), np.uint8), np.zeros(16_000, np.float32), FrameCountError),
        (np.zeros((16, 128, 128, 3), np.float32), np.zeros(16_000, np.float32), OptionError),
        (np.zeros((16, 128, 128), np.uint8), np.zeros(16_000, np.float32), OptionError),
        (np.zeros((16, 128, 128, 3), np.uint8), np.zeros(5_000, np.float32), AudioError),
        (np.zeros((16, 128, 128, 3), np.uint8), np.zeros((2, 16_000), np.float32), AudioError),
    ],
)
def test_what_cannot_be_scored(syncnet, faces, sound, error):
    with pytest.raises(error):
        sync_score(faces, sound, syncnet)


def test_a_latent_one_wants_latents(syncnet, clip):
    visual = replace(syncnet.config.visual, in_channels=64, downsample_factors=(2, 2, 2, 1, 2))
    latent = StableSyncNet(replace(syncnet.config, visual=visual, latent=True, lower_half=False)).eval()
    faces, waveform = clip
    with pytest.raises(OptionError, match="latents"):
        sync_score(faces, waveform, latent)
    pooled = sync_score(
        faces,
        waveform,
        latent,
        encode=lambda pixels: torch.nn.functional.avg_pool2d(torch.cat((pixels, pixels[:, :1]), 1), 8),
    )
    assert 0 <= pooled.cosine <= 1


def test_pair_scores_by_hand():
    scores = pair_scores(np.array([0.9, 0.7, 0.8, 0.2, 0.6, 0.1]), np.array([1, 1, 1, 1, 0, 0]))
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.best_accuracy == pytest.approx(5 / 6)
    assert pair_scores(np.array([0.9, 0.7, 0.6]), np.array([1, 1, 0]), threshold=0.65).accuracy == 1
    assert 0.6 < scores.best_threshold < 0.7 or 0.1 < scores.best_threshold < 0.2
    assert (scores.right, scores.wrong) == (pytest.approx(0.65), pytest.approx(0.35))
    assert pair_scores(np.full(4, 0.3), np.array([1, 1, 0, 0])).best_accuracy == 0.5  # equal ones cannot be parted
