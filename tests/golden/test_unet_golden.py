"""The U-Net against outputs of the reference's, in float32 with random weights. Tolerance: 1e-4 absolute."""

import json

import pytest
import torch
from safetensors.torch import load_file

from latentsync.model.checkpoints import build_unet, from_reference_config, unet_config_from_state_dict

TOLERANCE = 1e-4


@pytest.fixture(params=["motion", "nomotion"])
def case(request, golden):
    name = {"motion": "unet_tiny", "nomotion": "unet_tiny_nomotion"}[request.param]
    arguments = json.loads((golden / f"{name}_config.json").read_text())
    state_dict = {key: value.float() for key, value in load_file(golden / "unet_tiny.safetensors").items()}
    if request.param == "nomotion":
        state_dict = {key: value for key, value in state_dict.items() if "motion_modules" not in key}
    config = unet_config_from_state_dict(state_dict, **from_reference_config(arguments))
    assert config["block_out_channels"] == tuple(arguments["block_out_channels"])
    assert config["layers_per_block"] == arguments["layers_per_block"]
    assert config["cross_attention_dim"] == arguments["cross_attention_dim"]
    assert config["motion_blocks"] == ("all" if request.param == "motion" else "none")
    return build_unet(config, state_dict).eval(), load_file(golden / f"{name}_io.safetensors")


@torch.no_grad()
def test_outputs(case, largest_error):
    unet, io = case
    sample, timestep, audio = io["sample"], io["timestep"], io["audio"]
    clips, _, frames = sample.shape[:3]
    first = audio.unflatten(0, (clips, frames))[:, 0]
    outputs = {
        "output": unet(sample, timestep, audio).sample,
        "output_1frame": unet(sample[:, :, :1], timestep, first).sample,
        "output_t_scalar_10": unet(sample, torch.tensor(10), audio).sample,
        "output_zero_audio": unet(sample, timestep, torch.zeros_like(audio)).sample,
    }
    for name, got in outputs.items():
        assert largest_error(name, got, io[name]) <= TOLERANCE


@torch.no_grad()
def test_tokens_with_a_frame_axis_are_the_same(case, largest_error):
    unet, io = case
    clips, _, frames = io["sample"].shape[:3]
    got = unet(io["sample"], io["timestep"], io["audio"].unflatten(0, (clips, frames))).sample
    assert largest_error("output, 4-D tokens", got, io["output"]) <= TOLERANCE


@torch.no_grad()
def test_every_block_has_the_references_statistics(case, largest_error):
    """Mean and deviation behind each block, so that a fault is found where it starts."""
    unet, io = case
    outputs = {}
    names = [key.removeprefix("stat.") for key in io if key.startswith("stat.")]
    for name in names:
        unet.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: outputs.__setitem__(name, output[0] if type(output) is tuple else output)
        )
    unet(io["sample"], io["timestep"], io["audio"])
    clips, _, frames = io["sample"].shape[:3]
    for name in names:
        got, expected = outputs[name], io[f"stat.{name}"]
        if name == "time_embedding":
            got = got.unflatten(0, (clips, -1))[:, 0]
        else:
            by_frame = got.unflatten(0, (clips, frames)).flatten(3)
            got = torch.stack((by_frame.mean(-1).mean(-1), by_frame.std(-1, correction=0).mean(-1)))
            if (got[1] - expected[1]).abs().max() > TOLERANCE:  # the reference's std may be the unbiased one
                got[1] = by_frame.std(-1).mean(-1)
        assert largest_error(name, got, expected) <= TOLERANCE
