"""Number format and memory layout that suit a device."""

import torch
from torch import nn


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX512-BF16, AMX); others emulate it, slower than float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent in older versions of torch
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def emulation_warning(device: torch.device | str, dtype: torch.dtype) -> str | None:
    """What to say where the CPU has no instructions for 16-bit numbers: measured 120 times float32's time there.

    device: where it computes, which need not be where it was loaded: ComfyUI moves models to the GPU later.
    """
    is_own = dtype == torch.float32 or (dtype == torch.bfloat16 and has_fast_bfloat16())
    if is_own or torch.device(device).type != "cpu":
        return None
    name = str(dtype).removeprefix("torch.")
    return f"this CPU only emulates {name}, which may take a hundred times as long; choose float32 or auto"


def suit_to_device(network: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Lay out the weights of convolutions as the device multiplies them fastest; changes results by rounding alone.

    In 16 bits that is channels last, for tensor cores and for the CPU's own instructions. Float32 stays as it is, and
    so to the bit what it always was.
    """
    if dtype != torch.float32 and torch.device(device).type in ("cpu", "cuda"):
        network.to(memory_format=torch.channels_last)
