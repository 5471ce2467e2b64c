"""GFPGAN and CodeFormer as their authors' own packages build them: gfpgan and codeformer-pip, both optional.

Only the files of the two networks are imported. The packages' own beginnings import training code, torchvision's old
names and much that nothing here needs, and codeformer's application downloads weights; so they are not run. What takes
their place in `sys.modules` is gone again when the import is over, and what others had imported by these names is back.
"""

import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

from torch import Tensor, nn

from ..errors import IncompleteCheckpointError, OptionError


@dataclass(frozen=True)
class AuthorNetwork:
    """Where a package keeps a network, and how the officially released file's one is built."""

    package: str
    distribution: str  # its name for pip
    module: str
    name: str
    settings: Mapping[str, object]
    signs: tuple[str, ...]  # tensors by which its file is known


NETWORKS = {
    "GFPGAN": AuthorNetwork(
        package="gfpgan",
        distribution="gfpgan",
        module="gfpgan.archs.gfpganv1_clean_arch",
        name="GFPGANv1Clean",
        settings={
            "out_size": 512,
            "num_style_feat": 512,
            "channel_multiplier": 2,
            "fix_decoder": False,
            "num_mlp": 8,
            "input_is_latent": True,
            "different_w": True,
            "narrow": 1,
            "sft_half": True,
        },
        signs=("toRGB.0.weight", "stylegan_decoder.style_mlp.1.weight"),
    ),
    "CodeFormer": AuthorNetwork(
        package="codeformer",
        distribution="codeformer-pip",
        module="codeformer.basicsr.archs.codeformer_arch",
        name="CodeFormer",
        settings={
            "dim_embd": 512,
            "codebook_size": 1024,
            "n_head": 8,
            "n_layers": 9,
            "connect_list": ["32", "64", "128", "256"],
        },
        signs=("position_emb", "idx_pred_layer.1.weight"),
    ),
}
BORROWED = {network.package for network in NETWORKS.values()} | {"basicsr"}  # names used while importing
_importing = threading.Lock()


def author_network(tensors: Mapping[str, Tensor], path: Path) -> tuple[str, nn.Module]:
    """Its name of NETWORKS, and the network with the tensors of a file, in float32 on the CPU.

    Raises OptionError where the package is missing or the file holds another network, and IncompleteCheckpointError
    where it does not fit.
    """
    name = next((name for name in NETWORKS if all(sign in tensors for sign in NETWORKS[name].signs)), None)
    if name is None:
        raise OptionError(
            f"the backend 'package' is for GFPGAN and CodeFormer only, and {path} holds another network. Choose the "
            "backend 'spandrel'"
        )
    network = _network_class(name)(**NETWORKS[name].settings)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        first_line = " ".join(str(error).split())[:200]
        raise IncompleteCheckpointError(f"{path} does not fit {name} ({first_line}). Download it again.") from error
    return name, network.float()


def _network_class(name: str) -> type[nn.Module]:
    wanted = NETWORKS[name]
    advice = (
        f"pip install --no-deps {wanted.distribution} (without --no-deps a second OpenCV and much else comes along, "
        "which is not needed). Or choose the backend 'spandrel', which gives the same results"
    )
    with _importing, _borrowed_names():
        # Found by place: the package's own beginning is not run for it.
        found = importlib.util.find_spec(wanted.package)
        places = list(found.submodule_search_locations or []) if found else []
        file = Path(*wanted.module.split(".")[1:]).with_suffix(".py")
        if not any((Path(place) / file).is_file() for place in places):
            raise OptionError(f"the backend 'package' for {name} needs {wanted.distribution}, not installed: {advice}")
        *parents, _ = wanted.module.split(".")
        for depth in range(1, len(parents) + 1):
            _bare_package(parents[:depth], places)
        _stand_ins(places)
        try:
            return getattr(importlib.import_module(wanted.module), wanted.name)
        except (ImportError, AttributeError) as error:
            raise OptionError(
                f"the backend 'package' cannot use {wanted.distribution} as installed ({error}): {advice}"
            ) from error


def _bare_package(names: list[str], places: list[str]) -> ModuleType:
    """A package whose modules can be imported one by one, in sys.modules."""
    package = ModuleType(".".join(names))
    package.__path__ = [str(Path(place, *names[1:])) for place in places]
    sys.modules[package.__name__] = package
    return package


def _stand_ins(places: list[str]) -> None:
    """What the networks' files take from basicsr: a list of classes, a log, and how weights begin, which are loaded."""
    register = SimpleNamespace(register=lambda: lambda network: network)
    for utils in (["basicsr", "utils"], ["codeformer", "basicsr", "utils"]):
        for depth in range(1, len(utils)):
            if ".".join(utils[:depth]) not in sys.modules:
                _bare_package(utils[:depth], places)
        _bare_package(utils, places).get_root_logger = logging.getLogger
        _bare_package([*utils, "registry"], places).ARCH_REGISTRY = register
    _bare_package(["basicsr", "archs"], places)
    _bare_package(["basicsr", "archs", "arch_util"], places).default_init_weights = lambda *modules, **settings: None


@contextmanager
def _borrowed_names() -> Iterator[None]:
    """Inside, nothing is imported by these names; afterwards what was before."""

    def by_these_names() -> list[str]:
        return [name for name in list(sys.modules) if name.partition(".")[0] in BORROWED]

    before = {name: sys.modules.pop(name) for name in by_these_names()}
    try:
        yield
    finally:
        for name in by_these_names():
            del sys.modules[name]
        sys.modules.update(before)
