"""What a VAE's latents are: how many channels, how much smaller than the picture, how they are scaled.

Released models have four channels at 1/8 of the side, scaled by 0.18215; others say theirs in the VAE's configuration.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import CheckpointError
from .files import shown

SCALING_FACTOR = 0.18215


@dataclass(frozen=True)
class LatentSpace:
    """What the U-Net knows is ``(raw - shift) * scale`` of what the encoder gives; each a number, or one a channel."""

    channels: int = 4
    ratio: int = 8  # px of the picture's side per latent
    scale: float | tuple[float, ...] = SCALING_FACTOR
    shift: float | tuple[float, ...] = 0.0

    @classmethod
    def of(cls, config: Mapping) -> "LatentSpace":
        """Of a VAE's configuration as diffusers has it. Raises CheckpointError for numbers that cannot be meant.

        ``latents_mean`` and ``latents_std``, one number a channel, go with shift_factor and scaling_factor.
        """
        channels, factor, shift = config["latent_channels"], config["scaling_factor"], config.get("shift_factor") or 0.0
        widths = config.get("block_out_channels") or config["encoder_block_out_channels"]
        means, deviations = config.get("latents_mean"), config.get("latents_std")
        lists = [[0.0] * channels if means is None else means, [1.0] * channels if deviations is None else deviations]
        one_each = all(isinstance(values, list | tuple) and len(values) == channels for values in lists)
        numbers = [factor, shift, *(lists[0] + lists[1] if one_each else [])]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers) or not factor > 0:
            raise CheckpointError(
                f"the VAE's description has scaling_factor {shown(factor)} and shift_factor {shown(shift)}; expected "
                f"{SCALING_FACTOR} and 0. Repair its config.json."
            )
        if not one_each or min(lists[1]) <= 0:
            raise CheckpointError(
                f"the VAE's description has latents_mean {shown(means)} and latents_std {shown(deviations)}; expected "
                f"{channels} numbers each, those of the second above 0, or null. Repair its config.json."
            )
        if means is not None or deviations is not None:
            factor, shift = (
                tuple(factor / deviation for deviation in lists[1]),
                tuple(shift + mean for mean in lists[0]),
            )
        return cls(channels, config.get("patch_size", 1) * 2 ** (len(widths) - 1), factor, shift)

    def __str__(self) -> str:
        return f"{self.channels} channels at 1/{self.ratio} of the side"

    @property
    def conditioned_channels(self) -> int:
        """Of the U-Net's input: noisy latents, mask, masked latents, reference latents."""
        return 3 * self.channels + 1

    def scaled(self, raw: Tensor) -> Tensor:
        """(F, C, h, w) of the encoder, as the U-Net knows them."""
        return (raw - _per_channel(self.shift, raw)) * _per_channel(self.scale, raw)

    def raw(self, scaled: Tensor) -> Tensor:
        """(F, C, h, w) of the U-Net, as the decoder knows them."""
        return scaled / _per_channel(self.scale, scaled) + _per_channel(self.shift, scaled)


STABLE_DIFFUSION = LatentSpace()


def _per_channel(value: float | tuple[float, ...], latents: Tensor) -> float | Tensor:
    return value if isinstance(value, float | int) else torch.tensor(value).to(latents)[:, None, None]
