"""SyncNet's trainer on three drawn avatars: what is paired, what is lost, and that a cut run goes on as if uncut."""

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks import quality, run_command
from latentsync.errors import OptionError
from latentsync.sync.pairs import draw_pair, fixed_pairs, load_pairs, usable_clips
from latentsync.sync.syncnet import StableSyncNet, load_syncnet, mel_window, sync_mel, syncnet_from_description
from latentsync.synthetic.clips import AvatarClip
from training_scripts.batches import StepBatches, augment, draw_pairs
from training_scripts.clip_store import ClipStore, ClipStoreWriter
from training_scripts.config import CONFIGS, AugmentationConfig, SyncNetTraining, load_settings
from training_scripts.losses import all_pairs_loss, cosine_bce
from training_scripts.train_syncnet import train_syncnet
from training_scripts.training_run import save_points

from .cut_runs import differing

ROOT = Path(__file__).parents[2]
SIDE, FRAMES = 32, 48
SMALL = [
    f"model.resolution={SIDE}",
    "model.norm_num_groups=4",
    "model.audio_encoder.block_out_channels=[8, 8, 8, 8, 8, 16]",
    "model.visual_encoder.block_out_channels=[8, 8, 16]",
    "model.visual_encoder.downsample_factors=[[2, 4], 2, 4]",
    "model.visual_encoder.attn_blocks=[0, 0, 1]",
    "model.num_heads=2",
    "held_out=0.3",
    "batch_size=4",
    "windows_per_clip=2",
    "steps=4",
    "num_validation_pairs=8",
    "validate_every=2",
    "log_every=2",
    "save_every=2",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ClipStore:
    folder = tmp_path_factory.mktemp("clips")
    writer, keys = ClipStoreWriter(folder), []
    for seed in range(3):
        clip = AvatarClip(seed, seed + 10, duration=FRAMES / 25)
        audio = np.stack([clip.speech_by(voice).waveform for voice in range(2)])
        faces = np.stack([clip.frame(index, SIDE, SIDE) for index in range(FRAMES)])
        mel = np.stack([sync_mel(waveform) for waveform in audio])
        features = np.zeros((2, 2 * FRAMES, 2, 4), np.float16)  # of no use here
        writer.add_clip(f"avatar{seed}", faces=faces, mel=mel, audio=audio, features=features)
        keys.append(f"avatar{seed}")
    writer.finish(keys)
    return ClipStore(folder)


@pytest.fixture
def config(tmp_path):
    def make(*overrides: str):
        return load_settings(SyncNetTraining, None, [*SMALL, f"run_dir={tmp_path / 'run'}", *overrides])

    return make


def rows_of(run_dir) -> list[dict]:
    with (run_dir / "validation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# What is paired


def test_a_batch_holds_windows_of_the_same_clips_far_enough_apart(store, config):
    pairs = draw_pairs(store, [0, 1, 2], config("batch_size=6"), step=5)
    assert len(pairs) == 6
    assert all(pair.label for pair in pairs)
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        assert (first.clip, first.voice) == (second.clip, second.voice)
        assert abs(first.picture - second.picture) >= 8
    assert len({pair.clip for pair in pairs}) == 3


@pytest.mark.parametrize(("reference", "nearest"), [("true", 1), ("false", 8)])
def test_labelled_pairs_keep_their_distance(store, config, reference, nearest):
    settings = config("pairing=labels", f"reference={reference}", "batch_size=50")
    pairs = [pair for step in range(10) for pair in draw_pairs(store, [0, 1, 2], settings, step)]
    apart = [abs(pair.picture - pair.sound) for pair in pairs if not pair.label]
    assert 200 < len(apart) < 300
    assert min(apart) == nearest
    assert {pair.voice for pair in pairs} == {0, 1}


def test_two_processes_draw_what_one_with_the_doubled_batch_draws(store, config):
    one = draw_pairs(store, [0, 1, 2], config("batch_size=8"), 3)
    assert one == [pair for rank in (0, 1) for pair in draw_pairs(store, [0, 1, 2], config(), 3, rank, 2)]


def test_pictures_and_sounds_are_those_of_the_pairs(store, config):
    pairs = [draw_pair(store, clip, 16, 8, np.random.default_rng(clip), clip % 2) for clip in range(3)]
    batch = load_pairs(store, pairs, 16)
    assert batch.labels.tolist() == [0, 1, 0]
    for place, pair in enumerate(pairs):
        assert np.array_equal(batch.frames[place], store.frames(pair.clip, pair.picture, 16))
        assert np.array_equal(batch.mel[place, 0], mel_window(store.mel(pair.clip, pair.voice), pair.sound))


def test_fixed_pairs_are_the_same_every_time_and_half_of_each_kind(store):
    pairs = fixed_pairs(store, [0, 2], 16, 8, 20, seed=4)
    assert pairs == fixed_pairs(store, [0, 2], 16, 8, 20, seed=4)
    assert pairs != fixed_pairs(store, [0, 2], 16, 8, 20, seed=5)
    assert sum(pair.label for pair in pairs) == 10
    assert {pair.clip for pair in pairs} == {0, 2}


def test_clips_too_short_for_the_distance(store):
    assert usable_clips(store, range(3), 16, 16) == [0, 1, 2]
    with pytest.raises(OptionError, match=r"None of 3 clips has the 49 frames"):
        usable_clips(store, range(3), 16, 17)


def test_which_pairs_of_a_batch_count(store):
    pairs = [draw_pair(store, 0, 16, 8, np.random.default_rng(seed), 1) for seed in range(2)]
    pairs = [pairs[0]._replace(picture=0, sound=0), pairs[1]._replace(picture=5, sound=5)]
    pairs += [pairs[0]._replace(picture=8, sound=8), pairs[0]._replace(clip=1)]
    batch = load_pairs(store, pairs, 16)
    assert torch.equal(batch.belongs(), torch.eye(4, dtype=torch.bool))
    elsewhere, apart = batch.differs(8)
    assert elsewhere[0].tolist() == [False, False, False, True]
    assert apart[0].tolist() == [False, False, True, False]  # 5 frames apart says neither
    assert not apart[1].any()
    assert torch.equal(apart, apart.T)


# What is lost


def test_the_loss_of_equal_vectors_is_finite():
    vectors = torch.nn.functional.normalize(torch.rand(500, 64), dim=1).requires_grad_()
    for label in (0.0, 1.0):
        loss = cosine_bce(vectors, vectors.detach(), torch.full((500,), label))
        loss.backward()
        assert loss.isfinite()
    assert vectors.grad.isfinite().all()


def test_every_picture_against_every_sound_by_hand():
    vision = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    audio = torch.tensor([[0.96, 0.28], [0.6, 0.8], [0.28, 0.96]])
    c = (vision @ audio.T).tolist()
    near, far = torch.zeros(3, 3, dtype=torch.bool), torch.zeros(3, 3, dtype=torch.bool)
    near[0, 2] = near[2, 0] = far[1, 2] = True  # the others are too near to tell
    belongs = torch.eye(3, dtype=torch.bool)
    right = -sum(math.log(min(c[i][i], 1 - 1e-6)) for i in range(3)) / 3
    wrong = -((math.log(1 - c[0][2]) + math.log(1 - c[2][0])) / 2 + math.log(1 - c[1][2])) / 2
    found = all_pairs_loss(vision, audio, belongs, (near, far), contrastive_weight=0, temperature=0.1)
    assert found.item() == pytest.approx(0.5 * (right + wrong), rel=1e-4)

    def chosen(*scores: float) -> float:
        """The first is the right one."""
        return -torch.tensor(scores).div(0.1).log_softmax(0)[0].item()

    choices = [chosen(c[0][0], c[0][2]), chosen(c[1][1], c[1][2]), chosen(c[2][2], c[2][0])]  # of sounds
    choices += [chosen(c[0][0], c[2][0]), chosen(c[1][1]), chosen(c[2][2], c[0][2], c[1][2])]  # of pictures
    both = all_pairs_loss(vision, audio, belongs, (near, far), contrastive_weight=2, temperature=0.1)
    assert (both - found).item() == pytest.approx(2 * sum(choices) / 6, rel=1e-4)


def test_augmentation_keeps_a_clip_together_and_can_be_none(config):
    settings = config().augmentation
    stacked = torch.rand(8, 1, 24, 48).repeat(1, 48, 1, 1) * 2 - 1  # the same picture in all frames
    mel = torch.rand(8, 1, 80, 52) * 8 - 4
    still = replace(settings, noise=0.0)
    changed, heard = augment(stacked, mel, still, torch.Generator().manual_seed(0))
    assert (changed - changed[:, :1]).abs().max() < 1e-5
    assert (changed - stacked).flatten(1).abs().amax(1).min() > 1e-3
    assert heard.abs().max() <= 4
    again, _ = augment(stacked, mel, still, torch.Generator().manual_seed(0))
    assert torch.equal(again, changed)
    none = type(settings)(mirrored=0, brightness=0, contrast=0, shift=0, blur=0, noise=0, mel_gain=0)
    same, unheard = augment(stacked, mel, none, torch.Generator().manual_seed(0))
    assert torch.equal(same, stacked)
    assert torch.equal(unheard, mel)


# A run


def test_a_cut_run_goes_on_as_if_uncut(store, config, tmp_path):
    uncut = config(f"run_dir={tmp_path / 'uncut'}", "schedule=constant")
    train_syncnet(uncut, store)
    cut = replace(uncut, run_dir=tmp_path / "cut")
    train_syncnet(replace(cut, steps=2), store)
    first = rows_of(cut.run_dir)
    train_syncnet(cut, store)
    assert differing(*(save_points(c.run_dir)[-1] for c in (uncut, cut))) == []
    assert rows_of(uncut.run_dir) == rows_of(cut.run_dir)
    assert first == rows_of(cut.run_dir)[:1]
    files = [load_file(c.run_dir / "syncnet.safetensors") for c in (uncut, cut)]
    assert all(torch.equal(value, files[1][key]) for key, value in files[0].items())


def test_what_an_earlier_version_saved_is_told_and_left(store, config, caplog):
    settings = config("steps=2")
    settings.run_dir.mkdir()
    (settings.run_dir / "state.pt").write_bytes(b"saved")
    with caplog.at_level("WARNING"):
        train_syncnet(settings, store)
    assert f"{settings.run_dir / 'state.pt'} was saved by an earlier version" in caplog.text
    assert (settings.run_dir / "state.pt").read_bytes() == b"saved"


def test_what_a_run_leaves(store, config):
    settings = config("export_pt=true", "pairing=labels", "gradient_accumulation_steps=2", "ema_decay=0")
    target = train_syncnet(settings, store)
    before = load_file(save_points(settings.run_dir)[-1] / "model.safetensors")
    syncnet = load_syncnet(target)
    assert syncnet.config == settings.network()
    assert all(torch.equal(value.half(), load_file(target)[key]) for key, value in before.items())
    assert torch.load(target.with_suffix(".pt"), weights_only=True).keys() == {"global_step", "state_dict"}
    with safe_open(target, "pt") as file:
        told = file.metadata()
    assert syncnet_from_description(json.loads(told["config"])) == settings.network()
    assert (told["global_step"], told["min_negative_distance"]) == ("4", "8")
    rows = rows_of(settings.run_dir)
    assert [int(row["step"]) for row in rows] == [2, 4]
    assert 0 <= float(rows[-1]["validation_accuracy"]) <= 1
    for name in ("losses.png", "validation.png"):
        assert (settings.run_dir / name).read_bytes().startswith(b"\x89PNG")
    assert train_syncnet(settings, store) == target  # finished: nothing more is done
    assert rows_of(settings.run_dir) == rows


def test_accumulated_batches_are_the_steps_batches(store, config):
    """Two micro-batches a step read what four steps of one would."""
    batches = StepBatches(store, [0, 1], config())
    loaded = list(batches.loader(2, 4))
    assert len(loaded) == 2
    assert torch.equal(loaded[0].mel, batches[2].mel)
    assert torch.equal(loaded[1].frames, batches[3].frames)


def test_two_processes_of_torchrun_are_one_with_the_doubled_batch(store, config, tmp_path):
    """Labelled pairs, of which each counts by itself, and no augmentation, which each process draws for itself."""
    plain = [f"augmentation.{field.name}=0" for field in fields(AugmentationConfig)]
    plain += ["pairing=labels", "learning_rate=1e-5", "schedule=constant", "ema_decay=0", "export_dtype=float32"]
    one = load_file(train_syncnet(config(*plain, "batch_size=4"), store))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "training_scripts.train_syncnet"]
    places = [f"data={store.folder}", f"run_dir={tmp_path / 'two'}", "batch_size=2"]
    for setting in [*SMALL, *plain, *places]:
        command += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    two = load_file(tmp_path / "two" / "syncnet.safetensors")
    torch.manual_seed(config().seed)
    start = StableSyncNet(config().network()).state_dict()
    assert max((tensor - two[key]).abs().max() for key, tensor in one.items()) <= 1e-5
    assert max((tensor - start[key]).abs().max() for key, tensor in one.items()) > 2e-5
    assert len(rows_of(tmp_path / "two")) == len(rows_of(tmp_path / "run"))


def test_a_latent_one_looks_at_latents(store, config, tmp_path):
    torch.manual_seed(0)
    blocks = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 2, "latent_channels": 4}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    AutoencoderKL(**blocks, **kinds).save_pretrained(tmp_path / "vae")
    latent = ["model.latent_space=true", "model.lower_half=false", "model.visual_encoder.in_channels=64"]
    latent += ["model.visual_encoder.downsample_factors=[2, 2, 1]", "steps=2"]
    with pytest.raises(OptionError, match="set vae"):
        config(*latent)
    target = train_syncnet(config(*latent, f"vae={tmp_path / 'vae'}"), store)
    assert load_syncnet(target).config.latent


