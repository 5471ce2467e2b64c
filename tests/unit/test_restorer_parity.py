"""GFPGAN and CodeFormer as this package loads and calls them, by both backends, against their authors' own networks.

Random weights, written in the layout of the official files. Skipped where gfpgan or codeformer-pip is not installed;
`python install.py --test` installs them.
"""

import importlib
import importlib.util
import logging
import sys
import types

import pytest
import torch
from torch import nn

from latentsync.restoration.restorers import BORROWED, Restorer, load_restorer

TOLERANCE = 1e-5  # of pictures in [0, 1]


@pytest.fixture
def bare_package(monkeypatch):
    """`bare_package(name)`: a package of which single modules can be imported.

    Its own beginning is not run: those of gfpgan and codeformer import their training code, torchvision's old names and
    packages that nothing else here needs, and codeformer's application downloads weights.
    """

    def make(name: str) -> types.ModuleType:
        top, *inner = name.split(".")
        places = importlib.util.find_spec(top).submodule_search_locations if top not in sys.modules else None
        places = places or sys.modules[top].__path__
        module = types.ModuleType(name)
        module.__path__ = ["/".join([place, *inner]) for place in places]
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return make


def installed(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: python install.py --test does that")


def random_weights(network: nn.Module) -> nn.Module:
    """In place; what is zero or one at first would hide whether it is used."""
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        if value.is_floating_point() and value.std(unbiased=False) == 0:
            value += 0.1 * torch.randn(value.shape, generator=generator)
    return network.eval().requires_grad_(False)


def written(network: nn.Module, path) -> None:
    torch.save({"params_ema": network.state_dict()}, path)


def face() -> torch.Tensor:
    return torch.rand((1, 3, 512, 512), generator=torch.Generator().manual_seed(1))


def by_package(name: str, folder, **settings) -> Restorer:
    """Its own package builds it; nothing that was imported before is another afterwards, and nothing is left behind."""
    before = dict(sys.modules)
    restorer = load_restorer(name, folders=[folder], backend="package", **settings)
    changed = {name for name in before if sys.modules.get(name) is not before[name]}
    added = {name for name in set(sys.modules) - set(before) if name.split(".")[0] in BORROWED}
    assert not changed | added
    return restorer


def largest_difference(restored: torch.Tensor, expected: torch.Tensor) -> float:
    assert expected.std() > 0.01  # a picture, or equality would say little
    difference = (restored - expected).abs().max().item()
    print(f"largest difference {difference:.3g} of {expected.min():.2f} to {expected.max():.2f}")
    return difference


@pytest.fixture
def gfpgan(bare_package, monkeypatch):
    installed("gfpgan")
    installed("codeformer")
    for name in ("gfpgan", "gfpgan.archs"):
        bare_package(name)
    if importlib.util.find_spec("basicsr") is None:  # codeformer-pip has a copy of what is needed of it
        for name in ("codeformer", "codeformer.basicsr", "codeformer.basicsr.utils"):
            bare_package(name)
        monkeypatch.setitem(
            sys.modules, "basicsr.utils.registry", importlib.import_module("codeformer.basicsr.utils.registry")
        )
        for name in ("basicsr", "basicsr.utils", "basicsr.archs", "basicsr.archs.arch_util"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        # How weights begin plays no part: they are replaced.
        sys.modules["basicsr.archs.arch_util"].default_init_weights = lambda *modules, **settings: None
    else:
        functional = importlib.import_module("torchvision.transforms.functional")  # its former name is in basicsr
        monkeypatch.setitem(sys.modules, "torchvision.transforms.functional_tensor", functional)
    from gfpgan.archs.gfpganv1_clean_arch import GFPGANv1Clean

    settings = {"num_style_feat": 512, "channel_multiplier": 2, "num_mlp": 8, "narrow": 1}
    flags = {"fix_decoder": False, "input_is_latent": True, "different_w": True, "sft_half": True}
    return random_weights(GFPGANv1Clean(out_size=512, **settings, **flags))


def test_gfpgan_equals_its_own_package(gfpgan, tmp_path):
    file = tmp_path / "GFPGANv1.4.pth"
    written(gfpgan, file)
    restorer = load_restorer("GFPGAN", folders=[tmp_path])
    assert (restorer.name, restorer.path, restorer.is_portrait) == ("GFPGAN", file, True)
    pixels = face()
    with torch.inference_mode():
        expected = (gfpgan(pixels * 2 - 1, return_rgb=False, randomize_noise=False)[0] + 1) / 2
        restored = restorer.network(pixels)
    assert largest_difference(restored, expected) <= TOLERANCE
    with torch.inference_mode():
        assert torch.equal(restorer.network(pixels), restored)  # its own noise would differ from call to call
    own = by_package("GFPGAN", tmp_path)
    assert (own.name, own.sha256, own.is_portrait) == ("GFPGAN (package gfpgan)", restorer.sha256, True)
    with torch.inference_mode():
        assert largest_difference(own.network(pixels), restored) <= TOLERANCE


@pytest.fixture
def codeformer(bare_package):
    installed("codeformer")
    installed("spandrel_extra_arches")
    for name in ("codeformer", "codeformer.basicsr", "codeformer.basicsr.archs", "codeformer.basicsr.utils"):
        bare_package(name)
    sys.modules["codeformer.basicsr.utils"].get_root_logger = logging.getLogger
    from codeformer.basicsr.archs.codeformer_arch import CodeFormer

    settings = {"dim_embd": 512, "codebook_size": 1024, "n_head": 8, "n_layers": 9}
    return random_weights(CodeFormer(**settings, connect_list=["32", "64", "128", "256"]))


def test_codeformer_equals_its_own_package(codeformer, tmp_path):
    (tmp_path / "CodeFormer").mkdir()
    written(codeformer, tmp_path / "CodeFormer" / "codeformer.pth")
    pixels = face()
    for fidelity in (0.0, 0.5, 1.0):
        restorer = load_restorer("CodeFormer", folders=[tmp_path], fidelity=fidelity)
        with torch.inference_mode():
            expected = (codeformer(pixels * 2 - 1, w=fidelity, adain=True)[0] + 1) / 2
            restored = restorer.network(pixels)
        assert largest_difference(restored, expected) <= TOLERANCE
    packaged = by_package("CodeFormer", tmp_path, fidelity=fidelity)
    with torch.inference_mode():
        assert largest_difference(packaged.network(pixels), restored) <= TOLERANCE
    assert (packaged.name, packaged.warnings) == ("CodeFormer (package codeformer-pip)", restorer.warnings)
    assert any("S-Lab" in warning and "non-commercial" in warning for warning in restorer.warnings)
