"""The U-Net that training starts from: what learns, what comes from a file, and recomputing that changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from latentsync.errors import CheckpointError, OptionError
from latentsync.model.checkpoints import load_unet, save_unet
from latentsync.model.unet import LatentSyncUNet
from latentsync.model.vae import LatentSpace
from training_scripts.config import CONFIGS, ModelConfig, UNetTrainingConfig, load_settings
from training_scripts.unet_model import build_unet, checkpoint_blocks, choose_trainable

SMALL = {"block_out_channels": [32, 32], "layers_per_block": 1, "norm_num_groups": 8, "num_attention_heads": 2}
SMALL |= {"cross_attention_dim": 16}


# Tensors and parameters that learn, of the reference's full-size models.
@pytest.mark.parametrize(
    ("stage", "tensors", "millions"),
    [
        ("stage1", 686, 850.0),
        ("stage1_512", 686, 850.0),
        ("stage2", 936, 674.8),
        ("stage2_512", 936, 674.8),
        ("stage2_efficient", 392, 284.7),
    ],
)
def test_what_learns_in_the_stages(stage, tensors, millions):
    config = load_settings(UNetTrainingConfig, CONFIGS / f"{stage}.yaml", ["model.initial=null"]).model
    with torch.device("meta"):
        unet, _ = build_unet(config)
    learned = choose_trainable(unet, config.trainable)
    assert len(learned) == tensors
    assert round(sum(parameter.numel() for parameter in learned) / 1e6, 1) == millions
    assert len(learned) == sum(parameter.requires_grad for parameter in unet.parameters())


def test_a_part_that_no_tensor_has_is_refused():
    unet, _ = build_unet(ModelConfig(motion="off", **SMALL))
    with pytest.raises(OptionError, match="motion_modules"):
        choose_trainable(unet, ["motion_modules."])


def test_a_new_unet_starts_as_the_references():
    unet, meaning = build_unet(ModelConfig(motion="all", **SMALL))
    assert meaning == "epsilon"
    for layer in (unet.conv_in, unet.conv_out):
        assert layer.weight.abs().max() == layer.bias.abs().max() == 0
    assert unet.training


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder, saved = tmp_path_factory.mktemp("unets"), {}
    for motion in ("none", "all"):
        torch.manual_seed(7)
        unet = LatentSyncUNet(motion_blocks=motion, **SMALL)
        for parameter in unet.parameters():
            nn.init.normal_(parameter, std=0.1)
        saved[motion] = folder / f"{motion}.safetensors"
        save_unet(unet, saved[motion], prediction_type="v_prediction")
    return saved


def test_stage_2_adds_motion_that_does_nothing_yet(files):
    plain, _ = load_unet(files["none"])
    unet, meaning = build_unet(ModelConfig(initial=files["none"], motion="all"))
    assert (unet.motion, meaning) == ("all", "v_prediction")
    sample, tokens = torch.randn(1, 13, 3, 8, 8), torch.randn(3, 4, 16)
    with torch.no_grad():
        made, expected = unet(sample, 5, tokens).sample, plain(sample, 5, tokens).sample
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)  # the loaded one has another number of threads


@pytest.mark.parametrize(("wanted", "blocks"), [("off", 0), ("decoder", 2), ("all", 4)])
def test_of_a_file_with_motion_only_what_is_wanted_stays(files, wanted, blocks):
    whole = load_unet(files["all"])[0].state_dict()
    unet, _ = build_unet(ModelConfig(initial=files["all"], motion=wanted))
    assert len(unet.motion_block_names) == blocks
    assert all(torch.equal(value, whole[key]) for key, value in unet.state_dict().items())


def test_latents_of_another_vae_are_taken_where_they_are_asked_for(files):
    others = LatentSpace(channels=16, ratio=16)
    with pytest.raises(CheckpointError, match="16 channels at 1/16"):
        build_unet(ModelConfig(initial=files["all"], motion="all"), others)
    whole = load_unet(files["all"])[0].state_dict()
    unet, meaning = build_unet(ModelConfig(initial=files["all"], motion="decoder", new_latents=True), others)
    assert (unet.config.in_channels, unet.config.out_channels, meaning) == (49, 16, "v_prediction")
    for key, tensor in unet.state_dict().items():
        begun = key.startswith(("conv_in.", "conv_out."))
        assert tensor.abs().max() == 0 if begun else torch.equal(tensor, whole[key])


def test_recomputing_changes_neither_loss_nor_gradients(files):
    torch.manual_seed(2)
    sample, tokens = torch.randn(2, 13, 3, 8, 8), torch.randn(6, 4, 16)
    results = []
    for recomputes in (False, True):
        unet, _ = build_unet(ModelConfig(initial=files["all"], motion="all"))
        runs = count_calls(unet)
        if recomputes:
            checkpoint_blocks(unet)
        loss = unet(sample, torch.tensor([5, 800]), tokens).sample.square().mean()
        before = dict(runs)
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in unet.named_parameters()}))
        again = {name for name in runs if runs[name] > before[name]}
        assert again == (set(runs) if recomputes else set())
    assert {"mid_block.attentions.0", "mid_block.resnets.1", "up_blocks.0.motion_modules.0"} <= set(runs)
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(results[0][1][name], grad) for name, grad in results[1][1].items())


def count_calls(unet) -> dict[str, int]:
    """How often each block that is recomputed has computed; filled as the U-Net runs."""
    counts = {}

    def counting(name, inner):
        counts[name] = 0

        def forward(*args, **kwargs):
            counts[name] += 1
            return inner(*args, **kwargs)

        return forward

    for name, module in unet.named_modules():
        if name.split(".")[-2:-1] and name.split(".")[-2] in ("resnets", "attentions", "motion_modules"):
            module.forward = counting(name, module.forward)
    return counts


def test_without_gradients_nothing_is_recomputed(files):
    unet, _ = build_unet(ModelConfig(initial=files["all"], motion="all"))
    sample, tokens = torch.randn(1, 13, 2, 8, 8), torch.randn(2, 4, 16)
    with torch.no_grad():
        plain = unet(sample, 5, tokens).sample
        checkpoint_blocks(unet)
        assert torch.equal(unet(sample, 5, tokens).sample, plain)
