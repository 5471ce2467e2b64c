"""Features for FID: InceptionV3 as TensorFlow published it in 2015, in PyTorch's layout of the weights.

It differs from torchvision's: average pools do not count the padding, the last block has a maximum pool, and there are
1008 classes. Pictures are scaled to 299 px by bilinear interpolation without averaging, as pytorch-fid does.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception as tv

from ..model.weights import read_weights
from .syncnet_v2 import load_strictly

SIDE, WIDTH, NUM_CLASSES = 299, 2048, 1008


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
        self.fc = nn.Linear(WIDTH, NUM_CLASSES)  # in the file, not used

    def forward(self, pictures: Tensor) -> Tensor:
        x = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", align_corners=False) * 2 - 1
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
