"""The stages one by one: equal to the engine's run, and what each of them takes and refuses."""

import dataclasses

import numpy as np
import pytest
import torch

from latentsync import engine
from latentsync.engine import lip_sync
from latentsync.errors import Cancelled, FaceNotFoundError, FrameCountError, MediaError, OptionError
from latentsync.faces.blending import keep_surroundings
from latentsync.faces.facemesh import mouth_opening
from latentsync.faces.tracking import FaceTracker
from latentsync.masks import generation_mask
from latentsync.media.audio_reader import read_audio_blocks
from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import VideoWriter
from latentsync.options import LipSyncOptions
from latentsync.pasting import FacePaster
from latentsync.pipeline import condition, decode_faces, generate, to_pixels
from latentsync.speech_features import encode_speech
from latentsync.stages import blend_faces, prepare_faces, sample_faces
from latentsync.vae import decode, encode
from tests.unit.media_clips import write_clip

FAST = LipSyncOptions(num_inference_steps=2, guidance_scale=1.0)


@pytest.fixture(scope="module")
def tracker():
    return FaceTracker()


def blank(seed: int, side: int = 192) -> np.ndarray:
    """A picture without a face."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((side // 12, side // 12, 1), np.uint8))


@pytest.fixture(scope="module")
def shown(avatar_frames):
    """18 frames of which those at 0, 1, 11, 12, 13, 17 have no face."""
    without = [blank(seed) for seed in range(6)]
    return [*without[:2], *avatar_frames[:9], *without[2:5], *avatar_frames[9:], without[5]]


WITHOUT = [0, 1, 11, 12, 13, 17]


def samples(path) -> np.ndarray:
    return np.concatenate(list(read_audio_blocks(path)))


@pytest.fixture(scope="module")
def features(small_model, speech):
    return encode_speech(small_model, samples(speech(0.72)), 16_000, 25.0)


@pytest.fixture(scope="module")
def track(shown, tracker):
    return prepare_faces(shown, 64, detector=tracker)


@pytest.fixture(scope="module")
def sampled(small_model, track, features):
    return sample_faces(small_model, track, features, FAST)


@pytest.mark.parametrize(
    "options",
    [
        FAST,
        dataclasses.replace(FAST, guidance_scale=1.5, chunk_frames=6, chunk_overlap=2, blend_mask="mask2", seed=3),
        dataclasses.replace(FAST, posterior="sample", blend="reference", smoothing="p_bias", sampling="reference"),
    ],
    ids=["defaults", "short chunks", "as the reference"],
)
def test_a_staged_run_equals_the_engines_frames(
    small_model, shown, speech, tracker, tmp_path, monkeypatch, options
):
    written: list[np.ndarray] = []

    class Recorder(VideoWriter):
        def write(self, pixels, pts=None):
            written.append(pixels)
            super().write(pixels, pts)

    monkeypatch.setattr(engine, "VideoWriter", Recorder)
    video = write_clip(tmp_path / "part.mp4", pictures=shown, size=(192, 192))
    report = lip_sync(video, speech(0.72), tmp_path / "out.mp4", small_model, options, detector=tracker)
    frames = [frame.pixels for frame in read_frames(video)]

    track = prepare_faces(
        frames, 64, detector=tracker, smoothing=options.smoothing, mask=options.mask, sampling=options.sampling
    )
    heard = encode_speech(small_model, samples(speech(0.72)), 16_000, 25.0)
    sampled = sample_faces(small_model, track, heard, options)
    blended = list(blend_faces(frames, sampled, options=options))

    assert len(blended) == len(written) == heard.num_frames == report.num_frames == 18
    assert all(np.array_equal(*pair) for pair in zip(blended, written, strict=True))
    assert [np.array_equal(*pair) for pair in zip(blended, frames, strict=True)] == [i in WITHOUT for i in range(18)]
    assert [record.detected for record in report.frames] == track.detected.tolist()
    assert report.waveform_peaks == heard.peaks
