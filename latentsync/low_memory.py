"""Less memory for the networks' weights, in exchange for time or a little precision; by diffusers' own hooks."""

import diffusers
import torch
from diffusers import ModelMixin

from .errors import OptionError

# fp8: weights rest in 8 bits (e4m3) and are widened layer by layer: half of bfloat16's memory, a small error.
# offload: weights rest in the computer's memory and go to the GPU layer by layer: exact, slower.
LOW_MEMORY = ("none", "fp8", "offload")


def save_memory(network: ModelMixin, how: str, device: torch.device, dtype: torch.dtype) -> None:
    """Change how the weights of a network are kept; it is called as before. Nothing more may be merged into it.

    how: one of LOW_MEMORY; device: where it computes; dtype: in what. Norms stay in `dtype`. Raises OptionError for
    another name, and for "offload" without a GPU.
    """
    if how not in LOW_MEMORY:
        raise OptionError(f"low_memory is {how!r}; expected one of {', '.join(LOW_MEMORY)}")
    if how == "fp8":
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    if how == "offload":
        if device.type == "cpu":
            raise OptionError("low_memory is 'offload', but the networks run on the CPU already; try 'fp8'")
        offload_leaves(network, device)


def offload_leaves(network: ModelMixin, device: torch.device) -> None:
    """Keep weights in the computer's memory and bring each layer's to the device when it is called.

    By leaves and not by blocks: the U-Net calls the layers of its last block alone where deep features are kept.
    """
    # With streams diffusers below 0.37 fails from the second call on; without, its copies wait for the computing.
    has_streams = tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 37)
    network.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=device.type == "cuda" and has_streams,
    )


def free_unused() -> None:
    """Give back what torch keeps of the GPUs' memory for later, to other programs and to what needs it in one piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
