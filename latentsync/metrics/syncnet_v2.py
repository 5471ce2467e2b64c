"""The original SyncNet (Chung and Zisserman, 2016), whose distances LSE-C and LSE-D are.

Keys and shapes are those of `syncnet_v2.model`: 102 tensors, 13,631,616 parameters.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ForeignCheckpointError, IncompleteCheckpointError
from ..model.weights import read_weights

FRAMES, MFCC_COLUMNS, SIDE, WIDTH = 5, 20, 224, 1024  # of a window: frames, MFCC columns, px; of an embedding


class SyncNetV2(nn.Module):
    """Embeds five frames of a face, and the fifth of a second of speech beside them, in one space."""

    def __init__(self):
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_layer2d(1, 64, 3, 1),
            nn.MaxPool2d(1, 1),
            *_layer2d(64, 192, 3, 1),
            nn.MaxPool2d(3, (1, 2)),
            *_layer2d(192, 384, 3, 1),
            *_layer2d(384, 256, 3, 1),
            *_layer2d(256, 256, 3, 1),
            nn.MaxPool2d(3, 2),
            *_layer2d(256, 512, (5, 4), 0),
        )
        self.netcnnlip = nn.Sequential(
            *_layer3d(3, 96, (5, 7, 7), (1, 2, 2), 0),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer3d(96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_layer3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_layer3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            *_layer3d(256, 256, (1, 3, 3), 1, (0, 1, 1)),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_layer3d(256, 512, (1, 6, 6), 1, 0),
        )
        self.netfcaud, self.netfclip = _head(), _head()

    def embed_audio(self, mfcc: Tensor) -> Tensor:
        """MFCC (B, 1, 13, 20) -> (B, 1024)."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def embed_lips(self, frames: Tensor) -> Tensor:
        """(B, 3, 5, 224, 224) BGR, 0..255 -> (B, 1024)."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))


def _layer2d(inputs: int, outputs: int, kernel, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU()]


def _layer3d(inputs: int, outputs: int, kernel, stride, padding) -> list[nn.Module]:
    return [nn.Conv3d(inputs, outputs, kernel, stride, padding), nn.BatchNorm3d(outputs), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, WIDTH))


def load_syncnet_v2(path: str | Path, device: torch.device | str = "cpu") -> SyncNetV2:
    """From `syncnet_v2.model`, in eval mode. Raises ModelNotFoundError and CheckpointError's subclasses."""
    return load_strictly(SyncNetV2(), read_weights(path)[0], path, "netcnnlip.0.weight").to(device).eval()


def load_strictly(network: nn.Module, tensors: Mapping, path: str | Path, sign: str) -> nn.Module:
    """The network with exactly the tensors of a file; `sign` is a key that tells whether it is of this kind."""
    expected = network.state_dict()
    if sign not in tensors:
        raise ForeignCheckpointError(
            f"{path} is no {type(network).__name__}: it has no tensor {sign}. Give the file that the table of "
            "docs/evaluation.md names."
        )
    wrong = [key for key in expected if key not in tensors or tensors[key].shape != expected[key].shape]
    wrong += [key for key in tensors if key not in expected]
    if wrong:
        raise IncompleteCheckpointError(
            f"{path}: {len(wrong)} tensors are missing, unknown or of another shape ({', '.join(wrong[:4])}). Expected "
            f"the {len(expected)} of {type(network).__name__}. Download the file again."
        )
    network.load_state_dict(dict(tensors))
    return network.requires_grad_(False)
