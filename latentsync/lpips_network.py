"""LPIPS (VGG, v0.1) from local files: the `lpips` package's network, which by itself would download VGG16.

The package brings its calibration (`lin`); VGG16 must be given. Nothing is downloaded, and never is a score computed
from random weights.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from .errors import ForeignCheckpointError, IncompleteCheckpointError, ModelNotFoundError, OptionError
from .model.weights import read_weights

VGG_FILE = "vgg16-397923af.pth"  # torchvision's name of the file
SLICES = ((1, (0, 2)), (2, (5, 7)), (3, (10, 12, 14)), (4, (17, 19, 21)), (5, (24, 26, 28)))  # convolutions of VGG16
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


def find_vgg(path: str | Path | None = None) -> Path:
    """The file of VGG16: the given one, else torch's cache (`hub/checkpoints`), if it is there.

    Raises ModelNotFoundError, telling where to get it.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE if path is None else Path(path)
    if file.is_file():
        return file
    raise ModelNotFoundError(
        f"LPIPS needs VGG16, which is not at {file}. Download torchvision's {VGG_FILE} (LatentSync's release has it "
        "in its folder `auxiliary`) and give its path: nothing is downloaded by itself. Or take the distance `vae`."
    )


def load_lpips(
    vgg: str | Path | None = None, lin: str | Path | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """The `lpips` package's network with net "vgg", v0.1: frozen, in eval mode, float32.

    vgg: see `find_vgg`; torchvision's file. lin: the calibration (default: the one in the package).
    `network(predicted, target)`, both (N, 3, h, w) in [-1, 1], gives (N, 1, 1, 1). Raises ModelNotFoundError,
    CheckpointError's subclasses, and OptionError without the package.
    """
    file = find_vgg(vgg)
    try:
        import lpips
    except ImportError as error:
        raise OptionError("LPIPS needs the package lpips, which is not there: pip install lpips") from error
    lin = Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth" if lin is None else Path(lin)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision warns of the way the package asks it
        network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    tensors = _convolutions(_tensors(file), file) | _calibration(_tensors(lin), lin)
    tensors["scaling_layer.shift"] = torch.tensor(SHIFT)[None, :, None, None]
    tensors["scaling_layer.scale"] = torch.tensor(SCALE)[None, :, None, None]
    for key, expected in network.state_dict().items():
        if tensors[key].shape != expected.shape:
            raise IncompleteCheckpointError(
                f"{file if key.startswith('net.') else lin}: {key} has the shape {tuple(tensors[key].shape)}; expected "
                f"{tuple(expected.shape)}. Expected VGG16 and LPIPS' calibration of it. Download the file again."
            )
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=True, assign=True)
    return network.to(device).eval().requires_grad_(False)


def _tensors(path: Path) -> Mapping[str, torch.Tensor]:
    content, _ = read_weights(path)
    return content


def _convolutions(content: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """torchvision's `features.N` under the names of the package, which cuts them into slices."""
    if "features.0.weight" not in content:
        raise ForeignCheckpointError(
            f"{path} is not torchvision's VGG16: it has no features.0.weight. Give {VGG_FILE}."
        )
    names = {
        f"features.{number}.{kind}": f"net.slice{index}.{number}.{kind}"
        for index, numbers in SLICES
        for number in numbers
        for kind in ("weight", "bias")
    }
    return {ours: _named(content, theirs, path) for theirs, ours in names.items()}


def _calibration(content: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for level in range(len(SLICES)):
        tensor = _named(content, f"lin{level}.model.1.weight", path)
        tensors |= {f"lin{level}.model.1.weight": tensor, f"lins.{level}.model.1.weight": tensor}
    return tensors


def _named(content: Mapping[str, torch.Tensor], key: str, path: Path) -> torch.Tensor:
    if key not in content:
        raise IncompleteCheckpointError(f"{path} has no tensor {key}. Download it again.")
    return content[key]
