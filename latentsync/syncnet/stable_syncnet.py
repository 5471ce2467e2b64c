"""StableSyncNet: two encoders whose embeddings agree, by their cosine, where lips and speech belong together.

Follows LatentSync's network: residual blocks that shrink the picture, attention after some of them, a ReLU at the end,
so that embeddings are not negative and their cosine lies in [0, 1].
"""

from dataclasses import dataclass

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import FrameCountError, OptionError
from ..faces.facemesh import Framing
from .sync_mel import NUM_MELS, mel_length

Factor = int | tuple[int, int]  # of rows and columns
EPS = 1e-6
NUM_HEADS, NUM_GROUPS = 8, 32


@dataclass(frozen=True)
class EncoderConfig:
    """One of the two encoders, level by level; `attention` tells after which levels attention follows."""

    in_channels: int
    block_out_channels: tuple[int, ...]
    downsample_factors: tuple[Factor, ...]
    attention: tuple[bool, ...]

    def __post_init__(self):
        lengths = {len(self.block_out_channels), len(self.downsample_factors), len(self.attention)}
        if lengths != {len(self.block_out_channels)} or not self.block_out_channels:
            raise OptionError(
                f"A SyncNet encoder has {len(self.block_out_channels)} widths, {len(self.downsample_factors)} factors "
                f"and {len(self.attention)} attention flags; expected as many of each, at least one."
            )

    def out_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of what leaves the last level."""
        for factor in self.downsample_factors:
            if factor != 1:
                rows, columns = _pair(factor)
                left, right, top, bottom = _padding(factor)
                height, width = (height + top + bottom - 3) // rows + 1, (width + left + right - 3) // columns + 1
        return height, width


@dataclass(frozen=True)
class SyncNetConfig:
    """A SyncNet. `resolution` is the side of the whole face in pixels, of latents the side of their pictures.

    Latents (`latent`) are looked at whole or in their lower half, as pixels are. One is `latent_ratio` px of
    that side.
    """

    audio: EncoderConfig
    visual: EncoderConfig
    num_frames: int = 16
    resolution: int = 256
    lower_half: bool = True
    latent: bool = False
    latent_ratio: int = 8
    num_heads: int = NUM_HEADS
    norm_num_groups: int = NUM_GROUPS

    def __post_init__(self):
        if self.visual.in_channels % self.num_frames:
            raise OptionError(
                f"SyncNet's visual encoder has {self.visual.in_channels} input channels, which {self.num_frames} "
                "frames do not share evenly. Set num_frames or in_channels."
            )
        if self.audio.block_out_channels[-1] != self.visual.block_out_channels[-1]:
            raise OptionError(
                f"SyncNet's encoders end in {self.audio.block_out_channels[-1]} and "
                f"{self.visual.block_out_channels[-1]} channels; expected the same embedding width."
            )
        sizes = {"visual": self.visual.out_size(*self.picture_size), "audio": self.audio.out_size(*self.mel_size)}
        for name, size in sizes.items():
            if size != (1, 1):
                inputs = self.picture_size if name == "visual" else self.mel_size
                raise OptionError(
                    f"SyncNet's {name} encoder makes {size[0]}x{size[1]} of its {inputs[0]}x{inputs[1]} input; "
                    "expected 1x1. Check resolution, lower_half, num_frames and downsample_factors."
                )

    @property
    def channels_per_frame(self) -> int:
        return self.visual.in_channels // self.num_frames

    @property
    def side(self) -> int:
        """Of the face, or of its latents."""
        return self.resolution // self.latent_ratio if self.latent else self.resolution

    @property
    def picture_size(self) -> tuple[int, int]:
        """Height and width that `embed_frames` expects."""
        return (self.side // 2 if self.lower_half else self.side), self.side

    @property
    def mel_size(self) -> tuple[int, int]:
        return NUM_MELS, mel_length(self.num_frames)


class StableSyncNet(nn.Module):
    """Tensor names are those of the released files."""

    def __init__(self, config: SyncNetConfig):
        super().__init__()
        self.config = config
        self.framing: Framing = "insightface"  # of the faces it was trained with
        self.audio_encoder = DownEncoder(config.audio, config.num_heads, config.norm_num_groups)
        self.visual_encoder = DownEncoder(config.visual, config.num_heads, config.norm_num_groups)

    @property
    def dtype(self) -> torch.dtype:
        return self.audio_encoder.conv_in.weight.dtype

    def embed_frames(self, stacked: Tensor) -> Tensor:
        """What `stack_frames` returns, (B, F*3, h, w) -> unit vectors (B, D), none of their numbers negative."""
        return F.normalize(self.visual_encoder(stacked).flatten(1).float(), dim=1)

    def embed_audio(self, mel: Tensor) -> Tensor:
        """(B, 1, 80, W) in [-4, 4] -> unit vectors (B, D), none of their numbers negative."""
        return F.normalize(self.audio_encoder(mel).flatten(1).float(), dim=1)

    def forward(self, stacked: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_frames(stacked), self.embed_audio(mel)


def stack_frames(frames: Tensor, config: SyncNetConfig) -> Tensor:
    """Aligned faces (B, C, F, H, W), pixels in [-1, 1] or latents, as the visual encoder takes them: (B, F*C, h, w).

    Another size than the config's is resized (bicubic, not antialiased, as the reference does); the lower half is taken
    where the config says so. Channels go frame by frame: R, G, B of the first, then of the second. Raises
    FrameCountError for another number of frames, OptionError for another number of channels.
    """
    if frames.shape[2] != config.num_frames:
        raise FrameCountError(f"{frames.shape[2]} frames were given; this SyncNet looks at {config.num_frames}.")
    if frames.shape[1] != config.channels_per_frame:
        kind = "latents" if config.latent else "pixels"
        raise OptionError(
            f"Frames of {frames.shape[1]} channels were given; this SyncNet looks at {kind} of "
            f"{config.channels_per_frame} channels."
        )
    return seen_part(rearrange(frames, "b c f h w -> b (f c) h w"), config)


def seen_part(pictures: Tensor, config: SyncNetConfig) -> Tensor:
    """Whole faces (N, C, H, W) at the size, and the part of them, that SyncNet looks at: (N, C, h, w)."""
    side = config.side
    if pictures.shape[-2:] != (side, side):
        pictures = F.interpolate(pictures, (side, side), mode="bicubic")
    return pictures[:, :, side // 2 :] if config.lower_half else pictures


class DownEncoder(nn.Module):
    """(B, C, h, w) -> (B, D, 1, 1), not negative."""

    def __init__(self, config: EncoderConfig, num_heads: int, num_groups: int):
        super().__init__()
        width = config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, width, 3, padding=1)
        self.down_blocks = nn.ModuleList()
        levels = zip(config.block_out_channels, config.downsample_factors, config.attention, strict=True)
        for out_channels, factor, attends in levels:
            self.down_blocks.append(ResidualBlock(width, out_channels, factor, num_groups))
            width = out_channels
            if attends:  # an entry of the list by itself, so that the numbers after it shift
                self.down_blocks.append(AttentionBlock(width, num_heads, num_groups))
        self.norm_out = nn.GroupNorm(num_groups, width, eps=EPS)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.conv_in(hidden)
        for block in self.down_blocks:
            hidden = block(hidden)
        return F.relu(self.norm_out(hidden))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, then a strided one where the factor is not 1."""

    def __init__(self, in_channels: int, out_channels: int, factor: Factor, num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, in_channels, eps=EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(num_groups, out_channels, eps=EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.padding = _padding(factor)
        self.downsample_conv = nn.Conv2d(out_channels, out_channels, 3, stride=_pair(factor)) if factor != 1 else None

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(hidden)))
        hidden = self.conv_shortcut(hidden) + self.conv2(F.silu(self.norm2(inner)))
        return hidden if self.downsample_conv is None else self.downsample_conv(F.pad(hidden, self.padding))


