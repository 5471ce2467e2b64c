"""VideoMAE-v2's encoder: the released layout, its numbers against a forward written out, files of other kinds."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from latentsync.errors import (
    DamagedCheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
)
from latentsync.videomae import (
    MEAN,
    STD,
    VideoEncoder,
    VideoEncoderConfig,
    load_videomae,
    released_tensors,
    save_videomae,
)

SMALL = VideoEncoderConfig(
    image_size=28,
    patch_size=7,
    num_frames=4,
    tubelet_size=2,
    width=24,
    depth=2,
    num_heads=3,
    mlp_width=40,
    num_classes=5,
)
HEADS = {"image_size": "28", "num_frames": "4", "num_heads": "3"}


@pytest.fixture(scope="module")
def tensors():
    """A file's worth of random tensors under the released names, drawn without our classes."""
    generator = torch.Generator().manual_seed(3)
    width, mlp = SMALL.width, SMALL.mlp_width
    shapes = {"patch_embed.proj.weight": (width, 3, 2, 7, 7), "patch_embed.proj.bias": (width,)}
    for index in range(SMALL.depth):
        block = {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.q_bias": (width,),
            "attn.v_bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (mlp, width),
            "mlp.fc1.bias": (mlp,),
            "mlp.fc2.weight": (width, mlp),
            "mlp.fc2.bias": (width,),
        }
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    shapes |= {"fc_norm.weight": (width,), "fc_norm.bias": (width,), "head.weight": (5, width), "head.bias": (5,)}
    return {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def written(content, path):
    torch.save(content, path)
    return path


def written_with_sizes(tensors, path):
    save_file(tensors, path, metadata=HEADS)
    return path


def forward_written_out(tensors, pixels):
    """(B, 3, F, S, S) -> (B, D): VideoMAE-v2's forward in plain torch."""
    x = F.conv3d(pixels, tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=(2, 7, 7))
    x = x.flatten(2).transpose(1, 2)
    _, num_tokens, width = x.shape
    table = torch.zeros(num_tokens, width)
    for token in range(num_tokens):
        for column in range(width):
            angle = token / 10000 ** (2 * (column // 2) / width)
            table[token, column] = math.sin(angle) if column % 2 == 0 else math.cos(angle)
    x = x + table
    for index in range(SMALL.depth):
        t = {k.removeprefix(f"blocks.{index}."): v for k, v in tensors.items() if k.startswith(f"blocks.{index}.")}
        normed = F.layer_norm(x, (width,), t["norm1.weight"], t["norm1.bias"], 1e-6)
        bias = torch.cat([t["attn.q_bias"], torch.zeros(width), t["attn.v_bias"]])
        q, k, v = F.linear(normed, t["attn.qkv.weight"], bias).chunk(3, -1)
        parts = []
        for head in range(SMALL.num_heads):
            part = slice(head * 8, head * 8 + 8)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(8)
            parts.append(scores.softmax(-1) @ v[..., part])
        x = x + F.linear(torch.cat(parts, -1), t["attn.proj.weight"], t["attn.proj.bias"])
        normed = F.layer_norm(x, (width,), t["norm2.weight"], t["norm2.bias"], 1e-6)
        hidden = F.gelu(F.linear(normed, t["mlp.fc1.weight"], t["mlp.fc1.bias"]))
        x = x + F.linear(hidden, t["mlp.fc2.weight"], t["mlp.fc2.bias"])
    return F.layer_norm(x.mean(1), (width,), tensors["fc_norm.weight"], tensors["fc_norm.bias"], 1e-6)


def clips(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_giant_has_the_released_tensors():
    with torch.device("meta"):
        giant = VideoEncoder(VideoEncoderConfig())
    released = released_tensors(giant)
    assert len(released) == 526
    assert sum(tensor.numel() for tensor in released.values()) == 1_011_855_918
    assert released["patch_embed.proj.weight"].shape == (1408, 3, 2, 14, 14)
    assert released["blocks.39.attn.qkv.weight"].shape == (3 * 1408, 1408)
    assert released["blocks.0.mlp.fc1.weight"].shape == (6144, 1408)
    assert released["head.weight"].shape == (174, 1408)
    assert giant.backbone.embeddings.num_patches == 2048


def test_features_equal_the_forward_written_out(tensors, tmp_path):
    encoder = load_videomae(written_with_sizes(tensors, tmp_path / "v.safetensors"))
    pixels = clips(2, 3, 4, 28, 28)
    error = (encoder(pixels) - forward_written_out(tensors, pixels)).abs()
    print(f"max {error.max():.2e}, mean {error.mean():.2e}")
    assert error.max() < 1e-5


def test_frames_are_normalised_as_videomae_was_trained(tensors, tmp_path):
    encoder = load_videomae(written_with_sizes(tensors, tmp_path / "v.safetensors"))
    frames = clips(1, 3, 4, 28, 28)
    mean, std = (torch.tensor(values)[None, :, None, None, None] for values in (MEAN, STD))
    expected = forward_written_out(tensors, ((frames + 1) / 2 - mean) / std)
    assert torch.allclose(encoder.features(frames), expected, atol=1e-5)


def test_values_outside_the_range_count_as_the_limit_and_keep_gradients(tensors, tmp_path):
    encoder = load_videomae(written_with_sizes(tensors, tmp_path / "v.safetensors"))
    frames = torch.full((1, 3, 4, 28, 28), 1.4, requires_grad=True)
    features = encoder.features(frames)
    assert torch.allclose(features, encoder.features(torch.ones(1, 3, 4, 28, 28)), atol=1e-5)
    features[0, 0].backward()
    assert frames.grad.abs().max() > 0


@pytest.mark.parametrize("wrapping", ["model", "module"])
def test_wrapped_files_are_opened(wrapping, tmp_path):
    wide = released_tensors(VideoEncoder(VideoEncoderConfig(224, 14, 16, 2, 384, 1, 6, 16, 3)))
    encoder = load_videomae(written({wrapping: wide, "epoch": 3}, tmp_path / "v.pth"))
    assert encoder.config.width == 384
    assert encoder.config.num_heads == 6, "the number of heads goes with the width of the released sizes"
    assert torch.equal(released_tensors(encoder)["blocks.0.attn.qkv.weight"], wide["blocks.0.attn.qkv.weight"])


def test_writing_and_reading_again_changes_nothing(tensors, tmp_path):
    encoder = load_videomae(written_with_sizes(tensors, tmp_path / "v.safetensors"))
    save_videomae(encoder, tmp_path / "again.safetensors")
    again = load_videomae(tmp_path / "again.safetensors")
    assert again.config == SMALL
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in released_tensors(again).items())
    pixels = clips(1, 3, 4, 28, 28)
    assert torch.equal(again(pixels), encoder(pixels))


def test_a_loaded_encoder_is_frozen_and_moves_whole(tensors, tmp_path):
    encoder = load_videomae(written_with_sizes(tensors, tmp_path / "v.safetensors"), dtype=torch.float64)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder(clips(1, 3, 4, 28, 28).double()).dtype == torch.float64
    assert encoder.half().backbone.embeddings.position_embeddings.dtype == torch.float16


def test_checkpointed_blocks_give_the_same_gradients(tensors, tmp_path):
    gradients = []
    for checkpointing in (False, True):
        encoder = load_videomae(written_with_sizes(tensors, tmp_path / "v.safetensors"))
        if checkpointing:
            encoder.checkpoint_blocks()
        frames = clips(1, 3, 4, 28, 28).requires_grad_()
        encoder.features(frames).square().sum().backward()
        gradients.append(frames.grad)
    assert torch.equal(*gradients)


def test_clips_of_another_length_are_refused(tensors, tmp_path):
    encoder = load_videomae(written_with_sizes(tensors, tmp_path / "v.safetensors"))
    with pytest.raises(OptionError, match="expected"):
        encoder.features(clips(1, 3, 6, 28, 28))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("blocks.1.mlp.fc2.bias"), "missing: blocks.1.mlp.fc2.bias"),
        (lambda t: t.update({"blocks.1.gamma_1": torch.ones(24)}), "unknown: blocks.1.gamma_1"),
        (lambda t: t.update({"fc_norm.bias": torch.ones(23)}), "another shape: fc_norm.bias"),
    ],
)
def test_incomplete_files_are_refused_by_name(change, told, tensors, tmp_path):
    changed = dict(tensors)
    change(changed)
    with pytest.raises(IncompleteCheckpointError, match=told):
        load_videomae(written_with_sizes(changed, tmp_path / "v.safetensors"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"videomae.embeddings.patch_embeddings.projection.weight": torch.ones(1)}, "transformers' layout"),
        ({"encoder.blocks.0.norm1.weight": torch.ones(1)}, "pre-training"),
        ({"conv_in.weight": torch.ones(1)}, "conv_in.weight"),
        ({"epoch": 3}, "none"),
    ],
)
def test_files_of_other_models_are_told(content, told, tmp_path):
    with pytest.raises(ForeignCheckpointError, match=told):
        load_videomae(written(content, tmp_path / "v.pth"))


def test_an_unknown_width_without_heads_is_refused(tensors, tmp_path):
    with pytest.raises(ForeignCheckpointError, match="number of heads"):
        load_videomae(written(tensors, tmp_path / "v.pth"))


def test_no_file_and_a_damaged_file_are_told(tmp_path):
    with pytest.raises(ModelNotFoundError):
        load_videomae(tmp_path / "none.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(DamagedCheckpointError):
        load_videomae(tmp_path / "cut.pth")
