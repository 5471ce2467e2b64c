"""LatentSync's U-Net: diffusers' AnimateDiff U-Net with the normalisations LatentSync was trained with.

The tensor names and shapes equal the reference's after the renames below. Two things that no key shows
differ from diffusers: the GroupNorms of the residual blocks and of the output take their statistics over all frames of
a clip, those of the motion modules over one frame.
"""

import re
import sys
from collections.abc import Mapping, Sequence

import torch
from diffusers import UNetMotionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D, UNetMotionOutput
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from ..errors import OptionError

# Tensor names of the U-Net: the reference's on one side, diffusers' on the other.
#
# They differ in the motion modules (AnimateDiff's names), in the audio attention of version 1.0, and in the fixed
# position tables, which the reference keeps once per attention and diffusers once per module.

# Inside motion modules: reference -> diffusers.
MOTION_NAMES = {
    "attention_blocks.0.pos_encoder.pe": "pos_embed.pe",
    "attention_blocks.0": "attn1",
    "attention_blocks.1": "attn2",
    "norms.0": "norm1",
    "norms.1": "norm2",
    "ff_norm": "norm3",
}
SECOND_TABLE = "attention_blocks.1.pos_encoder.pe"
VERSION_1_0_NAMES = {".audio_cross_attn.norm.": ".norm2.", ".audio_cross_attn.attn.": ".attn2."}
MOTION_PREFIX = re.compile(r"^((?:down|up)_blocks\.\d+\.motion_modules\.\d+)\.(?:temporal_transformer\.)?(.+)$")
BLOCK_PREFIX = re.compile(r"^(transformer_blocks\.\d+)\.(.+)$")