class AttentionBlock(nn.Module):
    """Self-attention over all places of a picture; with biases, unlike the U-Net's."""

    def __init__(self, channels: int, num_heads: int, num_groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, channels, eps=EPS)
        self.conv_in = nn.Conv2d(channels, channels, 1)
        self.norm2 = nn.LayerNorm(channels)
        self.attn = Attention(query_dim=channels, heads=num_heads, dim_head=channels // num_heads, bias=True)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels, activation_fn="geglu")
        self.conv_out = nn.Conv2d(channels, channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        height = hidden.shape[2]
        tokens = rearrange(self.conv_in(self.norm1(hidden)), "b c h w -> b (h w) c")
        tokens = tokens + self.attn(self.norm2(tokens))
        tokens = tokens + self.ff(self.norm3(tokens))
        return hidden + self.conv_out(rearrange(tokens, "b (h w) c -> b c h w", h=height))


def _pair(factor: Factor) -> tuple[int, int]:
    return (factor, factor) if isinstance(factor, int) else (factor[0], factor[1])


def _padding(factor: Factor) -> tuple[int, int, int, int]:
    """Zeros left, right, top and bottom before the strided convolution, as the reference has them."""
    rows, columns = _pair(factor)
    if rows == columns or (rows > 1 and columns > 1):
        return 0, 1, 0, 1
    return (0, 1, 1, 1) if rows == 1 else (1, 1, 0, 1)
