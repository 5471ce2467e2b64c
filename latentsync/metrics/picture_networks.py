"""Networks that look at pictures for FID, FVD and LPIPS, all from local files."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception as tv

from ..errors import (
    DamagedCheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    ModelNotFoundError,
    OptionError,
)
from ..model.weights import check_fit, load_strictly, read_weights
from ..model_files import VGG16

# Features for FID: InceptionV3 as TensorFlow published it in 2015, in PyTorch's layout of the weights.
#
# It differs from torchvision's: average pools do not count the padding, the last block has a maximum pool, and there
# are 1008 classes. Pictures are scaled to 299 px by bilinear interpolation without averaging, as pytorch-fid does.

INCEPTION_SIDE, INCEPTION_WIDTH, NUM_CLASSES = 299, 2048, 1008


def _pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(tv.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return [self.branch1x1(x), five, double, self.branch_pool(_pool(x))]


class BlockC(tv.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = x
        for number in range(1, 6):
            double = getattr(self, f"branch7x7dbl_{number}")(double)
        return [self.branch1x1(x), seven, double, self.branch_pool(_pool(x))]


class BlockE(tv.InceptionE):
    def __init__(self, channels: int, maximum: bool):
        super().__init__(channels)
        self.maximum = maximum

    def _forward(self, x: Tensor) -> list[Tensor]:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _pool(x)
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(three), self.branch3x3_2b(three)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(pooled),
        ]


class FIDInception(nn.Module):
    """`network(pictures)`: (N, 3, H, W) in [0, 1] -> (N, 2048), the averages before the classes."""

    def __init__(self):
        super().__init__()
        layer = tv.BasicConv2d
        self.Conv2d_1a_3x3 = layer(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = layer(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = layer(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = layer(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = layer(80, 192, kernel_size=3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = tv.InceptionB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = (BlockC(768, w) for w in (128, 160, 160, 192))
        self.Mixed_7a = tv.InceptionD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, maximum=False), BlockE(2048, maximum=True)
        self.fc = nn.Linear(INCEPTION_WIDTH, NUM_CLASSES)  # in the file, not used

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.interpolate(pictures, (INCEPTION_SIDE, INCEPTION_SIDE), mode="bilinear", align_corners=False) * 2 - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return x.mean((2, 3))


def load_inception(path: str | Path, device: torch.device | str = "cpu") -> FIDInception:
    """From pytorch-fid's or torch-fidelity's file. Raises ModelNotFoundError and CheckpointError's subclasses."""
    network = FIDInception()
    tensors = dict(read_weights(path)[0])
    for key, value in network.state_dict().items():  # files written before torch 0.4.1 count no batches
        if key.endswith("num_batches_tracked"):
            tensors.setdefault(key, value)
    return load_strictly(network, tensors, path, "Mixed_7c.branch_pool.conv.weight").to(device).eval()


# Features for FVD: I3D, published as a TorchScript program.

I3D_SIDE, I3D_WIDTH = 224, 400
NUM_FRAMES = 16
REFERENCE_START = 20  # the reference looks at frames 20 to 35 only


class I3D:
    """`network(clips)`: (B, T, H, W, 3) uint8 RGB -> (B, 400) float32, the logits for Kinetics' classes.

    reference: values in [0, 1], as the reference gives them, instead of [-1, 1], for which the network was trained:
    figures of the two are not comparable with each other, and those of the reference not with the literature.
    """

    def __init__(self, program: nn.Module, device: torch.device | str = "cpu", reference: bool = False):
        self._program, self._device, self._reference = program, device, reference

    @torch.inference_mode()
    def __call__(self, clips: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(clips)).to(self._device)
        values = self._resized(pixels).div(255)
        values = values if self._reference else values * 2 - 1
        return self._program(values, rescale=False, resize=False, return_features=True).float().cpu().numpy()

    @staticmethod
    def _resized(pixels: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 -> (B, 3, T, 224, 224) float32, averaged where they are larger."""
        frames = pixels.flatten(0, 1).permute(0, 3, 1, 2).float()
        if frames.shape[-2:] != (I3D_SIDE, I3D_SIDE):
            frames = F.interpolate(frames, (I3D_SIDE, I3D_SIDE), mode="bilinear", antialias=True)
        return frames.unflatten(0, pixels.shape[:2]).transpose(1, 2).contiguous()


def load_i3d(path: str | Path, device: torch.device | str = "cpu", reference: bool = False) -> I3D:
    """From `i3d_torchscript.pt`. Such a file is a program and is run: give only one from where it is published.

    Raises ModelNotFoundError and DamagedCheckpointError.
    """
    if not Path(path).is_file():
        raise ModelNotFoundError(f"The model file {path} is not there. Check the path, or download the file.")
    try:
        program = torch.jit.load(str(path), map_location=device)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DamagedCheckpointError(f"{path} is no TorchScript program ({reason}). Download it again.") from error
    return I3D(program.eval(), device, reference)


# LPIPS (VGG, v0.1) from local files: the `lpips` package's network, which by itself would download VGG16.
#
# The package brings its calibration (`lin`); VGG16 must be given. Nothing is downloaded, and never is a score computed
# from random weights.

VGG_FILE = VGG16.names[0]
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
    told = f"{file} and {lin} are not VGG16 and LPIPS' calibration of it"
    check_fit(tensors, network.state_dict(), told, "Download the file again.")
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
