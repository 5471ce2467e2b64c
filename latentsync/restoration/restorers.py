"""Networks that sharpen a face, loaded by spandrel, all called the same way."""

import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal, get_args

import torch
from spandrel import MAIN_REGISTRY, ImageModelDescriptor, UnsupportedModelError
from spandrel import canonicalize_state_dict as canonical
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import CheckpointError, ForeignCheckpointError, OptionError
from ..files import sha256_of
from ..model.device import threads_of
from ..model.vae import in_batches, vae_batch
from ..model.weights import building, check_fit, read_weights
from ..model_files import OFFICIAL, find_restorer, official_restorer

# GFPGAN and CodeFormer as their authors' own packages build them: gfpgan and codeformer-pip, both optional.
#
# Only the files of the two networks are imported. The packages' own beginnings import training code, torchvision's old
# names and much that nothing here needs, and codeformer's application downloads weights; so they are not run. What
# takes their place in `sys.modules` is gone again when the import is over, and what others had imported by these names
# is back.


Network = Callable[[Tensor], Tensor]


def _gfpgan(net: nn.Module, fidelity: float, by_package: bool) -> Network:
    """It draws noise of its own in every call, which would flicker: the noise stored in its file is taken."""
    return lambda x: (net(x * 2 - 1, return_rgb=False, randomize_noise=False)[0] + 1) / 2


def _codeformer(net: nn.Module, fidelity: float, by_package: bool) -> Network:
    settings = {"w": fidelity, "adain": True} if by_package else {"weight": fidelity}  # as its own program does
    return lambda x: (net(x * 2 - 1, **settings)[0] + 1) / 2


@dataclass(frozen=True)
class FaceNetwork:
    """A network that is not called as spandrel does, or that its authors' own package can build.

    package, distribution, module, name, settings  where that package keeps it, its name for pip, and how the network of
             the officially released file is built
    signs    tensors by which its file is known
    called   (network, fidelity, whether the package built it) -> the network on [0, 1]: spandrel's own call leaves out
             the mapping to [-1, 1]
    """

    package: str
    distribution: str
    module: str
    name: str
    settings: Mapping[str, object]
    signs: tuple[str, ...]
    called: Callable[[nn.Module, float, bool], Network]


