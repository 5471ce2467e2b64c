"""From nothing to a model folder that the product loads and runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentsync.media.video_reader import read_frames
from latentsync.media.video_writer import VideoWriter, write_wav
from latentsync.model.checkpoints import load_unet
from latentsync.model.loading import described_model, load_model
from latentsync.model.vae import load_vae
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.speech import SAMPLE_RATE
from training_scripts.clip_store import ClipStore
from training_scripts.export_tiny import export_tiny
from training_scripts.train_vae import train_vae

FRAMES, SIZE = 8, 192


@pytest.fixture(scope="module")
def exported(micro_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export_tiny(replace(micro_run, export=folder))


def test_the_data_set(micro_run):
    store = ClipStore(micro_run.run_dir / "clips")
    assert (len(store), store.resolution) == (2, 64)
    faces = [store.frames(i) for i in range(2)]
    assert {(f.shape, f.dtype) for f in faces} == {((30, 64, 64, 3), np.dtype(np.uint8))}
    assert [store.lips(i).shape for i in range(2)] == [(30, 2)] * 2
    assert store.num_voices(0) == 2
    first, second = store.features(0, 0), store.features(0, 1)
    assert (first.shape, first.dtype) == ((60, 5, 384), np.float16)
    assert not np.array_equal(first, second)  # two voices for each clip
    assert store.mel(0).shape[0] == 80
    assert min(f.std((1, 2, 3)).min() for f in faces) > 5  # pictures, not blanks
    assert not np.array_equal(*faces)


def test_latents_have_unit_variance_and_a_hole(micro_run):
    files = sorted((micro_run.run_dir / "clips" / "latents").glob("*/*.npy"))
    assert len(files) == 2
    clean, masked = np.stack([np.load(file).astype(np.float32) for file in files], 1)
    assert clean.shape == (2, 30, 6, 4, 4)
    assert clean.std((0, 1, 3, 4)) == pytest.approx(np.ones(6), abs=0.1)
    assert not np.array_equal(clean, masked)


def test_a_decoder_that_learns_alone_leaves_the_latents_as_they_are(micro_run, tmp_path):
    (tmp_path / "clips").symlink_to(micro_run.run_dir.resolve() / "clips")
    settings = replace(micro_run.vae, initial=micro_run.run_dir / "vae", train_encoder=False)
    train_vae(replace(micro_run, run_dir=tmp_path, vae=settings))
    before, after = (load_vae(folder / "vae") for folder in (micro_run.run_dir, tmp_path))
    assert after.config.latents_mean == before.config.latents_mean
    for name, value in after.state_dict().items():
        assert torch.equal(value, before.state_dict()[name]) != name.startswith("decoder"), name


def test_a_vae_of_fewer_channels_is_cut_out_of_one_of_more(micro_run, tmp_path):
    (tmp_path / "clips").symlink_to(micro_run.run_dir.resolve() / "clips")
    settings = replace(micro_run.vae, initial=micro_run.run_dir / "vae", latent_channels=4, steps=0)
    cut, whole = load_vae(train_vae(replace(micro_run, run_dir=tmp_path, vae=settings))), micro_run.run_dir / "vae"
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(cut.encode(pixels).latent, load_vae(whole).encode(pixels).latent[:, :4])


def test_exported_files_are_half_precision(exported):
    for file in ("unet.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        assert {tensor.dtype for tensor in load_file(exported / file).values()} == {torch.float16}


def test_the_description_is_complete(exported, micro_run):
    described = json.loads((exported / "config.json").read_text(encoding="utf-8"))
    assert described["resolution"] == 64
    assert (described["num_attention_heads"], described["norm_num_groups"]) == (2, 8)
    for part in ("unet", "vae", "whisper"):
        assert (exported / described[part]).exists()
    assert described["training"]["seed"] == micro_run.seed
    assert described["training"]["unet_steps"] == {"stage1": 4, "stage2": 4}
    assert described["training"]["vae_steps"] == 4
    assert "2 drawn avatars" in described["training"]["data"]
    assert all(command.startswith("python -m training_scripts.") for command in described["training"]["commands"])


def test_a_model_of_heads_is_for_people(micro_run, tmp_path):
    export_tiny(replace(micro_run, export=tmp_path, data=None, faces="real", clips=micro_run.run_dir / "clips"))
    described = json.loads((tmp_path / "config.json").read_text())
    assert (described["faces"], described["training"]["data"][:20]) == ("real", "2 clips of heads in ")
    assert load_model(described_model(tmp_path)).faces_notice is None


def test_the_exported_weights_are_the_averaged_ones(exported, micro_run):
    trained = load_unet(micro_run.run_dir / "stage2" / "unet.safetensors")[0].state_dict()
    model = load_model(described_model(exported))
    assert model.prediction_type == "v_prediction"
    loaded = model.unet.state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[key], value.half().float()) for key, value in trained.items())


def test_the_product_runs_on_it(exported, tmp_path):
    clip = AvatarClip(identity_seed=7, speech_seed=8, duration=FRAMES / 25)
    video, speech, result = tmp_path / "in.mp4", tmp_path / "speech.wav", tmp_path / "out.mp4"
    with VideoWriter(video, SIZE, SIZE, rate=25) as writer:
        for index in range(clip.num_frames):
            writer.write(clip.frame(index, SIZE, SIZE))
    write_wav(speech, clip.speech.waveform, SAMPLE_RATE)
    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
    report = lip_sync(video, speech, result, load_model(described_model(exported)), options)
    assert (report.num_frames, report.num_faces) == (FRAMES, FRAMES)
    frames = [frame.pixels for frame in read_frames(result)]
    assert len(frames) == FRAMES
    assert frames[0].shape == (SIZE, SIZE, 3)
