"""The U-Net's training as a whole: cut and resumed, removed save points, export, what is recorded and validated."""

import csv
import shutil

import numpy as np
import pytest
import torch

from latentsync.errors import LatentSyncError, OptionError
from latentsync.media.video_reader import probe_video
from latentsync.model.checkpoints import load_unet, read_state_dict, read_unet_facts
from training_scripts import train_unet as script
from training_scripts.train_unet import train_unet
from training_scripts.training_run import save_points

from .cut_runs import cut, differing, equal
from .small_parts import small_config

LESS = ("loss.sync_weight=0", "loss.perceptual_weight=0", "loss.temporal_weight=0")  # the noise alone: quick


def train_and_cut(config, step: int) -> None:
    cut(lambda: train_unet(config), step)


def record(config) -> list[dict]:
    with (config.output / "losses.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "settings",
    [
        ("loss.pixel_every=2",),
        (*LESS, "data.batch_size=1", "optimizer.gradient_accumulation_steps=3", "noise.audio_dropout=0.5"),
        (*LESS, "data.latents=cached", "data.posterior=mean", "mixed_precision=bf16", "optimizer.schedule=one_cycle"),
    ],
    ids=["all losses", "accumulated", "stored latents, bf16"],
)
def test_a_run_that_was_cut_ends_as_one_that_was_not(parts, tmp_path, settings):
    whole, broken = (small_config(parts, tmp_path / name, *settings) for name in ("whole", "broken"))
    train_unet(whole)
    train_and_cut(broken, 3)  # one step more than was saved, and the first part of another
    assert [path.name for path in save_points(broken.output)] == ["step-00000002"]
    torch.manual_seed(99)  # a new process has another state of chance
    np.random.seed(99)
    train_unet(broken)
    points = [save_points(config.output)[-1] for config in (whole, broken)]
    assert points[0].name == "step-00000004"
    assert differing(*points) == []
    assert equal(*(read_state_dict(config.output / "unet.safetensors") for config in (whole, broken)))
    assert record(whole) == record(broken)


def test_the_comparison_sees_differences(parts, tmp_path):
    settings = (*LESS, "optimizer.steps=1", "save_every=1")
    points = []
    for seed in (5, 6):
        config = small_config(parts, tmp_path / str(seed), *settings, f"seed={seed}", "log_every=5")
        train_unet(config)
        points += save_points(config.output)
    assert differing(*points) == ["ema.pt", "model.safetensors", "optimizer.bin", "run.json"]


