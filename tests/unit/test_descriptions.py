"""Descriptions beside weights that are damaged, hostile or absurd: refused in words, whoever reads them."""

import json

import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

from latentsync.errors import CheckpointError, LatentSyncError, OptionError
from latentsync.files import MAX_BYTES, read_json, shown
from latentsync.model.checkpoints import load_unet, resolve_resolution, save_unet
from latentsync.model.loading import described_model, read_lora
from latentsync.model.vae import load_draft_decoder, load_vae
from latentsync.model.whisper import load_whisper
from latentsync.model_files import read_manifest
from latentsync.sync.syncnet import BUNDLED_SYNCNET, load_syncnet
from tests.small_model import small_unet, small_vae, write_whisper

BOMBS = {
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "long number": '{"resolution": ' + "9" * 20_000 + "}",
    "large": '{"more": "' + "x" * MAX_BYTES + '"}',
    "cut": '{"name": ',
    "utf-16": '{"a": 1}'.encode("utf-16").decode("latin-1"),
}


def beside(path, text: str) -> None:
    path.write_bytes(text.encode("latin-1"))


@pytest.fixture
def unet_file(tmp_path):
    save_unet(small_unet(), tmp_path / "unet.safetensors", resolution=64)
    return tmp_path / "unet.safetensors"


def adapter(folder, metadata=None):
    tensors = {"a.lora_A.weight": torch.ones(2, 3), "a.lora_B.weight": torch.ones(4, 2)}
    save_file(tensors, folder / "lora.safetensors", metadata)
    return folder / "lora.safetensors"


def read_by(reader: str, folder, text: str) -> None:
    if reader == "unet":
        save_unet(small_unet(), folder / "unet.safetensors")
        beside(folder / "unet.json", text)
        load_unet(folder / "unet.safetensors")
    elif reader == "vae":
        small_vae().save_pretrained(folder / "vae")
        beside(folder / "vae" / "config.json", text)
        load_vae(folder / "vae")
    elif reader == "adapter":
        path = adapter(folder)
        beside(folder / "adapter_config.json", text)
        read_lora(path)
    elif reader == "model":
        beside(folder / "config.json", text)
        described_model(folder)
    else:
        beside(folder / "downloads.json", text)
        read_manifest(folder / "downloads.json")


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("reader", ["unet", "vae", "adapter", "model", "manifest"])
def test_bombs(tmp_path, reader, bomb):
    with pytest.raises(LatentSyncError) as told:
        read_by(reader, tmp_path, BOMBS[bomb])
    assert len(str(told.value)) < 1000


def test_metadata_is_read_with_the_same_care(tmp_path):
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read_lora(adapter(tmp_path, {"lora_adapter_config": "[" * 100_000}))
    tensors = dict.fromkeys(("audio_encoder.conv_in.weight", "visual_encoder.conv_in.weight"), torch.ones(1, 1))
    save_file({name: one.clone() for name, one in tensors.items()}, tmp_path / "s.safetensors", {"config": "[" * 9999})
    with pytest.raises(CheckpointError, match="nested too deeply"):
        load_syncnet(tmp_path / "s.safetensors")
    assert load_syncnet(BUNDLED_SYNCNET) is not None


def test_the_error_is_the_callers(tmp_path):
    (tmp_path / "x.json").write_text("{", encoding="utf-8")
    with pytest.raises(OptionError, match=r"x\.json, which tells things, is not valid JSON"):
        read_json(tmp_path / "x.json", OptionError, what="tells things")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json(tmp_path)


def test_values_are_shown_shortened():
    assert shown(5) == "5"
    laughs: object = "ha"
    for _ in range(60):
        laughs = [laughs, laughs]
    assert len(shown(laughs)) < 400


@pytest.mark.parametrize("key", ["down_blocks.0.resnets.999999999.x", "down_blocks.999999999.attentions.0.x"])
def test_layers_that_count_to_a_thousand_million(unet_file, key):
    from safetensors.torch import load_file

    save_file(load_file(unet_file) | {key: torch.ones(1)}, unet_file)
    with pytest.raises(CheckpointError, match="1000000000 layers"):
        load_unet(unet_file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers_per_block": 10**9}, "1000000000 layers"),
        ({"layers_per_block": "x"}, "'x' layers"),
        ({"block_out_channels": 5}, "does not describe a VAE"),
        ({"norm_num_groups": 7}, "does not describe a VAE"),
        ({"norm_num_groups": 0}, "does not describe a VAE"),
        ({"down_block_types": ["Nothing"] * 4}, "does not describe a VAE"),
        ({"scaling_factor": float("nan")}, "scaling_factor nan"),
        ({"scaling_factor": 0}, "scaling_factor 0"),
        ({"scaling_factor": "1"}, "scaling_factor '1'"),
        ({"shift_factor": float("inf")}, "shift_factor inf"),
    ],
)
def test_absurd_vae_descriptions(tmp_path, change, said):
    small_vae().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=said):
        load_vae(tmp_path)


