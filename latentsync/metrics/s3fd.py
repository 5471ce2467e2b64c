"""S3FD, the face detector of the original SyncNet's pipeline (Zhang et al., 2017): `sfd_face.pth`.

VGG16 with six detection layers. Used as the reference does: the picture at a quarter of its size, boxes of confidence
above 0.9, overlapping ones suppressed twice.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from ..model.weights import read_weights
from .syncnet_v2 import load_strictly

MEAN = (123.0, 117.0, 104.0)  # R, G, B
SCALE, MIN_CONFIDENCE = 0.25, 0.9
INNER_CONFIDENCE, INNER_NMS, TOP, KEPT, OUTER_NMS = 0.05, 0.3, 5000, 750, 0.1
STEPS, SIDES = (4, 8, 16, 32, 64, 128), (16, 32, 64, 128, 256, 512)  # px of the input, of each layer's cells and boxes
VARIANCES = (0.1, 0.2)
VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "C", 512, 512, 512, "M", 512, 512, 512, "M")
TAPS = (16, 23, 30)  # of `vgg`: after the ReLUs of conv3_3, conv4_3 and conv5_3
NORMED, EXTRAS = (256, 512, 512), ((1024, 256, 1, 1, 0), (256, 512, 3, 2, 1), (512, 128, 1, 1, 0), (128, 256, 3, 2, 1))


class L2Norm(nn.Module):
    """Scales every place's features to length 1, then each channel by its weight."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) * self.weight[None, :, None, None]


class S3FD(nn.Module):
    """Tensor names are those of the file."""

    def __init__(self):
        super().__init__()
        self.vgg = nn.ModuleList(_vgg())
        self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3 = (L2Norm(channels) for channels in NORMED)
        self.extras = nn.ModuleList(nn.Conv2d(i, o, k, s, p) for i, o, k, s, p in EXTRAS)
        widths = (*NORMED, 1024, 512, 256)
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths)
        # The first layer has three classes of background: its many small boxes are the doubtful ones.
        self.conf = nn.ModuleList(nn.Conv2d(w, 4 if i == 0 else 2, 3, padding=1) for i, w in enumerate(widths))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, h, w), the mean subtracted -> boxes (N, 4) in the picture's px, confidence (N,) 0..1."""
        features, x = [], pixels
        for place, layer in enumerate(self.vgg, 1):
            x = layer(x)
            if place in TAPS:
                normed = (self.L2Norm3_3, self.L2Norm4_3, self.L2Norm5_3)[len(features)]
                features.append(normed(x))
        features.append(x)
        for place, layer in enumerate(self.extras):
            x = F.relu(layer(x))
            if place % 2:
                features.append(x)
        found = [self._read(layer, x) for layer, x in enumerate(features)]
        return torch.cat([boxes for boxes, _ in found]), torch.cat([confidence for _, confidence in found])

    def _read(self, layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.conf[layer](x)[0]
        if layer == 0:
            logits = torch.cat([logits[:3].amax(0, keepdim=True), logits[3:]])
        confidence = logits.softmax(0)[1].flatten()
        moves = self.loc[layer](x)[0].flatten(1).T  # (N, 4)
        rows, columns = torch.meshgrid(*(torch.arange(n, device=x.device) for n in x.shape[2:]), indexing="ij")
        centres = (torch.stack([columns, rows], -1).flatten(0, 1) + 0.5) * STEPS[layer]
        middle = centres + moves[:, :2] * VARIANCES[0] * SIDES[layer]
        size = SIDES[layer] * torch.exp(moves[:, 2:] * VARIANCES[1])
        return torch.cat([middle - size / 2, middle + size / 2], 1), confidence

    @torch.inference_mode()
    def detect(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (n, 4) float64 boxes x0 y0 x1 y1 px, most certain first."""
        small = cv2.resize(frame, (0, 0), fx=SCALE, fy=SCALE, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        pixels = torch.from_numpy(small - np.array(MEAN, np.float32)).permute(2, 0, 1)[None]
        boxes, confidence = self(pixels.to(self.conf[0].weight.device))
        kept = confidence > INNER_CONFIDENCE
        boxes, confidence = boxes[kept], confidence[kept]
        order = confidence.argsort(descending=True)[:TOP]
        order = order[nms(boxes[order], confidence[order], INNER_NMS)][:KEPT]
        order = order[confidence[order] > MIN_CONFIDENCE]
        height, width = frame.shape[:2]
        scale = torch.tensor([width / small.shape[1], height / small.shape[0]] * 2, device=boxes.device)
        boxes, confidence = boxes[order] * scale, confidence[order]
        return boxes[nms(boxes, confidence, OUTER_NMS)].double().cpu().numpy()


def _vgg() -> list[nn.Module]:
    layers, channels = [], 3
    for width in VGG:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=width == "C"))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return [
        *layers,
        nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
        nn.ReLU(),
        nn.Conv2d(1024, 1024, 1),
        nn.ReLU(),
    ]


def load_s3fd(path: str | Path, device: torch.device | str = "cpu") -> S3FD:
    """From `sfd_face.pth`. Raises ModelNotFoundError and CheckpointError's subclasses."""
    return load_strictly(S3FD(), read_weights(path)[0], path, "L2Norm3_3.weight").to(device).eval()
