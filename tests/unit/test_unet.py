"""The U-Net's norms, motion placement and trainability on small nets."""

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

from latentsync.errors import OptionError
from latentsync.model import unet as attention
from latentsync.model.unet import (
    ClipGroupNorm,
    Float32Attention,
    FrameGroupNorm,
    LatentSyncUNet,
    motion_block_names,
    motion_placement,
    rows_at_once,
)


def small_unet(**options) -> LatentSyncUNet:
    torch.manual_seed(0)
    arguments = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 16, "num_attention_heads": 2}
    return LatentSyncUNet(**arguments | options)


def inputs(clips: int = 2, frames: int = 3, side: int = 8, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(clips, 13, frames, side, side, generator=generator)
    return sample, torch.arange(clips) * 400 + 5, torch.randn(clips * frames, 50, 384, generator=generator)


def test_clip_norm_pools_all_frames():
    norm = ClipGroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    norm.num_frames = 3
    x = torch.randn(2 * 3, 8, 5, 5)
    clips = x.view(2, 3, 8, 5, 5).transpose(1, 2).contiguous()
    expected = F.group_norm(clips, 4, norm.weight, norm.bias, norm.eps).transpose(1, 2).reshape(6, 8, 5, 5)
    assert torch.allclose(norm(x), expected, atol=1e-6)
    assert not torch.allclose(norm(x), F.group_norm(x, 4, norm.weight, norm.bias, norm.eps), atol=1e-2)


def test_frame_norm_keeps_frames_apart():
    norm = FrameGroupNorm(4, 8)
    x = torch.randn(2, 8, 3, 5, 5)
    frame = F.group_norm(x[:, :, 1], 4, norm.weight, norm.bias, norm.eps)
    assert torch.allclose(norm(x)[:, :, 1], frame, atol=1e-6)


@pytest.mark.parametrize(
    ("placement", "blocks"),
    [
        ("none", ()),
        ("all", ("down_blocks.0", "down_blocks.1", "up_blocks.0", "up_blocks.1")),
        ("decoder", ("up_blocks.0", "up_blocks.1")),
        (["up_blocks.1", "down_blocks.0"], ("down_blocks.0", "up_blocks.1")),
    ],
)
def test_motion_is_placed_by_block(placement, blocks):
    unet = small_unet(motion_blocks=placement)
    found = {".".join(key.split(".")[:2]) for key in unet.state_dict() if ".motion_modules." in key}
    assert found == set(blocks) == set(unet.motion_block_names)
    assert motion_block_names(motion_placement(blocks, 2), 2) == blocks
    assert unet(*inputs()).sample.shape == (2, 4, 3, 8, 8)


def test_wrong_motion_is_named():
    with pytest.raises(OptionError, match="encoder"):
        small_unet(motion_blocks="encoder")
    with pytest.raises(OptionError, match="mid_block"):
        small_unet(motion_blocks=["mid_block"])
    with pytest.raises(OptionError, match="attention_levels"):
        small_unet(attention_levels=[True])


@torch.no_grad()
def test_frames_are_coupled_even_without_motion():
    """The norms tie the frames of a chunk together; chunks, and clips of a batch, do not touch each other."""
    unet = small_unet(motion_blocks="none").eval()
    sample, timestep, tokens = inputs()
    whole = unet(sample, timestep, tokens).sample
    alone = unet(sample[:, :, :1], timestep, tokens[::3]).sample
    assert (whole[:, :, :1] - alone).abs().max() > 1e-3
    single = unet(sample[1:], timestep[1:], tokens[3:]).sample
    assert (whole[1:] - single).abs().max() < 1e-5


@torch.no_grad()
def test_a_new_motion_module_changes_nothing():
    unet = small_unet(motion_blocks="all").eval()
    still = small_unet(motion_blocks="none").eval()
    still.load_state_dict({key: value for key, value in unet.state_dict().items() if "motion_modules" not in key})
    assert torch.equal(unet(*inputs()).sample, still(*inputs()).sample)


def test_gradients_reach_every_parameter():
    unet = small_unet(motion_blocks="all")
    for name, parameter in unet.named_parameters():
        if "motion_modules" in name and ".proj_out." in name:  # zero at first, and would stop the gradient
            torch.nn.init.normal_(parameter, std=0.02)
    unet(*inputs()).sample.square().mean().backward()
    silent = [name for name, parameter in unet.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize(("channels", "layers"), [((32,), 1), ((32, 64, 96), 1), ((32, 32, 32, 32), 2)])
def test_other_sizes(channels, layers):
    unet = small_unet(block_out_channels=channels, layers_per_block=layers)
    assert unet(*inputs(clips=1)).sample.shape == (1, 4, 3, 8, 8)


@torch.no_grad()
def test_sides_that_do_not_divide_by_the_levels():
    unet = small_unet(block_out_channels=(32, 32, 32)).eval()
    assert unet(*inputs(clips=1, side=10)).sample.shape == (1, 4, 3, 10, 10)


@torch.no_grad()
def test_copies_and_config_rebuild_the_same_net():
    unet = small_unet(motion_blocks="decoder", attention_levels=[False, True]).eval()
    expected = unet(*inputs()).sample
    rebuilt = LatentSyncUNet.from_config(unet.config).eval()
    rebuilt.load_state_dict(unet.state_dict())
    for other in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet)), rebuilt):
        assert torch.equal(other(*inputs()).sample, expected)
        other(*inputs(frames=2))  # must not disturb the norms of the original
    assert torch.equal(unet(*inputs()).sample, expected)
    assert unet.motion == "decoder"