def test_accumulated_parts_are_one_batch(parts, tmp_path):
    results = []
    for name, size, count in (("one", 4, 1), ("parts", 1, 4)):
        settings = (f"data.batch_size={size}", f"optimizer.gradient_accumulation_steps={count}", "loss.pixel_every=2")
        config = small_config(parts, tmp_path / name, *settings, "log_every=1", "optimizer.steps=2")
        results.append((read_state_dict(train_unet(config)), record(config)))
    assert results[0][1][1].keys() == results[1][1][1].keys()
    for first, second in zip(results[0][1], results[1][1], strict=True):
        for name, value in first.items():
            assert float(second[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name
    # Adam divides gradients by their size: rounding shows where they are next to nothing
    assert all((results[0][0][key] - value).abs().mean() < 1e-5 for key, value in results[1][0].items())


def test_old_save_points_are_removed(parts, tmp_path):
    config = small_config(parts, tmp_path, *LESS, "save_every=1", "keep=2", "optimizer.steps=5")
    train_unet(config)
    assert [path.name for path in save_points(tmp_path)] == ["step-00000004", "step-00000005"]


def test_an_unfinished_save_point_does_not_count(parts, tmp_path):
    config = small_config(parts, tmp_path, *LESS)
    train_and_cut(config, 3)
    shutil.copytree(save_points(tmp_path)[0], tmp_path / "save_points" / "step-00000003.part")
    (tmp_path / "save_points" / "step-00000003.part" / "run.json").unlink()
    train_unet(config)
    assert [path.name for path in save_points(tmp_path)] == ["step-00000002", "step-00000004"]


@pytest.mark.parametrize("export", ["safetensors", "pt"])
def test_the_result_is_a_file_that_every_loader_of_latentsync_takes(parts, tmp_path, export):
    config = small_config(
        parts, tmp_path, *LESS, f"export={export}", "optimizer.steps=1", "model.prediction_type=epsilon"
    )
    path = train_unet(config)
    assert path.name == f"unet.{export}"
    names = read_state_dict(path)
    motion = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"
    assert {f"{motion}.to_q.weight", f"{motion}.pos_encoder.pe"} <= names.keys()
    assert read_unet_facts(path).global_step == 1
    if export == "pt":
        content = torch.load(path, weights_only=True)
        assert content.keys() == {"global_step", "state_dict"}
        unet, _ = load_unet(
            path, num_attention_heads=2, norm_num_groups=8
        )  # which the reference's form has no place for
    else:
        unet, facts = load_unet(path)
        assert (facts.resolution, facts.prediction_type) == (64, "epsilon")
    assert unet.config.num_attention_heads == 2


def test_frozen_tensors_stay_and_cost_the_optimiser_nothing(parts, tmp_path):
    start = train_unet(small_config(parts, tmp_path / "start", *LESS, "optimizer.steps=1", "model.motion=decoder"))
    settings = (f"model.initial={start}", "model.trainable=[motion_modules., attentions.]", "optimizer.steps=2")
    result = read_state_dict(train_unet(small_config(parts, tmp_path / "stage2", *LESS, *settings)))
    before = read_state_dict(start)
    changed = {key for key, value in result.items() if key in before and not torch.equal(value, before[key])}
    assert changed
    assert all("motion_modules." in key or "attentions." in key for key in changed)
    assert any("attentions." in key for key in changed)
    learned = [key for key in result if "motion_modules." in key or "attentions." in key]
    learned = [key for key in learned if not key.endswith(".pe")]
    state = torch.load(save_points(tmp_path / "stage2")[-1] / "optimizer.bin", weights_only=True)
    assert len(state["state"]) == len(learned)


def test_losses_are_recorded_one_by_one(parts, tmp_path):
    pytest.importorskip("tensorboard")
    config = small_config(parts, tmp_path, "log_every=1", "optimizer.steps=2", "tensorboard=true")
    train_unet(config)
    rows = record(config)
    assert [row["step"] for row in rows] == ["1", "2"]
    for row in rows:
        parts_of_it = {"recon": 1, "sync": 0.05, "perceptual": 0.1, "temporal": 10}
        total = sum(weight * float(row[name]) for name, weight in parts_of_it.items())
        assert float(row["loss"]) == pytest.approx(total, rel=1e-5)
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert (tmp_path / "losses.png").stat().st_size > 1000


def test_validation_makes_clips_and_scores_and_changes_nothing(parts, tmp_path):
    quiet = small_config(parts, tmp_path / "quiet", *LESS, "data.held_out=0.3")
    told = small_config(
        parts, tmp_path / "told", *LESS, "data.held_out=0.3", "validation.every=2", "validation.num_inference_steps=2"
    )
    train_unet(quiet), train_unet(told)
    assert differing(*(save_points(config.output)[-1] for config in (quiet, told))) == []
    videos = sorted((told.output / "validation").rglob("*.mp4"))
    assert [f"{path.parent.name}/{path.stem}" for path in videos] == [
        f"step-0000000{step}/clip{clip}" for step in (2, 4) for clip in (3, 4)
    ]
    facts = probe_video(videos[0])
    assert (facts.width, facts.height) == (128, 64)


def test_gradients_that_are_not_finite_end_the_run(parts, tmp_path, monkeypatch):
    config = small_config(parts, tmp_path, *LESS)
    plain = script.UNetLosses.__call__
    monkeypatch.setattr(script.UNetLosses, "__call__", lambda *given: (plain(*given)[0] * torch.inf, {}))
    with pytest.raises(LatentSyncError, match="step 1: the gradients are not finite"):
        train_unet(config)


def test_half_precision_without_a_gpu_is_refused(parts, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("it works here")
    with pytest.raises(OptionError, match="mixed_precision 'fp16' does not work here"):
        train_unet(small_config(parts, tmp_path, "mixed_precision=fp16"))


def test_faces_of_another_size_are_refused(parts, tmp_path):
    with pytest.raises(OptionError, match=r"64 px, data\.resolution is 128"):
        train_unet(small_config(parts, tmp_path, "data.resolution=128"))


def test_a_broken_clip_is_told_once_and_training_goes_on(parts, tmp_path, caplog):
    shutil.copytree(parts / "clips", tmp_path / "clips")
    path = tmp_path / "clips" / "clips" / "clip2" / "features.npy"
    path.write_bytes(b"no array")
    config = small_config(parts, tmp_path / "out", *LESS, f"data.clips={tmp_path / 'clips'}", "optimizer.steps=6")
    with caplog.at_level("WARNING"):
        train_unet(config)
    assert sum(str(path) in message for message in caplog.messages) == 1
