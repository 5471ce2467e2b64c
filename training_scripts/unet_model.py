"""The U-Net that is trained: built or loaded, which of its tensors learn, an adapter in their place, recomputing."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from latentsync.errors import IncompleteCheckpointError, OptionError
from latentsync.files import sha256_of
from latentsync.model.checkpoints import UNSEEN_FIELDS, load_unet, unet_config_from_state_dict
from latentsync.model.loading import check_latents, save_lora
from latentsync.model.unet import LatentSyncUNet, to_reference_key
from latentsync.model.vae import STABLE_DIFFUSION, LatentSpace

from .config import LoRAConfig, ModelConfig

log = logging.getLogger(__name__)
MOTION_BLOCKS = {"off": "none", "all": "all", "decoder": "decoder"}
OF_LATENTS = "conv_in.", "conv_out."
CHECKPOINTED = (ResnetBlock2D, Transformer2DModel, AnimateDiffTransformer3D)


def build_unet(config: ModelConfig, latents: LatentSpace = STABLE_DIFFUSION) -> tuple[LatentSyncUNet, str]:
    """The U-Net to start from, float32, in training mode, and what its output means (see `ddim_scheduler`).

    latents: of ``config.vae``; with ``config.new_latents`` the initial U-Net may know others: the layers that meet
    them start anew.

    Of an initial file motion modules that the configuration does not want are left out, those that it wants and the
    file lacks start as the identity. Raises ModelNotFoundError and CheckpointError's subclasses.
    """
    motion = MOTION_BLOCKS[config.motion]
    if config.initial is None:
        unet = LatentSyncUNet(
            in_channels=latents.conditioned_channels,
            out_channels=latents.channels,
            motion_blocks=motion,
            block_out_channels=tuple(config.block_out_channels),
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
            num_attention_heads=config.num_attention_heads,
            motion_num_attention_heads=config.motion_num_attention_heads,
            cross_attention_dim=config.cross_attention_dim,
        )
        _begin_at_zero(unet)
        return unet.train(), config.prediction_type or "epsilon"
    loaded, facts = load_unet(config.initial, dtype=torch.float32)
    channels = {"in_channels": latents.conditioned_channels, "out_channels": latents.channels}
    if not config.new_latents:
        check_latents(config.initial, loaded, facts, config.vae, latents)
    if loaded.motion == motion and not config.new_latents:
        unet = loaded
        for parameter in unet.parameters():
            parameter.data = parameter.data.clone()  # a file may lie in memory as it is on disk
    else:
        unet = LatentSyncUNet(**{**sizes(loaded, loaded.state_dict()), **channels, "motion_blocks": motion})
        known = loaded.state_dict()
        if config.new_latents:
            _begin_at_zero(unet)
            known |= {key: tensor for key, tensor in unet.state_dict().items() if key.startswith(OF_LATENTS)}
        missing, unknown = unet.load_state_dict(known, strict=False)
        if strange := [key for key in (*missing, *unknown) if "motion_modules" not in key]:
            raise IncompleteCheckpointError(f"{config.initial} does not fit the U-Net: {', '.join(strange[:5])}")
        log.info("%s: %d motion tensors start anew, %d are left out", config.initial, len(missing), len(unknown))
    return unet.train(), config.prediction_type or facts.prediction_type


def _begin_at_zero(unet: LatentSyncUNet) -> None:
    """The layers that meet latents, as the reference starts."""
    for layer in (unet.conv_in, unet.conv_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def sizes(unet: LatentSyncUNet, tensors: Mapping[str, torch.Tensor]) -> dict:
    """Arguments of `LatentSyncUNet` for such a U-Net; tensors: its state dict, however it is spread at the moment."""
    return unet_config_from_state_dict(tensors, **{field: unet.config[field] for field in UNSEEN_FIELDS})


def choose_trainable(unet: nn.Module, parts: list[str]) -> list[nn.Parameter]:
    """Let only tensors learn whose name in the reference contains one of `parts` ("all": every one); returns those."""
    chosen = []
    for name, parameter in unet.named_parameters():
        learns = "all" in parts or any(part in to_reference_key(name) for part in parts)
        parameter.requires_grad_(learns)
        if learns:
            chosen.append(parameter)
    if not chosen:
        raise OptionError(f"model.trainable is {parts}, which no tensor's name contains; expected as motion_modules.")
    return chosen


def checkpoint_blocks(unet: LatentSyncUNet) -> None:
    """Recompute each residual block, transformer and motion module, the middle's too, in the backward pass.

    diffusers' own switch recomputes residual blocks only, where attention needs most of the memory.
    """
    for module in unet.modules():
        if isinstance(module, CHECKPOINTED):
            module.forward = partial(_recomputed, module.forward)


def _recomputed(forward, *args, **kwargs):
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def add_adapter(unet: LatentSyncUNet, config: LoRAConfig) -> list[nn.Parameter]:
    """Put an adapter, peft's layers, into the U-Net, in place.

    Returns what learns, which is all of the adapter and nothing else. It starts as no change: B is zero. Raises
    OptionError where no layer has such a name.
    """
    names = [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear)
        and name.endswith(tuple(config.layers))
        and (config.within == "all" or config.within in to_reference_key(f"{name}.weight"))
    ]
    if not names:
        raise OptionError(
            f"lora.layers {config.layers} within {config.within!r} are no linear layers of the U-Net; expected ends of "
            "names as to_q or to_out.0, and a part of the reference's names as attn2. or all"
        )
    inject_adapter_in_model(LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=names), unet)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def save_adapter(unet: LatentSyncUNet, tensors: dict, config: LoRAConfig, base: Path, path: Path) -> None:
    """Write the file that the product reads.

    tensors: the U-Net's state dict, however it is spread at the moment; base: the file that was adapted.
    """
    adapter = {
        key: tensor.detach().cpu() for key, tensor in get_peft_model_state_dict(unet, tensors).items() if "lora_" in key
    }
    told = {"peft_type": "LORA", "r": config.rank, "lora_alpha": config.alpha, "target_modules": config.layers}
    save_lora(path, adapter, told, base_sha256=sha256_of(base))
