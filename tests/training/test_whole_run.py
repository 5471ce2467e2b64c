"""From raw videos to a scored model, two steps of each training: the commands of training_scripts/README.md."""

import csv
import json
from pathlib import Path

import pytest

import main as product
from eval import eval_quality
from latentsync.media.video_reader import probe_video
from latentsync.model.loading import read_lora
from training_scripts import make_synthetic_videos, prepare_data, train_lora
from training_scripts.clip_store import ClipStore
from training_scripts.config import SyncNetTraining, TrainingConfig, UNetTrainingConfig, load_settings
from training_scripts.export_tiny import export_tiny
from training_scripts.train_syncnet import train_syncnet
from training_scripts.train_unet import train_unet
from training_scripts.train_vae import train_vae

MICRO = Path(__file__).parent / "micro.yaml"
SYNCNET = ("steps=2", "batch_size=8", "held_out=0.4", "num_validation_pairs=8", "validate_every=2", "save_every=2")
STAGE = ("optimizer.steps=2", "loss.lip_weight=0", "data.held_out=0.4")  # lips of real videos are not known
STAGE_2 = ("data.num_frames=16", "loss.sync_weight=0.05", "loss.perceptual=vae", "loss.perceptual_weight=0.1")
STAGE_2 += ("validation.every=2", "validation.chunks=1", "validation.num_inference_steps=1")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Two raw videos of two people, 5.4 s each."""
    folder = tmp_path_factory.mktemp("whole") / "raw"
    assert make_synthetic_videos.main(["--output", str(folder), "--count", "2", "--seconds", "5.4"]) == 0
    return folder


@pytest.fixture(scope="module")
def store(raw) -> ClipStore:
    folder = raw.parent / "run" / "clips"
    command = ["--input", raw, "--output", folder, "--resolution", 64, "--workers", 1]
    assert prepare_data.main([str(part) for part in command]) == 0
    return ClipStore(folder)


@pytest.fixture(scope="module")
def syncnet(store) -> Path:
    run_dir = store.folder.parent / "syncnet"
    return train_syncnet(
        load_settings(SyncNetTraining, overrides=[f"data={store.folder}", f"run_dir={run_dir}", *SYNCNET]), store
    )


@pytest.fixture(scope="module")
def model(store, syncnet) -> Path:
    """The folder of the finished model."""
    run_dir = store.folder.parent
    config = load_settings(TrainingConfig, MICRO, [f"run_dir={run_dir}", f"export={run_dir / 'model'}", "vae.steps=2"])
    train_vae(config)
    places = (f"data.clips={store.folder}", f"model.vae={run_dir / 'vae'}")
    train_unet(load_settings(UNetTrainingConfig, config.stage1, [f"output={run_dir / 'stage1'}", *places, *STAGE]))
    more = (f"model.initial={run_dir / 'stage1' / 'unet.safetensors'}", f"loss.syncnet={syncnet}")
    train_unet(
        load_settings(
            UNetTrainingConfig, config.stage2, [f"output={run_dir / 'stage2'}", *places, *STAGE, *STAGE_2, *more]
        )
    )
    return export_tiny(config)


def test_each_person_gives_a_clip(store):
    assert len({store.identity(i) for i in range(len(store))}) == 2
    assert store.resolution == 64
    assert min(store.num_frames(i) for i in range(len(store))) >= 125


def test_the_stages_leave_losses_curves_and_validation_clips(model):
    for stage, columns in (("stage1", {"recon"}), ("stage2", {"recon", "sync", "perceptual"})):
        folder = model.parent / stage
        with (folder / "losses.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert rows[-1]["step"] == "2"
        assert columns <= rows[-1].keys()
        assert (folder / "losses.png").exists()
    (video,) = (model.parent / "stage2" / "validation" / "step-00000002").glob("*.mp4")
    assert (probe_video(video).width, probe_video(video).height) == (128, 64)
    with (model.parent / "stage2" / "validation.csv").open(encoding="utf-8") as file:
        assert "sync_confidence" in next(csv.DictReader(file))


def test_the_model_makes_a_video_that_is_scored(raw, model, syncnet, tmp_path):
    result, scores = tmp_path / "result.mp4", tmp_path / "scores"
    command = ["--video_path", raw / "avatar_00.mp4", "--audio_path", raw / "avatar_01.mp4", "--duration", 1.2]
    command += ["--video_out_path", result, "--report", result.with_suffix(".json"), "--model", model]
    command += ["--inference_steps", 1, "--guidance_scale", 1, "--no_track_cache"]
    assert product.main([str(part) for part in command]) == 0
    wanted = ["psnr", "ssim", "outside_psnr", "sync_score"]
    command = ["--video_path", result, "--metric", *wanted, "--output", scores, "--syncnet", syncnet]
    assert eval_quality.main([str(part) for part in command]) == 0
    told = json.loads((scores / "scores.json").read_text(encoding="utf-8"))
    (clip,) = told["clips"]
    assert set(wanted) == clip["scores"].keys()
    assert not clip["failures"]


def test_an_adapter_of_the_model_is_trained_from_the_footage(raw, model, tmp_path):
    command = ["--footage", raw, "--output", tmp_path / "adapter", "--model", model]
    settings = ("optimizer.steps=2", "data.num_frames=4", "mixed_precision='no'", "data.num_workers=0", "lora.rank=2")
    for setting in settings:
        command += ["--set", setting]
    assert train_lora.main([str(part) for part in command]) == 0
    assert read_lora(tmp_path / "adapter" / "adapter.safetensors").layers
