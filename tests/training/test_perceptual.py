"""Perceptual losses: LPIPS equals the package's on equal weights and never invents any; `vae` measures what shows."""

import sys
import warnings

import pytest
import torch
from torchvision.models import vgg16

from latentsync.errors import ForeignCheckpointError, IncompleteCheckpointError, ModelNotFoundError, OptionError
from latentsync.metrics.picture_networks import VGG_FILE
from latentsync.model.loading import BUNDLED
from latentsync.model.vae import load_vae, vae_features
from training_scripts.losses import LPIPSLoss, VAEPerceptualLoss


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    """torchvision's file of VGG16 (its convolutions), with random weights of a trained network's size."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in vgg16(weights=None).state_dict().items()}
    tensors = {
        key: torch.randn(shape, generator=generator) / (shape[1:].numel() ** 0.5 if len(shape) > 1 else 10)
        for key, shape in shapes.items()
        if key.startswith("features.")
    }
    path = tmp_path_factory.mktemp("vgg") / "vgg.pth"
    torch.save(tensors, path)
    return path


@pytest.fixture(scope="module")
def loss(vgg):
    return LPIPSLoss(vgg)


def pictures(seed, count=2, side=48):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def package_network(vgg, tmp_path, monkeypatch):
    """The package's own way: it asks torchvision for VGG16, which takes the file from torch's cache."""
    from lpips import LPIPS

    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    whole = {**torch.load(vgg, weights_only=True)}
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in vgg16(weights=None).state_dict().items()}
    whole |= {key: torch.zeros(1).expand(shape) for key, shape in shapes.items() if key not in whole}
    torch.save(whole, folder / VGG_FILE)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LPIPS(net="vgg", verbose=False)


def test_lpips_equals_the_package(vgg, loss, tmp_path, monkeypatch):
    package = package_network(vgg, tmp_path, monkeypatch)
    predicted, target = pictures(1), pictures(2)
    expected = package(predicted, target).mean()
    assert expected > 0.05
    assert loss(predicted, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_lpips_is_frozen_and_in_float32_under_autocast(loss):
    predicted, target = pictures(1).requires_grad_(), pictures(2)
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    outside = loss(predicted, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(predicted, target)
    assert inside.dtype == torch.float32
    assert inside.item() == outside.item()
    inside.backward()
    assert predicted.grad.abs().max() > 0
    assert loss(target, target).item() == 0


def test_lpips_without_vgg_is_refused_and_nothing_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download was tried"))
    with pytest.raises(ModelNotFoundError, match=VGG_FILE):
        LPIPSLoss()
    with pytest.raises(ModelNotFoundError, match="elsewhere"):
        LPIPSLoss(tmp_path / "elsewhere.pth")


def test_lpips_refuses_other_files(vgg, tmp_path):
    torch.save({"conv_in.weight": torch.ones(1)}, tmp_path / "unet.pth")
    with pytest.raises(ForeignCheckpointError, match=r"features\.0\.weight"):
        LPIPSLoss(tmp_path / "unet.pth")
    with pytest.raises(IncompleteCheckpointError, match="lin0"):
        LPIPSLoss(vgg, lin=tmp_path / "unet.pth")
    tensors = torch.load(vgg, weights_only=True)
    torch.save({**tensors, "features.28.weight": torch.ones(512, 512, 1, 1)}, tmp_path / "odd.pth")
    with pytest.raises(IncompleteCheckpointError, match=r"net\.slice5\.28\.weight"):
        LPIPSLoss(tmp_path / "odd.pth")
    torch.save({key: value for key, value in tensors.items() if key != "features.28.bias"}, tmp_path / "short.pth")
    with pytest.raises(IncompleteCheckpointError, match=r"features\.28\.bias"):
        LPIPSLoss(tmp_path / "short.pth")


def test_lpips_without_its_package_names_the_command(vgg, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(OptionError, match="pip install lpips"):
        LPIPSLoss(vgg)


@pytest.fixture(scope="module")
def vae():
    return load_vae(BUNDLED / "vae")


def test_vae_features_have_unit_length_at_every_level(vae):
    features = vae_features(vae, pictures(3, side=64))
    assert [tuple(level.shape[1:]) for level in features] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (96, 8, 8)]
    for level in features:
        length = level.square().sum(1).sqrt()
        assert length.min() > 0.999
        assert length.max() < 1.001


def test_vae_distance_is_that_of_the_features_by_hand(vae):
    predicted, target = pictures(3, side=64), pictures(4, side=64)
    levels = zip(vae_features(vae, predicted), vae_features(vae, target), strict=True)
    cosines = [(a * b).sum(1).mean() for a, b in levels]
    expected = sum(2 - 2 * cosine for cosine in cosines) / 4
    assert VAEPerceptualLoss(vae)(predicted, target).item() == pytest.approx(expected.item(), rel=1e-3)


def test_vae_distance_grows_with_blur_and_is_nothing_for_equal_pictures(vae):
    from torchvision.transforms.functional import gaussian_blur

    loss, target = VAEPerceptualLoss(vae), pictures(5, side=64)
    distances = [loss(gaussian_blur(target, 9, sigma), target).item() for sigma in (0.3, 0.6, 1.2, 2.4)]
    assert loss(target, target).item() == 0
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_vae_distance_reaches_the_predicted_picture_alone(vae):
    predicted, target = pictures(6, side=64).requires_grad_(), pictures(7, side=64).requires_grad_()
    VAEPerceptualLoss(vae)(predicted, target).backward()
    assert predicted.grad.abs().max() > 0
    assert target.grad is None
    assert all(parameter.grad is None for parameter in vae.parameters())