def from_reference_keys(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename tensors of any released version to those of `LatentSyncUNet`; names already converted pass unchanged."""
    return {name: tensor for key, tensor in state_dict.items() if (name := from_reference_key(key)) is not None}


def from_reference_key(key: str) -> str | None:
    """The name in `LatentSyncUNet`, or None for the second copy of a position table."""
    motion = MOTION_PREFIX.match(key)
    if motion is None:
        for old, new in VERSION_1_0_NAMES.items():
            key = key.replace(old, new)
        return key
    module, rest = motion.groups()
    if block := BLOCK_PREFIX.match(rest):
        number, inner = block.groups()
        if inner == SECOND_TABLE:
            return None
        for old, new in MOTION_NAMES.items():
            if inner == old or inner.startswith(old + "."):
                inner = new + inner[len(old) :]
                break
        rest = f"{number}.{inner}"
    return f"{module}.{rest}"


def to_reference_keys(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename tensors of `LatentSyncUNet` to the reference's 1.5/1.6 names, position tables twice as it has them."""
    renamed = {}
    for key, tensor in state_dict.items():
        name = to_reference_key(key)
        renamed[name] = tensor
        if name.endswith("attention_blocks.0.pos_encoder.pe"):
            renamed[name.replace("attention_blocks.0", "attention_blocks.1")] = tensor.clone()
    return renamed


def to_reference_key(key: str) -> str:
    """The reference's 1.5/1.6 name of a tensor of `LatentSyncUNet`."""
    motion = MOTION_PREFIX.match(key)
    if motion is None:
        return key
    module, rest = motion.groups()
    if block := BLOCK_PREFIX.match(rest):
        number, inner = block.groups()
        for old, new in MOTION_NAMES.items():
            if inner == new or inner.startswith(new + "."):
                inner = old + inner[len(new) :]
                break
        rest = f"{number}.{inner}"
    return f"{module}.temporal_transformer.{rest}"


# Attention of the U-Net: in slices where a device's kernels end, and for bf16 training on a CPU.

# By kind of device, how many pairs of a row and a head, and how many scores, one call of torch's attention may have.
# CUDA's kernels number the pairs in a dimension of their grid that ends there: motion modules have a row for each
# latent of each clip, so a guided call at 512 px has one pair more. Apple's fail at 2^32 scores, as many as that
# call's largest spatial attention has, and hold all of them in memory: a quarter at a time.
MOST_PAIRS = {"cuda": 65_535}
MOST_SCORES = {"mps": 2**30}


class SlicedAttention(AttnProcessor2_0):
    """Attention processor that takes some rows at a time where the device does not bear all; else diffusers' own.

    Projections are not sliced: whatever moves weights to the device is asked for each of them once. Only for the
    U-Net's own attentions: no masks, no norms inside.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        **settings,
    ) -> torch.Tensor:
        """(N, L, C), context (N, K, D) or None for self-attention -> (N, L, C)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        rows = rows_at_once(hidden_states.device, attn.heads, hidden_states.shape[1], context.shape[1])
        if rows >= len(hidden_states):
            return super().__call__(attn, hidden_states, encoder_hidden_states, **settings)
        parts = (
            rearrange(projected, "n l (heads d) -> n heads l d", heads=attn.heads).split(rows)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        mixed = torch.cat([F.scaled_dot_product_attention(*part) for part in zip(*parts, strict=True)])
        return attn.to_out[1](attn.to_out[0](rearrange(mixed, "n heads l d -> n l (heads d)")))


def rows_at_once(device: torch.device, heads: int, length: int, context_length: int) -> int:
    """How many rows of (length, C) torch's attention takes together there, at least 1."""
    pairs = MOST_PAIRS.get(device.type, sys.maxsize)
    scores = MOST_SCORES.get(device.type, sys.maxsize)
    return max(1, min(pairs // heads, scores // (heads * length * context_length)))


class Float32Attention:
    """Attention processor whose products are float32 while the projections follow autocast.

    torch's bf16 attention kernel for CPUs is up to ten times slower than its float32 one on the 50 audio tokens and on
    short clips; with this, a bf16 training step of a small U-Net takes about three quarters of the time. Use:
    `unet.set_attn_processor(Float32Attention())`. Only for the U-Net's own attentions: no masks, no norms inside.
    """

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None, **_
    ) -> torch.Tensor:
        """(N, L, C), context (N, K, D) or None for self-attention -> (N, L, C)."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            rearrange(projected, "n l (heads d) -> n heads l d", heads=attn.heads).float()
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        with torch.autocast(hidden_states.device.type, enabled=False):
            mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = rearrange(mixed, "n heads l d -> n l (heads d)").to(hidden_states.dtype)
        return attn.to_out[1](attn.to_out[0](mixed))


# The network

# Channel order of the input: noisy latents, mask (1 = keep, 0 = repaint), masked latents, reference latents; for the
# latents of Stable Diffusion. Of C channels: 3 C + 1.
IN_CHANNELS = 4 + 1 + 4 + 4
OUT_CHANNELS = 4
MOTION_NORM_GROUPS = 32  # in the reference's motion modules, whatever `norm_num_groups` is elsewhere
MAX_FRAMES = 24  # rows of the position table in the released checkpoints


class ClipGroupNorm(nn.GroupNorm):
    """GroupNorm over all frames of a clip: (B*F, C, H, W) -> same, statistics over (group channels, F, H, W).

    `num_frames` is set by the U-Net's forward. The native kernel on a transposed copy is faster, forward and backward,
    than statistics taken by hand.
    """

    num_frames = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.num_frames == 1:
            return super().forward(x)
        clips = x.unflatten(0, (-1, self.num_frames)).transpose(1, 2)  # B C F H W
        return super().forward(clips).transpose(1, 2).flatten(0, 1)


class FrameGroupNorm(nn.GroupNorm):
    """GroupNorm per frame: (B, C, F, H, W) -> same, statistics over (group channels, H, W)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = super().forward(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(frames, "(b f) c h w -> b c f h w", f=x.shape[2])


class NoMotion(nn.Module):
    """Stands where a block has no motion module: (B*F, C, H, W) -> same."""

    def forward(self, hidden_states: torch.Tensor, **_) -> torch.Tensor:
        return hidden_states


def motion_block_names(placement: str | Sequence[str], num_levels: int) -> tuple[str, ...]:
    """Names of the blocks that have motion modules.

    `placement` is "none", "all" (every down and up block, not the middle: the released 1.5 and 1.6), "decoder" (up
    blocks: the reference's stage2_efficient) or the names themselves, such as `["down_blocks.0", "up_blocks.2"]`.
    Raises OptionError.
    """
    up = tuple(f"up_blocks.{level}" for level in range(num_levels))
    every = tuple(f"down_blocks.{level}" for level in range(num_levels)) + up
    named = {"none": (), "all": every, "decoder": up}
    if isinstance(placement, str):
        if placement not in named:
            raise OptionError(f"motion_blocks is {placement!r}; expected one of {sorted(named)} or a list of blocks.")
        return named[placement]
    unknown = sorted(set(placement) - set(every))
    if unknown:
        raise OptionError(f"motion_blocks names {unknown}, but this U-Net has the blocks {list(every)}.")
    return tuple(block for block in every if block in set(placement))


def motion_placement(blocks: Sequence[str], num_levels: int) -> str | list[str]:
    """The shortest way to write a set of motion blocks; the inverse of `motion_block_names`."""
    for placement in ("none", "all", "decoder"):
        if set(blocks) == set(motion_block_names(placement, num_levels)):
            return placement
    return sorted(blocks)


class LatentSyncUNet(UNetMotionModel):
    """Noise prediction for clips of face latents, conditioned on audio tokens.

    Args:
        block_out_channels: channels of each level; the sizes of `attention_levels` and of the blocks follow it.
        attention_levels: whether each level has spatial and audio attention; None = all but the deepest. The middle
            block always has.
        motion_blocks: see `motion_block_names`.
        norm_num_groups: groups of all GroupNorms but the motion modules', which have `motion_norm_num_groups`.
        num_attention_heads: number of heads of spatial and audio attention (the reference's configuration calls this
            number `attention_head_dim`).
        motion_num_attention_heads: of the motion modules; None = as many.
        cross_attention_dim: width D of the audio tokens.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = IN_CHANNELS,
        out_channels: int = OUT_CHANNELS,
        block_out_channels: Sequence[int] = (320, 640, 1280, 1280),
        layers_per_block: int = 2,
        attention_levels: Sequence[bool] | None = None,
        motion_blocks: str | Sequence[str] = "all",
        motion_max_seq_length: int = MAX_FRAMES,
        norm_num_groups: int = 32,
        motion_norm_num_groups: int = MOTION_NORM_GROUPS,
        norm_eps: float = 1e-5,
        num_attention_heads: int = 8,
        motion_num_attention_heads: int | None = None,
        cross_attention_dim: int = 384,
    ):
        levels = len(block_out_channels)
        attention = [True] * (levels - 1) + [False] if attention_levels is None else list(attention_levels)
        if len(attention) != levels:
            raise OptionError(f"attention_levels has {len(attention)} entries for {levels} levels.")
        down_types = [("CrossAttn" if has else "") + "DownBlockMotion" for has in attention]
        up_types = [("CrossAttn" if has else "") + "UpBlockMotion" for has in reversed(attention)]
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=tuple(down_types),
            up_block_types=tuple(up_types),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
            cross_attention_dim=cross_attention_dim,
            num_attention_heads=num_attention_heads,
            motion_num_attention_heads=motion_num_attention_heads or num_attention_heads,
            motion_max_seq_length=motion_max_seq_length,
            use_motion_mid_block=False,
        )
        self.motion_block_names = motion_block_names(motion_blocks, levels)
        for kind in ("down_blocks", "up_blocks"):
            for level, block in enumerate(getattr(self, kind)):
                if f"{kind}.{level}" not in self.motion_block_names:
                    block.motion_modules = nn.ModuleList(NoMotion() for _ in block.motion_modules)
        self._clip_norms = self._replace_norms(motion_norm_num_groups)
        self.set_attn_processor(SlicedAttention())

    def _replace_norms(self, motion_groups: int) -> list[ClipGroupNorm]:
        clip_norms = []

        def over_clip(norm: nn.GroupNorm) -> ClipGroupNorm:
            clip_norms.append(ClipGroupNorm(norm.num_groups, norm.num_channels, norm.eps))
            return clip_norms[-1]

        self.conv_norm_out = over_clip(self.conv_norm_out)
        for module in self.modules():
            if isinstance(module, ResnetBlock2D):
                module.norm1, module.norm2 = over_clip(module.norm1), over_clip(module.norm2)
            elif isinstance(module, AnimateDiffTransformer3D):
                module.norm = FrameGroupNorm(motion_groups, module.norm.num_channels, module.norm.eps)
                # A new motion module starts as the identity, as in the reference.
                nn.init.zeros_(module.proj_out.weight)
                nn.init.zeros_(module.proj_out.bias)
        return clip_norms

    @property
    def motion(self) -> str | list[str]:
        """ "none", "all", "decoder", or the list of blocks with motion modules."""
        return motion_placement(self.motion_block_names, len(self.config.block_out_channels))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        return_dict: bool = True,
        *,
        keep_deep_features: bool = False,
        deep_features: torch.Tensor | None = None,
    ) -> UNetMotionOutput | tuple[torch.Tensor, ...]:
        """Predict the noise in `sample`.

        Nearly all of the work goes into deep features, (B*F, C, h, w), which change little from one denoising step to
        the next. Those of one call may stand in for the next ones' (DeepCache, arXiv:2312.00858, at its cheapest
        branch): then only conv_in, the last layer of the last up block and the output layers run.

        Args:
            sample: (B, 13, F, h, w): noisy latents, mask (1 = keep), masked latents, reference latents.
            timestep: a number, a 0-dim tensor or (B,); one for all frames of a clip.
            encoder_hidden_states: audio tokens (B*F, K, D), the frames of a clip together, or (B, F, K, D).
            keep_deep_features: also return the deep features, as the last of a tuple.
            deep_features: those of an earlier call with the same B and F, in place of new ones.

        Returns an object whose `.sample` is (B, C, F, h, w), or a tuple of it. Raises OptionError when there are more
        frames than the motion modules know positions for.
        """
        num_frames = sample.shape[2]
        if self.motion_block_names and num_frames > self.config.motion_max_seq_length:
            raise OptionError(
                f"A chunk of {num_frames} frames was given, but this U-Net's motion modules know "
                f"{self.config.motion_max_seq_length} positions. Use chunks of at most that many frames."
            )
        if encoder_hidden_states.ndim == 4:
            encoder_hidden_states = encoder_hidden_states.flatten(0, 1)
        for norm in self._clip_norms:
            norm.num_frames = num_frames
        if deep_features is not None:
            predicted = self._from_deep_features(deep_features, sample, timestep, encoder_hidden_states)
            return UNetMotionOutput(sample=predicted) if return_dict else (predicted,)
        if not keep_deep_features:
            return super().forward(sample, timestep, encoder_hidden_states, return_dict=return_dict)
        kept: list[torch.Tensor] = []
        hook = self.up_blocks[-1].motion_modules[-2].register_forward_hook(lambda *seen: kept.append(seen[-1]))
        try:
            (predicted,) = super().forward(sample, timestep, encoder_hidden_states, return_dict=False)
        finally:
            hook.remove()
        return predicted, kept[0]

    def _from_deep_features(
        self, deep_features: torch.Tensor, sample: torch.Tensor, timestep: torch.Tensor | float, tokens: torch.Tensor
    ) -> torch.Tensor:
        """The part of a call that comes after the last up block's last layer but one."""
        clips, _, num_frames = sample.shape[:3]
        if len(deep_features) != clips * num_frames:
            raise ValueError(f"deep features of {len(deep_features)} frames were given for {clips * num_frames}")
        block = self.up_blocks[-1]
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(clips)
        embedded = self.time_embedding(self.time_proj(timesteps).to(self.dtype)).repeat_interleave(num_frames, dim=0)
        skip = self.conv_in(rearrange(sample, "b c f h w -> (b f) c h w"))
        hidden = block.resnets[-1](torch.cat((deep_features, skip), dim=1), embedded)
        if hasattr(block, "attentions"):
            hidden = block.attentions[-1](hidden, encoder_hidden_states=tokens, return_dict=False)[0]
        hidden = block.motion_modules[-1](hidden, num_frames=num_frames)
        hidden = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return rearrange(hidden, "(b f) c h w -> b c f h w", b=clips)
