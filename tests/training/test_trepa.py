"""TREPA: the reference's arithmetic written out, and where ours is another."""

import pytest
import torch
from torch.nn import functional as F

from latentsync.errors import OptionError
from latentsync.videomae import VideoEncoder, VideoEncoderConfig
from training_scripts.losses import TREPALoss

CONFIG = VideoEncoderConfig(
    image_size=28,
    patch_size=14,
    num_frames=4,
    tubelet_size=2,
    width=24,
    depth=2,
    num_heads=3,
    mlp_width=48,
    num_classes=0,
)


def encoder(dtype=torch.float32):
    torch.manual_seed(2)
    network = VideoEncoder(CONFIG)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.to(dtype)


def clips(seed, side=28, reach=1.0):
    return (torch.rand(2, 3, 4, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * reach


def test_reference_is_the_difference_of_features_of_unit_length():
    predicted, target = clips(1, side=40, reach=1.3), clips(2, side=40)
    network = encoder()
    features = []
    for clip in (predicted, target):
        frames = [F.interpolate(clip[:, :, i], size=(28, 28), mode="bicubic", antialias=False) for i in range(4)]
        pixels = ((torch.stack(frames, 2) + 1) / 2).clamp(0, 1)
        feature = network(pixels)
        features.append(feature / feature.norm(dim=1, keepdim=True))
    cosine = (features[0] * features[1]).sum(1)
    expected = ((2 - 2 * cosine) / CONFIG.width).mean()
    assert TREPALoss(network, reference=True)(predicted, target).item() == pytest.approx(expected.item(), rel=1e-4)


def test_ours_normalises_the_pixels_and_so_gives_another_value():
    predicted, target = clips(1), clips(2)
    reference, ours = (TREPALoss(encoder(), reference=kind)(predicted, target).item() for kind in (True, False))
    assert ours > 0
    assert abs(ours - reference) > 0.05 * reference


def test_equal_clips_cost_nothing():
    for kind in (True, False):
        assert TREPALoss(encoder(), reference=kind)(clips(1), clips(1)).item() == 0


def test_order_of_the_frames_matters():
    loss, target = TREPALoss(encoder()), clips(1)
    assert loss(target.flip(2), target).item() > 1e-6


def test_the_references_cut_stops_gradients_and_ours_does_not():
    outside = torch.full((2, 3, 4, 28, 28), 1.2)
    reached = []
    for kind in (True, False):
        predicted = outside.clone().requires_grad_()
        TREPALoss(encoder(), reference=kind)(predicted, clips(1)).backward()
        reached.append(predicted.grad.abs().max().item())
    assert reached[0] == 0
    assert reached[1] > 0


def test_the_reference_stays_in_half_precision_and_ours_leaves_it():
    predicted, target = clips(1), clips(2)
    half = TREPALoss(encoder(torch.float16), reference=True)(predicted.half(), target.half())
    assert half.dtype == torch.float16
    ours = TREPALoss(encoder(torch.float16))(predicted.half(), target.half())
    assert ours.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert TREPALoss(encoder())(predicted, target).dtype == torch.float32


def test_recomputing_blocks_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        predicted = clips(1).requires_grad_()
        TREPALoss(encoder(), checkpointing=checkpointing)(predicted, clips(2)).backward()
        gradients.append(predicted.grad)
    assert torch.equal(*gradients)


def test_the_encoder_is_frozen_and_the_target_gets_no_gradient():
    loss, target = TREPALoss(encoder()), clips(2).requires_grad_()
    loss(clips(1).requires_grad_(), target).backward()
    assert target.grad is None
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_clips_of_another_length_are_refused():
    with pytest.raises(OptionError, match="expected"):
        TREPALoss(encoder())(clips(1)[:, :, :3], clips(2)[:, :, :3])
