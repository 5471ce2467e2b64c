"""Adapters from a speaker's clips: two steps of training, the file, and the model with it at strength 0 and 1."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import main as product
from latentsync.files import sha256_of
from latentsync.media.video_reader import read_frames
from latentsync.model.loading import bundled_model, load_model, read_lora
from latentsync.synthetic.clips import AvatarClip
from latentsync.synthetic.files import write_clip, write_speech
from training_scripts.clip_store import ClipStore, ClipStoreWriter
from training_scripts.train_lora import main
from training_scripts.training_run import save_points

QUICK = ("optimizer.steps=2", "optimizer.learning_rate=0.01", "data.num_frames=4", "lora.rank=2", "lora.alpha=4")
QUICK += ("mixed_precision='no'", "gradient_checkpointing=false", "data.num_workers=0", "save_every=2")


@pytest.fixture(scope="module")
def footage(micro_run, tmp_path_factory):
    """A store of one drawn speaker at the bundled model's size."""
    source, folder = ClipStore(micro_run.run_dir / "clips"), tmp_path_factory.mktemp("speaker") / "clips"
    writer = ClipStoreWriter(folder)
    writer.add_clip(
        "clip",
        faces=source.frames(0, 0, 12).repeat(2, 1).repeat(2, 2),
        features=source.features(0, 0)[None],
        mel=source.mel(0, 0)[None],
        audio=source.waveform(0, 0)[None],
    )
    writer.finish(["clip"])
    return folder


def train(footage, output, *settings) -> int:
    command = ["--clips", footage, "--output", output, "--model", "tiny"]
    for setting in (*QUICK, *settings):
        command += ["--set", setting]
    return main([str(part) for part in command])


@pytest.fixture(scope="module")
def trained(footage, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    assert train(footage, output) == 0
    return output


def test_strength_0_is_the_model_and_1_is_as_it_was_trained(trained):
    files, adapter = bundled_model(), trained / "adapter.safetensors"
    base, none, full = (
        load_model(files, **given).unet.state_dict()
        for given in ({}, {"lora": adapter, "lora_strength": 0.0}, {"lora": adapter})
    )
    assert all(torch.equal(tensor, none[key]) for key, tensor in base.items())
    state = load_file(save_points(trained)[-1] / "model.safetensors")  # peft's layers, as they were in training
    changed = [key for key, tensor in base.items() if not torch.equal(tensor, full[key])]
    assert changed
    for key in changed:
        layer = key.removesuffix(".weight")
        a, b = (state[f"{layer}.lora_{part}.default.weight"] for part in "AB")
        assert torch.equal(state[f"{layer}.base_layer.weight"], base[key])  # what was adapted learns nothing
        assert torch.allclose(full[key], base[key] + 2 * b @ a, atol=1e-6), key
    assert len(changed) == sum("lora_A" in key for key in state)


def test_every_attention_is_adapted_and_the_base_is_named(trained):
    lora = read_lora(trained / "adapter.safetensors")
    assert lora.base_sha256 == sha256_of(bundled_model().unet)
    assert set(lora.scales.values()) == {2.0}
    unet = load_model(bundled_model()).unet
    linear = [n for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear)]
    attention = [n for n in linear if n.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    assert sorted(lora.layers) == sorted(attention)
    assert any("motion_modules" in name for name in attention)


def test_a_part_of_the_attention_alone(footage, tmp_path):
    assert train(footage, tmp_path, "lora.within=attn2.", "optimizer.steps=1") == 0
    layers = read_lora(tmp_path / "adapter.safetensors").layers
    assert layers
    assert all(".attn2." in name and "motion_modules" not in name for name in layers)


def test_the_command_line_of_the_product_takes_it(trained, tmp_path):
    clip, video, speech = AvatarClip(5, 6, duration=0.4), tmp_path / "in.mp4", tmp_path / "speech.wav"
    write_speech(clip, speech)
    write_clip(clip, video, 192, speech)
    results = []
    for given in ((), ("--lora_strength", 0), ("--lora_strength", 1)):
        output = tmp_path / f"{len(results)}.mp4"
        command = ["--video_path", video, "--audio_path", speech, "--video_out_path", output, "--model", "tiny"]
        command += ["--inference_steps", 1, "--no_track_cache"]
        command += ["--lora", trained / "adapter.safetensors", *given] if given else []
        assert product.main([str(part) for part in command]) == 0
        results.append(np.stack([frame.pixels for frame in read_frames(output)]))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


@pytest.mark.parametrize(
    ("settings", "code", "told"),
    [
        (["lora.rank=0"], 2, "lora.rank is 0"),
        (["lora.layers=[to_x]"], 2, "to_x"),
        (["lora.alpha=0"], 2, "alpha"),
    ],
)
def test_settings_that_cannot_be(footage, tmp_path, capsys, settings, code, told):
    assert train(footage, tmp_path, *settings) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "adapter.safetensors").exists()
