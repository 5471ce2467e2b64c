"""A small autoencoder without normalisation: the bundled model's, fast on a CPU.

GroupNorm takes away how bright and how coloured a whole picture is, which small networks do not find again. diffusers'
AutoencoderDC has the same plan (space to depth, residual blocks), but normalises in every block and begins at half the
side, where a convolution costs most.
"""

from collections.abc import Sequence

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, EncoderOutput
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """(N, W, h, w) -> the same; begins as the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv2(F.silu(self.conv1(F.silu(hidden))))


class Encoder(nn.Module):
    """(N, 3, S, S) -> (N, C, S / ratio, S / ratio); after each level but the last, space becomes depth."""

    def __init__(self, channels: int, widths: Sequence[int], layers: Sequence[int], patch_size: int):
        super().__init__()
        self.conv_in = nn.Sequential(nn.PixelUnshuffle(patch_size), nn.Conv2d(3 * patch_size**2, widths[0], 1))
        self.down_blocks = nn.ModuleList()
        for level, (width, count) in enumerate(zip(widths, layers, strict=True)):
            shrink = [nn.PixelUnshuffle(2), nn.Conv2d(4 * widths[level - 1], width, 1)] if level else []
            self.down_blocks.append(nn.Sequential(*shrink, *(ResidualBlock(width) for _ in range(count))))
        self.conv_out = nn.Conv2d(widths[-1], channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.conv_in(pixels)
        for block in self.down_blocks:
            hidden = block(hidden)
        return self.conv_out(hidden)


class Decoder(nn.Module):
    """(N, C, h, w) -> (N, 3, S, S). The last two convolutions, over pixels, hide the edges of the patches."""

    def __init__(self, channels: int, widths: Sequence[int], layers: Sequence[int], patch_size: int, pixel_width: int):
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[-1], 1)
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            width = widths[level]
            grow = [nn.Conv2d(width, 4 * widths[level - 1], 1), nn.PixelShuffle(2)] if level else []
            self.up_blocks.append(nn.Sequential(*(ResidualBlock(width) for _ in range(layers[level])), *grow))
        self.conv_out = nn.Sequential(nn.Conv2d(widths[0], 3 * patch_size**2, 1), nn.PixelShuffle(patch_size))
        self.pixels = nn.Sequential(
            nn.Conv2d(3, pixel_width, 3, padding=1), nn.SiLU(), nn.Conv2d(pixel_width, 3, 3, padding=1)
        )
        nn.init.zeros_(self.pixels[-1].weight)
        nn.init.zeros_(self.pixels[-1].bias)

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.conv_in(latents)
        for block in self.up_blocks:
            hidden = block(hidden)
        picture = self.conv_out(hidden)
        return picture + self.pixels(picture)


class FaceAutoencoder(ModelMixin, ConfigMixin):
    """Pictures (N, 3, S, S) in [-1, 1], RGB, S a multiple of the compression, to latents (N, C, h, w) and back.

    Saved and loaded as diffusers' own (config.json, safetensors); its latents have no posterior. The compression is
    ``patch_size * 2 ** (levels - 1)``. Number of residual blocks a level: `encoder_layers`, `decoder_layers`.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 12,
        block_out_channels: Sequence[int] = (64, 96, 128),
        encoder_layers: Sequence[int] = (2, 2, 1),
        decoder_layers: Sequence[int] = (2, 2, 2),
        patch_size: int = 4,
        pixel_width: int = 24,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ):
        super().__init__()
        self.encoder = Encoder(latent_channels, block_out_channels, encoder_layers, patch_size)
        self.decoder = Decoder(latent_channels, block_out_channels, decoder_layers, patch_size, pixel_width)

    def encode(self, pixels: Tensor) -> EncoderOutput:
        return EncoderOutput(latent=self.encoder(pixels))

    def decode(self, latents: Tensor) -> DecoderOutput:
        return DecoderOutput(sample=self.decoder(latents))

    def forward(self, pixels: Tensor) -> DecoderOutput:
        return self.decode(self.encode(pixels).latent)


def with_fewer_channels(vae: FaceAutoencoder, channels: int) -> FaceAutoencoder:
    """The autoencoder with the first `channels` of its latents alone, which training makes the ones that count most."""
    weights = vae.state_dict()
    for name in ("encoder.conv_out.weight", "encoder.conv_out.bias"):
        weights[name] = weights[name][:channels]
    weights["decoder.conv_in.weight"] = weights["decoder.conv_in.weight"][:, :channels]
    scale = {name: vae.config[name] and vae.config[name][:channels] for name in ("latents_mean", "latents_std")}
    settings = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    small = FaceAutoencoder(**settings | scale | {"latent_channels": channels})
    small.load_state_dict(weights)
    return small
