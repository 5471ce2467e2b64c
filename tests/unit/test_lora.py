"""LoRA adapters: merging equals peft, strength 0 is the base to the bit, files that do not fit are told."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from latentsync.errors import (
    CheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
)
from latentsync.files import sha256_of
from latentsync.model.loading import (
    BUNDLED,
    CONFIG_FIELD,
    ModelFiles,
    bundled_model,
    load_model,
    merge_lora,
    read_lora,
    save_lora,
)
from latentsync.model.unet import LatentSyncUNet
from latentsync.options import LipSyncOptions
from latentsync.run.report import run_facts

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def small_unet():
    torch.manual_seed(1)
    unet = LatentSyncUNet(
        block_out_channels=(32, 32),
        layers_per_block=1,
        norm_num_groups=8,
        num_attention_heads=2,
        cross_attention_dim=16,
    )
    for module in unet.modules():  # new motion modules are the identity, which nothing in them could change
        if hasattr(module, "proj_out") and isinstance(module.proj_out, torch.nn.Linear):
            torch.nn.init.normal_(module.proj_out.weight, std=0.1)
    return unet.eval()


def noise_of(unet):
    generator = torch.Generator().manual_seed(2)
    sample = torch.randn(1, 13, 3, 8, 8, generator=generator)
    tokens = torch.randn(3, 5, 16, generator=generator)
    with torch.inference_mode():
        return unet(sample, 300, tokens).sample


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A folder as peft saves it, with random weights on all attention layers."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(3)
    model = get_peft_model(small_unet(), LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def in_one_file(adapter, tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "speaker.safetensors"
    config = json.loads((adapter / "adapter_config.json").read_text())
    save_lora(path, load_file(adapter / "adapter_model.safetensors"), config, base_sha256="abc")
    return path


def test_merging_equals_peft(adapter):
    expected = noise_of(PeftModel.from_pretrained(small_unet(), adapter).eval())
    unet = small_unet()
    before = noise_of(unet)
    merge_lora(unet, read_lora(adapter / "adapter_model.safetensors"))
    assert (expected - before).abs().max() > 0.05
    assert (noise_of(unet) - expected).abs().max() < 1e-5


def test_the_file_with_its_metadata_needs_nothing_beside_it(adapter, in_one_file):
    one, folder = read_lora(in_one_file), read_lora(adapter / "adapter_model.safetensors")
    assert one.layers.keys() == folder.layers.keys()
    assert one.scales == folder.scales == dict.fromkeys(folder.layers, 2.0)
    assert (one.base_sha256, folder.base_sha256) == ("abc", None)


def test_strength_zero_is_the_base_to_the_bit_and_half_is_half(in_one_file):
    lora = read_lora(in_one_file)
    layer = next(iter(lora.layers))
    weights = {}
    for strength in (0.0, 0.5, 1.0):
        unet = small_unet()
        merge_lora(unet, lora, strength)
        weights[strength] = unet.state_dict()
    base = small_unet().state_dict()
    assert all(torch.equal(tensor, weights[0.0][key]) for key, tensor in base.items())
    halfway = (base[f"{layer}.weight"] + weights[1.0][f"{layer}.weight"]) / 2
    assert torch.allclose(weights[0.5][f"{layer}.weight"], halfway, atol=1e-6)
    assert not torch.equal(base[f"{layer}.weight"], weights[1.0][f"{layer}.weight"])


def test_half_precision_stays_half(in_one_file):
    unet = small_unet().half()
    merge_lora(unet, read_lora(in_one_file), 1.0)
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.float16}


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_other_strengths_are_refused(strength, in_one_file):
    with pytest.raises(OptionError, match="strength"):
        merge_lora(small_unet(), read_lora(in_one_file), strength)


def test_rank_stabilised_scales_are_pefts(adapter, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text()) | {"use_rslora": True}
    save_lora(tmp_path / "a.safetensors", load_file(adapter / "adapter_model.safetensors"), config)
    assert set(read_lora(tmp_path / "a.safetensors").scales.values()) == {6 / 3**0.5}


def test_an_adapter_of_another_unet_is_refused_and_changes_nothing(in_one_file):
    unet = LatentSyncUNet(
        block_out_channels=(32, 64),
        layers_per_block=1,
        norm_num_groups=8,
        num_attention_heads=2,
        cross_attention_dim=16,
    )
    before = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    with pytest.raises(IncompleteCheckpointError, match="instead of"):
        merge_lora(unet, read_lora(in_one_file))
    assert all(torch.equal(tensor, before[key]) for key, tensor in unet.state_dict().items())


def test_unknown_layers_are_named(in_one_file, tmp_path):
    tensors, config = load_file(in_one_file), {"r": 3, "lora_alpha": 6}
    renamed = {key.replace("down_blocks.0", "down_blocks.7"): tensor for key, tensor in tensors.items()}
    save_lora(tmp_path / "a.safetensors", renamed, config)
    with pytest.raises(IncompleteCheckpointError, match=r"down_blocks\.7"):
        merge_lora(small_unet(), read_lora(tmp_path / "a.safetensors"))


def test_half_an_adapter_is_refused(in_one_file, tmp_path):
    tensors = load_file(in_one_file)
    lost = next(key for key in tensors if "lora_B" in key)
    save_lora(tmp_path / "a.safetensors", {k: v for k, v in tensors.items() if k != lost}, {"r": 3, "lora_alpha": 6})
    with pytest.raises(IncompleteCheckpointError, match="expected lora_A"):
        read_lora(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "LOHA"}, "LOHA"),
    ],
)
def test_other_kinds_of_adapter_are_refused(change, told, in_one_file, tmp_path):
    save_lora(tmp_path / "a.safetensors", load_file(in_one_file), {"r": 3, "lora_alpha": 6} | change)
    with pytest.raises(ForeignCheckpointError, match=told):
        read_lora(tmp_path / "a.safetensors")


def test_other_files_are_told(in_one_file, tmp_path):
    with pytest.raises(ForeignCheckpointError, match="peft's layout"):
        read_lora(BUNDLED / "unet.safetensors")
    with pytest.raises(ModelNotFoundError):
        read_lora(tmp_path / "none.safetensors")
    save_file(load_file(in_one_file), tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json"):
        read_lora(tmp_path / "bare.safetensors")
    save_file(load_file(in_one_file), tmp_path / "odd.safetensors", metadata={CONFIG_FIELD: "{"})
    with pytest.raises(CheckpointError, match="JSON"):
        read_lora(tmp_path / "odd.safetensors")


def bundled_adapter(path, **facts):
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    width = dict(load_model(bundled_model()).unet.named_modules())[layer].weight.shape[0]
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, width), f"{layer}.lora_B.weight": torch.ones(width, 2)}
    save_lora(path, tensors, {"r": 2, "lora_alpha": 2}, **facts)
    return layer


def test_models_are_loaded_with_an_adapter(tmp_path):
    files = bundled_model()
    assert isinstance(files, ModelFiles)
    layer = bundled_adapter(tmp_path / "a.safetensors", base_sha256="of another file")
    base = load_model(files)
    model = load_model(files, lora=tmp_path / "a.safetensors", lora_strength=0.25)
    change = model.unet.get_submodule(layer).weight - base.unet.get_submodule(layer).weight
    assert torch.allclose(change, torch.full_like(change, 0.5), atol=1e-5)
    assert run_facts(base, LipSyncOptions(), None)["model"]["lora"] is None
    told = run_facts(model, LipSyncOptions(), None)["model"]["lora"]
    assert told == {"name": "a.safetensors", "strength": 0.25, "sha256": sha256_of(tmp_path / "a.safetensors")}
    assert "another U-Net" in model.warnings[-1]
    assert base.warnings == ()
