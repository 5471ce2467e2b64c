"""Perceptual losses: LPIPS where VGG16 is at hand, else `vae`, features of the VAE's own encoder."""

from pathlib import Path

import torch
from torch import Tensor, nn

from latentsync.metrics.picture_networks import load_lpips
from latentsync.model.vae import Autoencoder, vae_distance


class LPIPSLoss(nn.Module):
    """LPIPS (VGG, v0.1), frozen and in float32 whatever surrounds it.

    path: torchvision's VGG16 (None: torch's cache); lin: the calibration (None: the package's own). Raises
    ModelNotFoundError where a file is missing: nothing is downloaded.
    """

    def __init__(self, path: str | Path | None = None, lin: str | Path | None = None):
        super().__init__()
        self.network = load_lpips(path, lin)

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Pictures (N, 3, h, w) RGB in [-1, 1], of any such size -> the mean distance. The reference gives it the lower
        halves of the faces."""
        with torch.autocast(predicted.device.type, enabled=False):
            return self.network(predicted.float(), target.detach().float()).mean()


class VAEPerceptualLoss(nn.Module):
    """The mean of `vae_distance` by a frozen VAE; it is no LPIPS."""

    def __init__(self, vae: Autoencoder):
        super().__init__()
        self.vae = vae

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Pictures (N, 3, h, w) RGB in [-1, 1], sides multiples of 8 -> the mean distance."""
        with torch.autocast(predicted.device.type, enabled=False):
            return vae_distance(self.vae, predicted, target).mean()
