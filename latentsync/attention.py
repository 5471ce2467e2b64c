"""Attention of the U-Net: in slices where a device's kernels end, and for bf16 training on a CPU."""

import sys

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch.nn import functional as F

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