def test_accuracy_of_a_file_on_a_folder(store, config, capsys):
    target = train_syncnet(config("steps=2"), store)
    arguments = ["--data", store.folder, "--syncnet", target, "--held_out", 0.3, "--num_pairs", 10, "--device", "cpu"]
    assert run_command("", quality.COMMANDS, ["syncnet", *map(str, arguments)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["num_pairs"] == 10
    assert 0.5 <= told["best_accuracy"] <= 1


# Settings


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["pairing=none"], "labels or all"),
        (["schedule=cosine"], "constant or one_cycle"),
        (["reference=true"], "pairing: labels"),
        (["min_negative_distance=0"], "1 frame or more"),
        (["batch_size=0"], "batch_size is 0; expected at least 1"),
        (["windows_per_clip=3"], "do not go together"),
        (["batch_size=2"], "do not go together"),
        (["model.resolution=64"], "expected 1x1"),
        (["speed=3"], "unknown setting speed"),
        (["steps"], "name=value"),
    ],
)
def test_settings_that_cannot_be(config, overrides, told):
    with pytest.raises(OptionError, match=told):
        config(*overrides)


def test_no_such_configuration(tmp_path):
    with pytest.raises(OptionError, match="syncnet_16_pixel_attn"):
        load_settings(SyncNetTraining, tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["16_pixel_attn", "16_pixel", "16_latent", "25_pixel"])
def test_the_references_settings(name):
    settings = load_settings(SyncNetTraining, CONFIGS / f"syncnet_{name}.yaml")
    assert settings.reference
    assert settings.negative_distance == 1
    assert (settings.learning_rate, settings.max_grad_norm, settings.validate_every) == (1e-5, 1.0, 2500)
    assert settings.batch_size == {"16_latent": 120, "25_pixel": 64}.get(name, 256)
