"""The authors' own packages as builders of GFPGAN and CodeFormer: what is refused, and what an import leaves behind.

That results are equal is in test_restorer_parity.py.
"""

import importlib.util
import socket
import sys
from types import ModuleType

import pytest
import torch

from latentsync.errors import ForeignCheckpointError, IncompleteCheckpointError, OptionError
from latentsync.model.weights import write_weights
from latentsync.restoration.restorers import BORROWED, NETWORKS, _network_class, load_restorer

FILES = {"GFPGAN": "GFPGANv1.4.pth", "CodeFormer": "codeformer.pth"}


@pytest.fixture
def cut_short(tmp_path):
    """`cut_short(name)`: a folder with a file that is known as the network's and holds next to nothing of it."""

    def write(name: str):
        write_weights(tmp_path / FILES[name], {sign: torch.zeros(2, 2) for sign in NETWORKS[name].signs})
        return tmp_path

    return write


@pytest.fixture
def installed(request):
    name = request.param
    if importlib.util.find_spec(NETWORKS[name].package) is None:
        pytest.skip(f"{NETWORKS[name].distribution} is not installed: python install.py --test does that")
    return name


@pytest.mark.parametrize("name", FILES)
def test_a_missing_package_is_refused_with_its_command(name, cut_short, monkeypatch):
    folder = cut_short(name)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(OptionError) as refusal:
        load_restorer(name, folders=[folder], backend="package")
    assert f"pip install --no-deps {NETWORKS[name].distribution} " in str(refusal.value)
    assert "'spandrel'" in str(refusal.value)


@pytest.mark.parametrize("installed", FILES, indirect=True)
def test_a_file_that_is_cut_short_is_told(installed, cut_short):
    with pytest.raises(IncompleteCheckpointError, match=FILES[installed]):
        load_restorer(installed, folders=[cut_short(installed)], backend="package")


def test_other_networks_and_backends_are_refused(cut_short):
    with pytest.raises(OptionError, match=r"only, and .*tiny.safetensors holds another network"):
        load_restorer("tiny", backend="package")
    with pytest.raises(OptionError, match="unknown backend of the restorer 'onnx': choose spandrel or package"):
        load_restorer("tiny", backend="onnx")


@pytest.mark.parametrize("installed", ["GFPGAN"], indirect=True)
def test_the_wrong_file_under_an_official_name(installed, tmp_path):
    network = _network_class("GFPGAN")(**NETWORKS["GFPGAN"].settings)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "codeformer.pth")
    with pytest.raises(ForeignCheckpointError, match="holds GFPGAN, not CodeFormer"):
        load_restorer("CodeFormer", folders=[tmp_path], backend="package")


@pytest.mark.parametrize("installed", FILES, indirect=True)
def test_an_import_leaves_nothing_behind_and_asks_the_network_for_nothing(installed, monkeypatch):
    def refuse(*address):
        raise AssertionError(f"a connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    another = ModuleType("basicsr")  # as if another pack of the host had imported it
    monkeypatch.setitem(sys.modules, "basicsr", another)
    before = {name for name in sys.modules if name.split(".")[0] in BORROWED}
    assert issubclass(_network_class(installed), torch.nn.Module)
    assert {name for name in sys.modules if name.split(".")[0] in BORROWED} == before
    assert sys.modules["basicsr"] is another
    assert "torchvision.transforms.functional_tensor" not in sys.modules