def test_more_frames_than_positions_are_refused():
    unet = small_unet(motion_max_seq_length=4)
    with pytest.raises(OptionError, match="5 frames"):
        unet(*inputs(clips=1, frames=5))
    assert small_unet(motion_blocks="none", motion_max_seq_length=4)(*inputs(clips=1, frames=5)).sample.shape[2] == 5


def test_float32_attention_is_the_same_attention():
    unet = small_unet(motion_blocks="all").eval()
    for name, parameter in unet.named_parameters():
        if "motion_modules" in name and ".proj_out." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    expected = unet(*inputs()).sample
    unet.set_attn_processor(Float32Attention())
    assert (unet(*inputs()).sample - expected).abs().max() < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        rounded = unet(*inputs()).sample
    assert (rounded.float() - expected).abs().mean() < 0.02
    rounded.float().square().mean().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())


def test_attention_in_slices_is_the_same_attention(monkeypatch):
    """Where a device bears no more than so many rows and heads, or scores, no call has more, and the result is one."""
    unet = small_unet().eval()
    for name, parameter in unet.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    pairs, scores, attend = [], [], F.scaled_dot_product_attention

    def watched(query, key, value, **settings):
        pairs.append(query.shape[0] * query.shape[1])
        scores.append(pairs[-1] * query.shape[2] * key.shape[2])
        return attend(query, key, value, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    with torch.no_grad():
        whole, calls = unet(*inputs()).sample, len(pairs)
        assert max(pairs) == 2 * 8 * 8 * 2  # of motion modules
        assert max(scores) == 6 * 2 * 64**2  # of the first level
        for most, limit, sizes in ((attention.MOST_PAIRS, 31, pairs), (attention.MOST_SCORES, 2**14, scores)):
            monkeypatch.setitem(most, "cpu", limit)
            pairs.clear()
            scores.clear()
            sliced = unet(*inputs()).sample
            assert max(sizes) <= limit
            assert len(sizes) > calls
            torch.testing.assert_close(sliced, whole, rtol=1e-5, atol=1e-6)
            monkeypatch.delitem(most, "cpu")


def test_a_guided_call_at_512_px_is_sliced_where_kernels_end():
    """2 x 64 x 64 rows of 16 frames with 8 heads in motion modules; 32 frames of 64 x 64 latents in spatial ones."""
    cuda, mps, cpu = (torch.device(kind) for kind in ("cuda", "mps", "cpu"))
    assert rows_at_once(cuda, 8, 16, 16) == 8191
    assert rows_at_once(cuda, 8, 4096, 4096) > 32
    assert rows_at_once(mps, 8, 4096, 4096) == 8
    assert rows_at_once(mps, 8, 16, 16) > 2 * 64 * 64
    assert rows_at_once(cpu, 8, 4096, 4096) > 10**9
