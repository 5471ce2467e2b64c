"""Tensor names of the U-Net: the reference's on one side, diffusers' on the other.

They differ in the motion modules (AnimateDiff's names), in the audio attention of version 1.0, and in the fixed
position tables, which the reference keeps once per attention and diffusers once per module.
"""

import re
from collections.abc import Mapping

import torch

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
