"""The model that comes with the package: what its folder says, how large it is, and that its lips follow speech."""

import json
import re

import numpy as np
import pytest
import torch

import main
from latentsync.media.video_reader import read_frames
from latentsync.metrics.faces import correlation, opening_track
from latentsync.model.loading import BUNDLED, BUNDLED_WHISPER, bundled_model, find_model, load_model
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech
from tests.cli.conftest import arguments

MAX_BYTES = 20_000_000  # U-Net and VAE together
HELD_OUT = 1_000_001  # training does not draw it; one of the clips the model does well, to notice when it gets worse

pytestmark = pytest.mark.skipif(
    not (BUNDLED / "unet.safetensors").is_file(), reason="the bundled model's weights are not in this checkout"
)


def test_its_description_tells_how_to_make_it_again():
    described = json.loads((BUNDLED / "config.json").read_text(encoding="utf-8"))
    assert described["name"] == "tiny"
    assert described["resolution"] >= 128
    assert (BUNDLED / described["whisper"]) == BUNDLED_WHISPER
    training = described["training"]
    assert "avatars" in training["data"]
    assert isinstance(training["seed"], int)
    assert set(training["unet_steps"]) == {"stage1", "stage2"}
    assert min(training["vae_steps"], *training["unet_steps"].values()) > 0
    assert any(command.startswith("python -m training_scripts.") for command in training["commands"])


def test_it_knows_no_place_on_a_machine():
    for description in BUNDLED.rglob("config.json"):
        assert '"/' not in description.read_text(encoding="utf-8"), description


def test_its_size():
    files = [BUNDLED / "unet.safetensors", *(BUNDLED / "vae").rglob("*")]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= MAX_BYTES


def test_it_loads_as_described(tmp_path):
    assert find_model(None, tmp_path) == find_model("tiny", tmp_path) == bundled_model()
    model = load_model(bundled_model())
    assert model.warnings == ()
    assert model.unet.motion == "all"
    assert all(p.isfinite().all() for net in (model.unet, model.vae) for p in net.parameters())
    assert model.whisper.multilingual is False
    assert {p.dtype for p in model.unet.parameters()} == {torch.float32}


def test_lips_follow_the_new_speech(tmp_path, capfd):
    """Two seconds of an avatar never trained on, from file to file, with few steps; modest bounds for so short a clip.

    A guard against breakage, not the measure: that is `benchmarks.quality held_out`, whose weakest clips score lower.
    """
    seconds = 2.0
    own, new, wrong = (AvatarClip(HELD_OUT, 2_000_001 + n * 1_000_000, seconds) for n in range(3))
    write_clip(own, tmp_path / "avatar.mp4", side=256)
    write_speech(new, tmp_path / "speech.wav")
    given = arguments(tmp_path / "avatar.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4", "--model", "tiny")
    assert main.main([*given, "--inference_steps", "6", "--guidance_scale", "1.5"]) == 0
    told = capfd.readouterr().err
    assert "warning" not in told
    assert re.search(r"model: tiny \(.*unet.safetensors\), \d+ px", told)
    frames = [frame.pixels for frame in read_frames(tmp_path / "out.mp4")]
    assert len(frames) == own.num_frames
    opening = opening_track(frames)
    assert np.isfinite(opening).all()  # a face in every frame
    right, mismatched = (correlation(opening, clip.lips[:, 0]) for clip in (new, wrong))
    print(f"r {right:.2f}, mismatched {mismatched:.2f}, own {correlation(opening, own.lips[:, 0]):.2f}")
    assert right >= 0.6
    assert right - mismatched >= 0.3


def test_an_offset_makes_the_lips_come_later(tmp_path):
    """Three frames, by where the mouth's opening fits the speech's best."""
    own, new = (AvatarClip(HELD_OUT, speech_seed, 2.0) for speech_seed in (2_000_001, 3_000_001))
    write_clip(own, tmp_path / "avatar.mp4", side=256)
    write_speech(new, tmp_path / "speech.wav")
    given = arguments(tmp_path / "avatar.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4", "--model", "tiny")
    assert main.main([*given, "--inference_steps", "5", "--audio_offset_ms", "120"]) == 0
    opening = opening_track([frame.pixels for frame in read_frames(tmp_path / "out.mp4")])
    fits = {lag: correlation(opening[lag:], new.lips[: len(opening) - lag, 0]) for lag in range(7)}
    print({lag: round(float(fit), 2) for lag, fit in fits.items()})
    assert abs(max(fits, key=fits.get) - 3) <= 1
    assert fits[3] > fits[0] + 0.2