@pytest.mark.parametrize(
    "field", ["num_attention_heads", "motion_num_attention_heads", "norm_num_groups", "motion_norm_num_groups"]
)
@pytest.mark.parametrize("value", [0, -1, 7, 2**63, 1e308, "x", [1]])
def test_absurd_unet_descriptions(tmp_path, field, value):
    save_unet(small_unet(), tmp_path / "unet.pt")
    sidecar = {"num_attention_heads": 2, "norm_num_groups": 8} | {field: value}
    (tmp_path / "unet.json").write_text(json.dumps(sidecar), encoding="utf-8")
    with pytest.raises(LatentSyncError):
        load_unet(tmp_path / "unet.pt")


@pytest.mark.parametrize("side", [0, -64, 100, 10**9])
def test_absurd_resolutions(tmp_path, side):
    save_unet(small_unet(), tmp_path / "unet.safetensors", resolution=side)
    with pytest.raises(OptionError, match=f"resolution {side} is described with unet.safetensors"):
        resolve_resolution(tmp_path / "unet.safetensors")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern"),
        ({"alpha_pattern": [1]}, "alpha_pattern"),
        ({"lora_alpha": float("inf")}, "lora_alpha inf"),
        ({"lora_alpha": float("nan")}, "lora_alpha nan"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"lora_alpha": "8"}, "lora_alpha '8'"),
        ({"peft_type": ["x"]}, "peft|LoRA"),
    ],
)
def test_absurd_adapter_descriptions(tmp_path, change, said):
    path = adapter(tmp_path, {"lora_adapter_config": json.dumps({"r": 2, "lora_alpha": 2} | change)})
    with pytest.raises(CheckpointError, match=said):
        read_lora(path)


def test_alpha_of_single_layers(tmp_path):
    config = {"r": 2, "lora_alpha": 2, "alpha_pattern": {"a": 6, "other": 9}}
    assert read_lora(adapter(tmp_path, {"lora_adapter_config": json.dumps(config)})).scales == {"a": 3.0}


@pytest.mark.parametrize("heads", [0, -3, "x", [], 10**30])
def test_absurd_whisper_dimensions(tmp_path, heads):
    path = write_whisper(tmp_path / "tiny.pt", width=64)
    content = torch.load(path, weights_only=True)
    content["dims"]["n_audio_head"] = heads
    torch.save(content, path)
    if heads in (0, []):  # as if it were not said
        assert load_whisper(path).width == 64
    else:
        with pytest.raises(CheckpointError):
            load_whisper(path)


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_among_results_and_reports(tmp_path, bomb, monkeypatch):
    monkeypatch.setattr("eval.eval_quality.MAX_REPORT", MAX_BYTES)
    monkeypatch.setattr("latentsync.cli.worker.MAX_BYTES", MAX_BYTES)
    from eval.eval_quality import _report_beside
    from latentsync.cli.worker import read_results

    beside(tmp_path / "result.json", BOMBS[bomb])
    for read in (lambda: read_results(tmp_path / "result.json"), lambda: _report_beside(tmp_path / "result.mp4")):
        with pytest.raises(OptionError) as told:
            read()
        assert len(str(told.value)) < 1000
    assert read_results(tmp_path / "none.json") == []


@pytest.mark.parametrize("numbers", [[10**9], [1, -1], "many", [[1]]])
def test_absurd_draft_decoders(tmp_path, numbers):
    widths = (8,) * 4
    AutoencoderTiny(encoder_block_out_channels=widths, decoder_block_out_channels=widths).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    described = json.loads(path.read_text(encoding="utf-8")) | {"num_decoder_blocks": numbers}
    path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(CheckpointError, match="num_decoder_blocks"):
        load_draft_decoder(tmp_path)
