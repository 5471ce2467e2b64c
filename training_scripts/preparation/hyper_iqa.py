"""hyperIQA (Su et al., 2020), the reference's measure of picture quality: a score of 0 to 100 without a reference.

A ResNet-50 describes a picture; from that description a second network makes the weights of a third, small one, which
gives the score. Tensor names and shapes are those of `koniq_pretrained.pkl`.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from latentsync.model.weights import load_strictly, read_weights

SIDE = 224  # px of the picture that is looked at
FACE_SIDE = 256  # px, of an aligned face whose middle that is
CELLS = 7  # of the last features, across and down
LOCAL, HYPER = 16, 112  # features from each of the first three depths; channels that the weights are made of
WIDTHS = (224, 112, 56, 28, 14)  # of the small network, its input first
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB


class DescribingResNet(nn.Module):
    """Pictures -> features (N, 2048, 7, 7), and a vector (N, 224) of what every depth saw."""

    def __init__(self):
        super().__init__()
        whole = resnet50()
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            setattr(self, name, getattr(whole, name))
        for depth, (inputs, outputs, cells) in enumerate(((256, 16, 8), (512, 32, 4), (1024, 64, 2)), 1):
            squeeze = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.AvgPool2d(7))
            setattr(self, f"lda{depth}_pool", squeeze)
            setattr(self, f"lda{depth}_fc", nn.Linear(outputs * cells**2, LOCAL))
        self.lda4_pool = nn.AvgPool2d(7)
        self.lda4_fc = nn.Linear(2048, WIDTHS[0] - 3 * LOCAL)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.bn1(self.conv1(pixels)))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        seen = []
        for depth in range(1, 5):
            x = getattr(self, f"layer{depth}")(x)
            seen.append(getattr(self, f"lda{depth}_fc")(getattr(self, f"lda{depth}_pool")(x).flatten(1)))
        return x, torch.cat(seen, 1)


class HyperIQA(nn.Module):
    """Pictures (N, 3, 224, 224), normalised as for ImageNet -> scores (N,)."""

    def __init__(self):
        super().__init__()
        self.res = DescribingResNet()
        self.conv1 = nn.Sequential(
            nn.Conv2d(2048, 1024, 1), nn.ReLU(), nn.Conv2d(1024, 512, 1), nn.ReLU(), nn.Conv2d(512, HYPER, 1), nn.ReLU()
        )
        for layer in range(1, 5):
            inputs, outputs = WIDTHS[layer - 1 : layer + 1]
            setattr(self, f"fc{layer}w_conv", nn.Conv2d(HYPER, inputs * outputs // CELLS**2, 3, padding=1))
            setattr(self, f"fc{layer}b_fc", nn.Linear(HYPER, outputs))
        self.fc5w_fc = nn.Linear(HYPER, WIDTHS[-1])
        self.fc5b_fc = nn.Linear(HYPER, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        features, x = self.res(pixels)
        features = self.conv1(features)  # (N, 112, 7, 7)
        pooled = features.mean((2, 3))
        for layer in range(1, 5):
            weight = getattr(self, f"fc{layer}w_conv")(features).reshape(len(x), WIDTHS[layer], WIDTHS[layer - 1])
            bias = getattr(self, f"fc{layer}b_fc")(pooled)
            x = torch.sigmoid(torch.einsum("noi,ni->no", weight, x) + bias)
        return (self.fc5w_fc(pooled) * x).sum(1) + self.fc5b_fc(pooled)[:, 0]

    @torch.inference_mode()
    def score(self, faces: Sequence[np.ndarray]) -> float:
        """Mean of aligned faces (S, S, 3) uint8 RGB, by their middle as the reference takes it from faces of 256 px.

        Faces of another size are brought to that: of larger ones the middle would be nose and mouth alone.
        """
        pixels = torch.from_numpy(np.stack([_middle(face) for face in faces])).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        return float(self((pixels - mean) / std).mean())


def _middle(face: np.ndarray) -> np.ndarray:
    if len(face) != FACE_SIDE:
        face = cv2.resize(face, (FACE_SIDE, FACE_SIDE), interpolation=cv2.INTER_AREA)
    first = (FACE_SIDE - SIDE) // 2
    return face[first : first + SIDE, first : first + SIDE]


def load_hyper_iqa(path: str | Path) -> HyperIQA:
    """From `koniq_pretrained.pkl`. Raises ModelNotFoundError and CheckpointError's subclasses."""
    return load_strictly(HyperIQA(), read_weights(path)[0], path, "res.lda1_fc.weight").eval()
