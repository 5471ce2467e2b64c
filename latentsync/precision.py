"""Number format, exactness and memory layout that suit a device."""

import contextlib
import re
from collections.abc import Iterator

import torch
from torch import nn

VOLTA, AMPERE = (7, 0), (8, 0)  # compute capabilities: the first with tensor cores, the first with bfloat16
TURING = (7, 5)  # RTX 20 and T4 with tensor cores, GTX 16 and its like without
P100 = (6, 0)  # the only older one whose float16 is faster than its float32
TENSOR_TURING = re.compile(r"\bRTX\b|\b(T4G?|T10|T40)\b")


def card_dtype(name: str, capability: tuple[int, int]) -> torch.dtype:
    """float16 for an NVIDIA card that multiplies it fast and right, float32 for another.

    name: as torch.cuda.get_device_name tells, e.g. "NVIDIA GeForce RTX 3060". Pascal (GTX 10) and older take up to 64
    times float32's time; the Turing cards without tensor cores (GTX 16, T500, Quadro T2000) are known for NaN, so
    among those of Turing only names known for tensor cores count.
    """
    if capability == TURING:
        return torch.float16 if TENSOR_TURING.search(name) else torch.float32
    return torch.float16 if capability >= VOLTA or capability == P100 else torch.float32


def cuda_dtype(device: torch.device | str) -> torch.dtype:
    """`card_dtype` of a card of this machine; of AMD's, which torch calls CUDA too, float16."""
    if torch.version.hip:
        return torch.float16
    return card_dtype(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself (AVX512-BF16, AMX); others emulate it, slower than float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent in older versions of torch
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def format_warning(device: torch.device | str, dtype: torch.dtype) -> str | None:
    """What to say where a 16-bit format was asked for that the device is slow or wrong with.

    A CPU without instructions for it took 120 times float32's time. device: where it computes, which need not be where
    it was loaded: ComfyUI moves models to the GPU later.
    """
    name, kind = str(dtype).removeprefix("torch."), torch.device(device).type
    if dtype == torch.float32:
        return None
    if kind == "cpu" and not (dtype == torch.bfloat16 and has_fast_bfloat16()):
        return f"this CPU only emulates {name}, which may take a hundred times as long; choose float32 or auto"
    if kind != "cuda" or torch.version.hip:
        return None
    card, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    best = card_dtype(card, capability)
    if dtype == torch.float16 and best != dtype and capability >= VOLTA:
        return f"{card} has no tensor cores, and float16 may give black or broken faces on it; choose float32 or auto"
    if (dtype == torch.float16 and best != dtype) or (dtype == torch.bfloat16 and capability < AMPERE):
        return f"{card} is slow with {name}; auto takes {str(best).removeprefix('torch.')} on it"
    return None


@contextlib.contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Inside, float32 convolutions and matrix products may be rounded to TF32, or are float32 throughout.

    TF32 keeps 10 bits of 23 and is several times as fast, on NVIDIA cards from Ampere on. The settings are the whole
    process's, other people's code in it included: they are left as they were found, in whichever of torch's two ways
    they had been made. torch refuses to read them in the older way where the two contradict each other.
    """
    cpu, cards = _places(torch.backends.mkldnn, "matmul", "conv"), _places(torch.backends.cudnn, "conv", "rnn")
    cards += _places(torch.backends.cuda, "matmul")
    found = [(place, place.fp32_precision) for place in (*cpu, *cards)]
    try:
        products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    except RuntimeError:  # made in the newer way alone
        products = convolutions = None
    try:
        if products is not None:
            if not tf32:
                torch.set_float32_matmul_precision("highest")  # the CPU's too, which may be bfloat16
            elif products == "highest":
                torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.allow_tf32 = tf32
        for place in cards if tf32 else (*cpu, *cards):
            place.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
            torch.backends.cudnn.allow_tf32 = convolutions
        for place, precision in found:
            place.fp32_precision = precision


def _places(backend: object, *names: str) -> list:
    """Where torch 2.9 and newer keep the precision of a kind of operation; none in older ones."""
    places = (getattr(backend, name, None) for name in names)
    return [place for place in places if hasattr(place, "fp32_precision")]


def suit_to_device(network: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Lay out the weights of convolutions as the device multiplies them fastest; changes results by rounding alone.

    In 16 bits that is channels last, for tensor cores and for the CPU's own instructions. Float32 stays as it is, and
    so to the bit what it always was.
    """
    if dtype != torch.float32 and torch.device(device).type in ("cpu", "cuda"):
        network.to(memory_format=torch.channels_last)
