"""The ablation: its measures, its tables, what is kept, and one run of it with an arm of one step."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch

from eval import ablation
from eval.ablation_scores import MEASURES, ClipScores, HeldOutScores, temporal_distance, unsteadiness
from latentsync.errors import LatentSyncError, OptionError
from latentsync.options import LipSyncOptions
from latentsync.sync.syncnet import BUNDLED_SYNCNET, load_syncnet
from latentsync.videomae import VideoEncoder, VideoEncoderConfig, save_videomae
from training_scripts.clip_store import ClipStoreWriter
from training_scripts.config import UNetTrainingConfig, load_settings

ENCODER = VideoEncoderConfig(
    image_size=16,
    patch_size=8,
    num_frames=16,
    tubelet_size=2,
    width=16,
    depth=1,
    num_heads=2,
    mlp_width=32,
    num_classes=0,
)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return VideoEncoder(ENCODER).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scores(encoder):
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
    return HeldOutScores(load_syncnet(BUNDLED_SYNCNET), encoder, num_clips=1, num_frames=20, options=options)


def test_the_truth_is_perfect_and_worse_pictures_score_worse(scores):
    clip = scores.clips[0]
    truth, source = scores.score(clip, clip.truth), scores.score(clip, clip.track.aligned)
    assert (truth.psnr, truth.ssim, truth.vae, truth.flicker) == (None, 1.0, 0.0, 1.0)
    assert truth.temporal == pytest.approx(0, abs=1e-6)
    noise = np.random.default_rng(0).normal(0, 12, clip.truth.shape)
    noisy = scores.score(clip, np.clip(clip.truth + noise, 0, 255).astype(np.uint8))
    for worse in (source, noisy):
        assert worse.ssim < 0.99
        assert worse.vae > 0
        assert worse.temporal > 0
        assert 5 < worse.psnr < 40
    assert noisy.flicker > 1.5
    assert truth.r_opening > 0.8
    assert truth.r_opening > source.r_opening


def test_only_what_is_pasted_counts(scores):
    clip = scores.clips[0]
    made = clip.truth.copy()
    made[:, ~scores.hole] = clip.track.aligned[:, ~scores.hole]
    assert scores.score(clip, made).psnr is None


def test_unsteadiness_is_the_second_difference_by_hand():
    frames = np.array([10, 20, 26, 30], np.uint8)[:, None]  # differences 10, 6, 4: second ones -4, -2
    assert unsteadiness(frames) == 3
    assert unsteadiness(np.arange(0, 60, 3, dtype=np.uint8)[:, None]) == 0


def test_temporal_distance_sees_the_order_of_frames(encoder):
    faces = np.random.default_rng(1).integers(0, 255, (24, 32, 32, 3), dtype=np.uint8)
    assert temporal_distance(encoder, faces, faces) == pytest.approx(0, abs=1e-6)
    assert temporal_distance(encoder, faces[::-1], faces) > 1e-4


def row(**measures):
    return dict.fromkeys(MEASURES, 1.0) | measures


def test_summary_pairs_the_clips():
    """All clips of an arm are better by about 0.1, though clips differ by far more than that."""
    base = [row(r_opening=value) for value in (0.1, 0.5, 0.9, 0.3, 0.7)]
    better = [row(r_opening=r["r_opening"] + gain) for r, gain in zip(base, (0.1, 0.12, 0.08, 0.1, 0.11), strict=True)]
    entry = ablation.summary({"all": base, "no_sync": better})["no_sync"]["r_opening"]
    assert entry["mean"] == pytest.approx(0.602)
    assert entry["difference"] == pytest.approx(0.102)
    low, high = entry["difference_interval"]
    assert 0.08 < low < 0.102 < high < 0.12
    low, high = entry["interval"]
    assert high - low > 0.3


def test_tables_tell_values_minutes_and_clear_differences():
    base = [row(ssim=value) for value in (0.80, 0.81, 0.82, 0.83)]
    worse = [row(ssim=value - 0.1) for value in (0.80, 0.81, 0.82, 0.83)]
    truth = [row(psnr=None)] * 4
    text = ablation.markdown(ablation.summary({"all": base, "none": worse, "truth": truth}), {"all": 90.0})
    scores_of_all = next(line for line in text.splitlines() if line.startswith("| all losses"))
    assert "0.8150 (0.80" in scores_of_all
    assert scores_of_all.endswith("| 1.5 |")
    assert "**-0.1000 (-0.1000 to -0.1000)**" in text
    assert "1.000 (1.000 to 1.000)" in text
    drawn = next(line for line in text.splitlines() if "right lips" in line)
    assert " - |" in drawn, "no PSNR of equal pictures"


def test_scores_are_kept_until_their_subject_or_conditions_change(tmp_path):
    calls = []

    def score():
        calls.append(1)
        return [ClipScores(*[0.5] * len(MEASURES))]

    for subject, frames in (("a", 20), ("a", 20), ("b", 20), ("b", 30)):
        rows = ablation.scored(tmp_path / "s" / "all.json", subject, {"frames": frames}, score)
        assert rows == [dict.fromkeys(MEASURES, 0.5)]
    assert len(calls) == 3


def test_each_arm_lacks_what_its_name_says():
    off = {name: set(losses) for name, losses in ablation.ARMS.items()}
    assert off["all"] == set()
    assert off["none"] == set(ablation.WEIGHTS)
    for loss in ablation.WEIGHTS:
        assert off[f"no_{loss}"] == {loss}
    config = load_settings(UNetTrainingConfig, ablation.CONFIG, ["loss.sync_weight=0"])
    assert config.loss.sync_weight == 0
    assert min(config.loss.perceptual_weight, config.loss.temporal_weight) > 0
    assert (config.loss.perceptual, config.loss.temporal, config.loss.lip_weight) == ("vae", "encoder", 0)


def test_an_arm_that_had_its_minutes_is_told(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"seconds": 900.0}))
    with pytest.raises(LatentSyncError, match="15 minutes"):
        ablation.train_arm("all", tmp_path, [], 15)


def test_an_arm_that_fails_names_its_log(tmp_path):
    with pytest.raises(LatentSyncError, match=r"training\.log"):
        ablation.train_arm("all", tmp_path, ["optimizer.stepz=3"], 15)
    assert "stepz" in (tmp_path / "training.log").read_text()


def arguments(tmp_path, **changes):
    values = {
        "clips": tmp_path / "clips",
        "output": tmp_path / "ablation",
        "syncnet": BUNDLED_SYNCNET,
        "video_encoder": tmp_path / "encoder.safetensors",
        "arms": ["all"],
        "steps": 1,
        "minutes": 5.0,
        "set": ["data.batch_size=1", "loss.pixel_every=1", "mixed_precision=no"],
        "train_only": False,
        "heldout_clips": 1,
        "frames": 17,
        "inference_steps": 1,
        "guidance_scale": 1.0,
    }
    return Namespace(**(values | changes))


def test_missing_networks_are_told_before_anything_is_trained(tmp_path):
    with pytest.raises(OptionError, match="video_encoder"):
        ablation.run(arguments(tmp_path))


def test_a_run_trains_scores_and_writes_both_tables(tmp_path, encoder, capsys):
    rng = np.random.default_rng(0)
    writer = ClipStoreWriter(tmp_path / "clips")
    writer.add_clip(
        "one",
        faces=rng.integers(0, 255, (40, 128, 128, 3), dtype=np.uint8),
        features=rng.normal(size=(1, 80, 5, 384)).astype(np.float16),
        mel=rng.normal(size=(1, 80, 128)).astype(np.float32),
        audio=np.zeros((1, 25600), np.int16),
    )
    writer.finish(["one"])
    save_videomae(encoder, tmp_path / "encoder.safetensors")
    ablation.run(arguments(tmp_path))
    report = json.loads((tmp_path / "ablation" / "ablation.json").read_text())
    assert list(report["rows"]) == ["bundled", "all", "truth", "source"]
    assert report["seconds"]["all"] > 0
    assert set(report["rows"]["all"]) == set(MEASURES)
    text = (tmp_path / "ablation" / "ablation.md").read_text()
    assert "all losses" in text
    assert text == capsys.readouterr().out
    losses = (tmp_path / "ablation" / "all" / "training.log").read_text()
    assert "temporal" in losses or (tmp_path / "ablation" / "all" / "unet.safetensors").exists()
    before = (tmp_path / "ablation" / "all" / "unet.safetensors").stat().st_mtime_ns
    ablation.run(arguments(tmp_path))
    assert (tmp_path / "ablation" / "all" / "unet.safetensors").stat().st_mtime_ns == before
