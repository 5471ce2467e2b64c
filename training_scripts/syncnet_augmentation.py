"""Changes of pictures and sound that do not change whether they belong together; the same for all frames of a clip."""

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from .config import AugmentationConfig

BLUR_KERNEL = 7  # px
BLURRED = 0.5  # share of clips
LOUDEST = 4.0  # end of the mel's range


def augment(
    stacked: Tensor, mel: Tensor, config: AugmentationConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Stacked frames (B, C, h, w) in [-1, 1] and mel (B, 1, 80, W), changed each clip by itself.

    generator: of the CPU, so that all devices draw the same.
    """
    batch = len(stacked)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    mirrored = uniform(batch) < config.mirrored
    contrast = 1 + config.contrast * (2 * uniform(batch, 1, 1, 1) - 1)
    brightness = config.brightness * (2 * uniform(batch, 1, 1, 1) - 1)
    shifts = torch.randint(-config.shift, config.shift + 1, (batch, 2), generator=generator).tolist()
    sigmas = config.blur * uniform(batch) * (uniform(batch) < BLURRED)
    noise = config.noise * uniform(batch, 1, 1, 1)
    gain = config.mel_gain * (2 * uniform(batch, 1, 1, 1) - 1)

    stacked = torch.where(mirrored.to(stacked.device)[:, None, None, None], stacked.flip(-1), stacked)
    stacked = stacked * contrast.to(stacked) + brightness.to(stacked)
    if config.shift:
        height, width = stacked.shape[-2:]
        padded = F.pad(stacked, (config.shift,) * 4, mode="replicate")
        starts = [(config.shift + rows, config.shift + columns) for rows, columns in shifts]
        stacked = torch.stack(
            [
                clip[:, row : row + height, column : column + width]
                for clip, (row, column) in zip(padded, starts, strict=True)
            ]
        )
    if (blurred := (sigmas > 0.2).nonzero().flatten()).numel():
        sigma = sigmas[blurred][:, None].expand(-1, 2).to(stacked)
        places = blurred.to(stacked.device)
        kernel = (BLUR_KERNEL, BLUR_KERNEL)
        stacked[places] = gaussian_blur2d(stacked[places], kernel, sigma, border_type="replicate")
    if config.noise:
        drawn = torch.randn(stacked.shape, generator=generator)
        stacked = stacked + noise.to(stacked) * drawn.to(stacked)
    return stacked, (mel + gain.to(mel)).clamp(-LOUDEST, LOUDEST)
