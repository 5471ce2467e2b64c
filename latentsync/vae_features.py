"""How different pictures look to a VAE's encoder: a perceptual distance that needs no other network.

It is built as LPIPS is (features at several depths, normalised along the channels, squared difference), but neither
its features nor their weights come from LPIPS, and its values are not comparable with LPIPS: it is called `vae`.
"""

import torch
from torch import Tensor

from .vae import Autoencoder

NORM_EPS = 1e-6


def vae_features(vae: Autoencoder, pixels: Tensor) -> list[Tensor]:
    """(N, 3, h, w) RGB in [-1, 1] -> (N, C, h', w') of each level of the encoder, of unit length along C.

    The sides are multiples of the compression. Computed in the VAE's dtype; gradients flow.
    """
    hidden = vae.encoder.conv_in(pixels.to(device=vae.device, dtype=vae.dtype))
    features = []
    for block in vae.encoder.down_blocks:
        hidden = block(hidden)
        features.append(hidden / (hidden.float().square().sum(1, keepdim=True).sqrt() + NORM_EPS).to(hidden.dtype))
    return features


def vae_distance(vae: Autoencoder, predicted: Tensor, target: Tensor) -> Tensor:
    """(N,) float32 >= 0: mean over levels and places of the squared difference of features; 0 for equal pictures.

    predicted, target: as for `vae_features`. Gradients flow to the predicted pictures only.
    """
    with torch.no_grad():
        wanted = vae_features(vae, target)
    levels = zip(vae_features(vae, predicted), wanted, strict=True)
    return torch.stack([(a.float() - b.float()).square().sum(1).mean((1, 2)) for a, b in levels]).mean(0)
