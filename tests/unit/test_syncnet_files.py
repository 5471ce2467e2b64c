"""SyncNet files: which network a file holds, and which it does not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentsync.errors import (
    DamagedCheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
)
from latentsync.sync.syncnet import (
    EncoderConfig,
    StableSyncNet,
    SyncNetConfig,
    describe_syncnet,
    load_syncnet,
    save_syncnet,
    syncnet_config_from_state_dict,
    syncnet_from_description,
)
from training_scripts.config import CONFIGS, SyncNetTraining, load_settings

GOLDEN = Path(__file__).parents[1] / "golden" / "mini"
FULL_SIZE = {  # tensors, of the audio encoder, parameters: of the reference's networks
    "syncnet_16_pixel_attn": (266, 128, 401_306_080),
    "syncnet_16_pixel": (178, 84, 371_766_496),
    "syncnet_16_latent": (144, 74, 65_544_416),
    "syncnet_25_pixel": (162, 72, 103_742_144),  # counted here: the reference's own configuration does not run
}


def small_config(**changes) -> SyncNetConfig:
    """No released strides: 5 levels of pictures of 32 px."""
    audio = EncoderConfig(1, (8, 8, 16, 16, 16, 16), ((2, 1), 2, 2, 2, 2, (2, 3)), (False,) * 6)
    visual = EncoderConfig(48, (8, 8, 16, 16), ((2, 4), 2, 2, 2), (False, False, True, False))
    return replace(SyncNetConfig(audio, visual, resolution=32, num_heads=4, norm_num_groups=4), **changes)


@pytest.fixture
def small() -> StableSyncNet:
    torch.manual_seed(0)
    return StableSyncNet(small_config()).eval()


def answers(syncnet: StableSyncNet) -> torch.Tensor:
    height, width = syncnet.config.picture_size
    generator = torch.Generator().manual_seed(1)
    stacked = torch.randn(2, syncnet.config.visual.in_channels, height, width, generator=generator)
    mel = torch.randn(2, 1, *syncnet.config.mel_size, generator=generator)
    with torch.no_grad():
        return torch.cat(syncnet(stacked, mel))


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_networks_have_the_released_tensors(name):
    config = load_settings(SyncNetTraining, CONFIGS / f"{name}.yaml").network()
    with torch.device("meta"):
        tensors = StableSyncNet(config).state_dict()
    audio = sum(key.startswith("audio_encoder.") for key in tensors)
    assert (len(tensors), audio, sum(tensor.numel() for tensor in tensors.values())) == FULL_SIZE[name]
    assert syncnet_config_from_state_dict(tensors) == config  # the released files have nothing but these


def test_where_attention_stands_is_read_from_the_keys():
    tensors = load_file(GOLDEN / "syncnet_tiny.safetensors")
    config = syncnet_config_from_state_dict(tensors)
    described = json.loads((GOLDEN / "syncnet_tiny_config.json").read_text())
    assert config == syncnet_from_description(described)
    assert [level for level, attends in enumerate(config.visual.attention) if attends] == [4, 5]
    assert [level for level, attends in enumerate(config.audio.attention) if attends] == [3, 4]


@pytest.mark.parametrize("wrapped", [True, False])
def test_torch_files_with_and_without_wrapping(wrapped, tmp_path):
    tensors = load_file(GOLDEN / "syncnet_tiny.safetensors")
    content = {"state_dict": tensors, "global_step": 7, "train_loss_list": [0.5]} if wrapped else tensors
    torch.save(content, tmp_path / "stable_syncnet.pt")
    loaded = load_syncnet(tmp_path / "stable_syncnet.pt")
    assert torch.equal(answers(loaded), answers(load_syncnet(GOLDEN / "syncnet_tiny.safetensors")))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_saved_network_comes_back(small, suffix, tmp_path):
    path = tmp_path / f"net.{suffix}"
    save_syncnet(small, path, global_step=3)
    if suffix == "pt":  # says nothing of strides
        path.with_suffix(".json").write_text(json.dumps(describe_syncnet(small.config)))
    loaded = load_syncnet(path)
    assert loaded.config == small.config
    assert torch.equal(answers(loaded), answers(small))


def test_half_precision_on_disk(small, tmp_path):
    save_syncnet(small, tmp_path / "net.safetensors", dtype=torch.float16)
    assert load_syncnet(tmp_path / "net.safetensors", dtype=None).dtype == torch.float16
    assert (answers(load_syncnet(tmp_path / "net.safetensors")) - answers(small)).abs().max() < 5e-3


def test_embeddings_are_unit_vectors_of_no_negative_numbers(small):
    embedded = answers(small)
    assert embedded.min() >= 0
    assert torch.allclose(embedded.norm(dim=1), torch.ones(4), atol=1e-6)


def test_strides_that_no_released_network_has_must_be_described(small, tmp_path):
    save_file(small.state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(OptionError, match="downsample_factors"):
        load_syncnet(tmp_path / "net.safetensors")
    described = describe_syncnet(small.config)
    described["visual_encoder"]["downsample_factors"] = [[2, 4], 1, 2, 2]  # level 1 has a strided convolution
    (tmp_path / "net.json").write_text(json.dumps(described))
    with pytest.raises(OptionError, match="levels 0, 1, 2, 3"):
        load_syncnet(tmp_path / "net.safetensors")


def test_a_description_of_another_model_is_passed_over(tmp_path):
    tensors = load_file(GOLDEN / "syncnet_tiny.safetensors")
    save_file(tensors, tmp_path / "net.safetensors")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert load_syncnet(tmp_path / "net.safetensors").config.resolution == 256


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["netcnnaud.0.weight", "netfclip.0.weight"], "syncnet_v2"),
        (["face_encoder_blocks.0.weight", "audio_encoder.0.weight"], "Wav2Lip"),
        (["conv_in.weight", "time_embedding.linear_1.weight", "up_blocks.0.x"], "a U-Net"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "a VAE"),
        (["encoder.positional_embedding"], "a Whisper"),
        (["fc.weight"], "fc.weight"),
    ],
)
def test_other_models_are_called_by_their_names(keys, kind, tmp_path):
    save_file({key: torch.zeros(1) for key in keys}, tmp_path / "other.safetensors")
    with pytest.raises(ForeignCheckpointError, match=kind):
        load_syncnet(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("audio_encoder.norm_out.weight"), "missing: audio_encoder.norm_out.weight"),
        (lambda t: t.pop("visual_encoder.down_blocks.0.conv1.weight"), "visual_encoder.down_blocks.0.conv1.weight"),
        (lambda t: t.update({"visual_encoder.extra": torch.zeros(1)}), "unknown: visual_encoder.extra"),
        (lambda t: t.update({"audio_encoder.conv_in.bias": torch.zeros(3)}), "of another shape: audio_encoder.conv_in"),
    ],
)
def test_tensors_that_do_not_fit(change, told, tmp_path):
    tensors = load_file(GOLDEN / "syncnet_tiny.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(IncompleteCheckpointError, match=told):
        load_syncnet(tmp_path / "net.safetensors")


def test_no_file_and_half_a_file(tmp_path):
    with pytest.raises(ModelNotFoundError):
        load_syncnet(tmp_path / "net.safetensors")
    whole = (GOLDEN / "syncnet_tiny.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedCheckpointError):
        load_syncnet(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"resolution": 64}, "visual encoder makes 2x2"),
        ({"num_frames": 5}, "5 frames do not share evenly"),
        ({"num_frames": 48}, "audio encoder makes 1x"),
    ],
)
def test_configurations_that_do_not_fit_together(changes, told):
    with pytest.raises(OptionError, match=told):
        small_config(**changes)


def test_a_description_without_an_encoder():
    with pytest.raises(OptionError, match="audio_encoder"):
        syncnet_from_description({"visual_encoder": {}})
