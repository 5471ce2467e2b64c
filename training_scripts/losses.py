"""The losses of training, as functions of tensors."""

import torch
from torch import Tensor
from torch.nn import functional as F


def vae_loss(
    reconstruction: Tensor,
    pixels: Tensor,
    mouths: Tensor,
    *,
    gradient_weight: float,
    colour_weight: float,
    mouth_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L1, that of the gradients and that of the colours of 8 x 8 blocks.

    And the mean over the mouths alone of error and gradients, where blur shows most and few pixels would count little.

    The colour term is there because a small VAE learns shapes long before it keeps unusual colours.

    reconstruction, pixels: (N, 3, S, S) in [-1, 1]; mouths: (N, 1, S, S), 1 where inference pastes, else 0.
    Returns the loss and its unweighted parts.
    """
    error = reconstruction - pixels
    l1 = error.abs().mean()
    rows, columns = error.diff(dim=2).abs(), error.diff(dim=3).abs()
    gradient = 0.5 * (rows.mean() + columns.mean())
    at_mouth = (error.abs() * mouths).sum() + (rows * mouths[:, :, 1:]).sum() + (columns * mouths[..., 1:]).sum()
    at_mouth = at_mouth / (mouths.sum() * error.shape[1]).clamp(min=1)
    colour = F.avg_pool2d(error, 8).abs().mean()
    loss = l1 + 2 * gradient_weight * gradient + colour_weight * colour + mouth_weight * at_mouth
    parts = {"l1": l1, "gradient": gradient, "colour": colour, "mouth": at_mouth}
    return loss, {name: part.detach() for name, part in parts.items()}


def restoration_loss(restored: Tensor, sharp: Tensor, *, gradient_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 of the pictures (N, 3, h, w) in [0, 1] and of their gradients, without which edges stay soft.

    Returns the loss and its unweighted parts.
    """
    error = restored - sharp
    l1 = error.abs().mean()
    gradient = 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
    return l1 + 2 * gradient_weight * gradient, {"l1": l1.detach(), "gradient": gradient.detach()}


def noise_loss(
    predicted: Tensor,
    target: Tensor,
    region_weight: Tensor,
    alphas_cumprod: Tensor,
    timesteps: Tensor,
    *,
    max_timestep_weight: float,
) -> Tensor:
    """Squared error of the U-Net's output, weighted where and when it shows.

    predicted, target: (B, C, F, h, w); region_weight: (h, w), see `region_weights`; alphas_cumprod: the schedule's
    table; timesteps: (B,).
    An error e of the noise moves the one-step clean latents by e * sqrt((1 - a) / a); weighting the square by 1 / a
    makes it count as what is seen, which is what keeps colours from drifting at high noise. The weight is capped, and
    its mean over all timesteps is 1. For a U-Net that predicts the velocity a cap of 1, which weighs all timesteps the
    same, does that by itself. The reference predicts noise and uses neither weight.
    """
    weights = (1 / alphas_cumprod).clamp(max=max_timestep_weight)
    weight = (weights / weights.mean()).to(timesteps.device)[timesteps]
    squared = (predicted.float() - target.float()) ** 2 * region_weight
    return (squared.flatten(1).mean(1) * weight).mean()


def lip_loss(read: Tensor, lips: Tensor, heard: Tensor, deviation: Tensor) -> Tensor:
    """Squared error of the lips read from one-step clean estimates; clips that heard nothing do not count.

    read, lips: (B, F, L); heard: (B,), 1 or 0; deviation: (L,) the unit of each value: 1 is what guessing costs.
    """
    return ((((read - lips) / deviation) ** 2).flatten(1).mean(1) * heard).mean()


def region_weights(keep_mask: Tensor, paste_mask: Tensor, *, mask_weight: float, paste_weight: float) -> Tensor:
    """How much each latent counts: 1 around the hole, mask_weight in it, paste_weight where inference pastes.

    keep_mask, paste_mask: (h, w) of latents, 0 in the hole. Returns (h, w).
    """
    weights = torch.where(keep_mask < 0.5, mask_weight, 1.0)
    return torch.where(paste_mask < 0.5, paste_weight, weights)
