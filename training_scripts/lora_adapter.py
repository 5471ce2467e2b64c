"""The trained form of an adapter: peft's layers in the U-Net, and the file that latentsync/model/loading.py reads."""

from pathlib import Path

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from torch import nn

from latentsync.errors import OptionError
from latentsync.files import sha256_of
from latentsync.model.loading import save_lora
from latentsync.model.unet import LatentSyncUNet, to_reference_key

from .config import LoRAConfig


def add_adapter(unet: LatentSyncUNet, config: LoRAConfig) -> list[nn.Parameter]:
    """Put an adapter into the U-Net, in place; returns what learns, which is all of the adapter and nothing else.

    It starts as no change: B is zero. Raises OptionError where no layer has such a name.
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
    """tensors: the U-Net's state dict, however it is spread at the moment; base: the file that was adapted."""
    adapter = {
        key: tensor.detach().cpu() for key, tensor in get_peft_model_state_dict(unet, tensors).items() if "lora_" in key
    }
    told = {"peft_type": "LORA", "r": config.rank, "lora_alpha": config.alpha, "target_modules": config.layers}
    save_lora(path, adapter, told, base_sha256=sha256_of(base))