# By spandrel's names of the architectures.
NETWORKS = {
    "GFPGAN": FaceNetwork(
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
        called=_gfpgan,
    ),
    "CodeFormer": FaceNetwork(
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
        called=_codeformer,
    ),
}
# What their files take from basicsr: a log, a list of classes, and how weights begin, which are loaded.
STAND_INS = {
    "utils": {"get_root_logger": logging.getLogger},
    "utils.registry": {"ARCH_REGISTRY": SimpleNamespace(register=lambda: lambda network: network)},
    "archs.arch_util": {"default_init_weights": lambda *modules, **settings: None},
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
    check_fit(tensors, network.state_dict(), f"{path} does not fit {name}")
    network.load_state_dict(tensors)
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
        _bare_package(wanted.module.rpartition(".")[0], places)
        for root in ("basicsr", "codeformer.basicsr"):
            for module, content in STAND_INS.items():
                vars(_bare_package(f"{root}.{module}", places)).update(content)
        try:
            return getattr(importlib.import_module(wanted.module), wanted.name)
        except (ImportError, AttributeError) as error:
            raise OptionError(
                f"the backend 'package' cannot use {wanted.distribution} as installed ({error}): {advice}"
            ) from error


def _bare_package(name: str, places: list[str]) -> ModuleType:
    """A package whose modules can be imported one by one, in sys.modules, and those that it lies in."""
    parent = name.rpartition(".")[0]
    if parent and parent not in sys.modules:
        _bare_package(parent, places)
    package = sys.modules[name] = ModuleType(name)
    package.__path__ = [str(Path(place, *name.split(".")[1:])) for place in places]
    return package


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


# The aligned square inside the 512 px portrait that face restorers were trained on.
#
# GFPGAN and CodeFormer know faces as FFHQ aligns them: eyes at 47 %, mouth at 73 % of the height. The aligned square
# shows less of the head, so it is set into the portrait's middle and its border is drawn out to the sides.

PORTRAIT_SIDE = 512  # px
# Where the square lies: fitted to eyes, nose and mouth of a real speaker (median of 10 frames), whole px.
PORTRAIT_LEFT, PORTRAIT_TOP, PORTRAIT_WIDTH, PORTRAIT_HEIGHT = 119, 133, 275, 366


def into_portrait(faces: Tensor) -> Tensor:
    """Aligned squares (F, 3, S, S) -> portraits (F, 3, 512, 512) of the same range."""
    small = F.interpolate(faces, (PORTRAIT_HEIGHT, PORTRAIT_WIDTH), mode="bicubic", antialias=True)
    margins = (
        PORTRAIT_LEFT,
        PORTRAIT_SIDE - PORTRAIT_LEFT - PORTRAIT_WIDTH,
        PORTRAIT_TOP,
        PORTRAIT_SIDE - PORTRAIT_TOP - PORTRAIT_HEIGHT,
    )
    return F.pad(small, margins, mode="replicate")


def from_portrait(portraits: Tensor, side: int) -> Tensor:
    """The square of portraits (F, 3, 512, 512), enlarged to (F, 3, side, side)."""
    inner = portraits[
        ..., PORTRAIT_TOP : PORTRAIT_TOP + PORTRAIT_HEIGHT, PORTRAIT_LEFT : PORTRAIT_LEFT + PORTRAIT_WIDTH
    ]
    return F.interpolate(inner, (side, side), mode="bicubic", antialias=True)


# The restorers

Backend = Literal["spandrel", "package"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Restorer:
    """A network that restores or enlarges pictures of faces.

    A host's upscale model becomes one with its name and a function alone.

    name          to show
    network       (N, 3, h, w) in [0, 1], RGB, on `device` in `dtype` -> (N, 3, R, R), the same; frozen
    path, sha256  of the file, where there is one
    is_portrait   the network knows faces only where portraits of 512 px have them (see `into_portrait`)
    warnings      for the user, once a run
    module        what a host has to move to `device`; None where it looks after the network itself
    """

    name: str
    network: Network
    path: Path | None = None
    sha256: str | None = None
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    is_portrait: bool = False
    warnings: tuple[str, ...] = ()
    module: nn.Module | None = None

    @torch.inference_mode()
    def __call__(self, faces: Tensor) -> Tensor:
        """Aligned faces (F, 3, S, S) float32 in [-1, 1] -> (F, 3, R, R) float32, about [-1, 1], on the faces' device.

        A few faces at a time are in the network; fewer where memory does not suffice. Raises CheckpointError where what
        comes out is no picture.
        """
        side = PORTRAIT_SIDE if self.is_portrait else faces.shape[-1]
        restored = in_batches(self._restore, faces, vae_batch(side))
        if not restored.isfinite().all():
            raise CheckpointError(
                f"the restorer {self.name} produced values that are not finite numbers in "
                f"{str(self.dtype).removeprefix('torch.')}; check that its file is whole, or try float32 (fp32)"
            )
        return restored

    def _restore(self, faces: Tensor) -> Tensor:
        pixels = (faces.clamp(-1, 1) + 1) / 2
        if not self.is_portrait:
            return self._apply(pixels) * 2 - 1
        # What the network changed is added to the face, so that the way into the portrait and back costs no detail.
        placed = into_portrait(pixels)
        change = self._apply(placed) - placed
        side = max(PORTRAIT_SIDE, faces.shape[-1])
        return F.interpolate(faces, (side, side), mode="bicubic", antialias=True) + from_portrait(change, side) * 2

    def _apply(self, pixels: Tensor) -> Tensor:
        with threads_of(self.module or self.network):
            restored = self.network(pixels.to(self.device, self.dtype)).to(pixels.device, torch.float32)
        if restored.shape[:2] != pixels.shape[:2] or restored.shape[2] != restored.shape[3]:
            raise CheckpointError(
                f"the restorer {self.name} makes {tuple(restored.shape)} of {tuple(pixels.shape)}; expected square "
                "pictures with three channels. Choose another model"
            )
        return restored


def load_restorer(
    name: str | Path,
    *,
    folders: Sequence[Path] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    fidelity: float = 0.5,
    backend: Backend = "spandrel",
) -> Restorer:
    """A restorer by name or path, see `find_restorer`; any restoration or upscale model that spandrel knows.

    folders    where to look, e.g. checkpoints/
    dtype      float32 is taken where the network does not support another
    fidelity   CodeFormer's w: 0 takes the most from its codebook, 1 stays nearest to the face
    backend    who builds the network: spandrel, or for GFPGAN and CodeFormer its authors' own "package", which works
               in float32 and has to be installed; the results are the same
    Raises ModelNotFoundError, OptionError and CheckpointError's subclasses.
    """
    if backend not in get_args(Backend):
        raise OptionError(f"unknown backend of the restorer {backend!r}: choose {' or '.join(get_args(Backend))}")
    if not 0 <= fidelity <= 1:
        raise OptionError(f"the fidelity of CodeFormer is {fidelity}; expected 0 (most restored) to 1 (most faithful)")
    path = find_restorer(name, folders)
    tensors = canonical(read_weights(path)[0])
    shown = path.name if Path(name) == path else str(name)
    if backend == "package":
        architecture, module = author_network(tensors, path)
        _check_architecture(name, path, architecture, architecture)
        restorer = _author_restorer(architecture, _frozen(module, device, torch.float32), shown, fidelity)
    else:
        found = _describe(tensors, path)
        _check_architecture(name, path, found.architecture.id, found.architecture.name)
        supported = {torch.float16: found.supports_half, torch.bfloat16: found.supports_bfloat16}.get(dtype, True)
        _frozen(found.model, device, dtype if supported else torch.float32)
        restorer = described_restorer(found, shown, fidelity)
    return replace(restorer, path=path, sha256=sha256_of(path))


def _check_architecture(name: str | Path, path: Path, architecture: str, shown: str) -> None:
    official = official_restorer(name)
    if official and architecture != official.architecture:
        raise ForeignCheckpointError(f"{path} holds {shown}, not {name}. Put the right file there.")


def _frozen(module: nn.Module, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    return module.to(device=device, dtype=dtype).eval().requires_grad_(False)


def described_restorer(found: ImageModelDescriptor, name: str, fidelity: float = 0.5) -> Restorer:
    """A restorer of what spandrel has loaded, as a host may have done, where and in the number format it is."""
    return Restorer(
        name=name,
        network=_network(found, fidelity),
        device=found.device,
        dtype=found.dtype,
        is_portrait=found.purpose == "FaceSR",
        warnings=_warnings(found.architecture.id),
        module=found.model,
    )


def _author_restorer(architecture: str, module: nn.Module, name: str, fidelity: float) -> Restorer:
    row = NETWORKS[architecture]
    return Restorer(
        name=f"{name} (package {row.distribution})",
        network=row.called(module, fidelity, True),
        device=next(module.parameters()).device,
        is_portrait=True,
        warnings=_warnings(architecture),
        module=module,
    )


def _warnings(architecture: str) -> tuple[str, ...]:
    return tuple(row.notice for row in OFFICIAL.values() if row.architecture == architecture and row.notice)


def _network(found: ImageModelDescriptor, fidelity: float) -> Network:
    """The network on [0, 1]."""
    row = NETWORKS.get(found.architecture.id)
    return row.called(found.model, fidelity, False) if row else found


def _describe(tensors: dict[str, Tensor], path: Path) -> ImageModelDescriptor:
    registry = MAIN_REGISTRY.copy()
    if all(sign in tensors for sign in NETWORKS["CodeFormer"].signs):
        try:
            from spandrel_extra_arches import EXTRA_REGISTRY
        except ImportError as error:
            raise OptionError("CodeFormer needs spandrel_extra_arches: pip install spandrel_extra_arches") from error
        registry.add(*EXTRA_REGISTRY)
    try:
        with building(path, "a restorer"):
            found = registry.load(tensors)
    except UnsupportedModelError as error:
        raise ForeignCheckpointError(
            f"{path} is not a restorer: spandrel knows no such network. Expected GFPGAN, CodeFormer or another "
            "restoration or upscale model"
        ) from error
    if not isinstance(found, ImageModelDescriptor) or (found.input_channels, found.output_channels) != (3, 3):
        raise ForeignCheckpointError(
            f"{path} holds {found.architecture.name}, which does not make a colour picture of a colour picture. "
            "Expected a restoration or upscale model"
        )
    return found
