"""What suits a device: number format and exactness, memory for weights, CPU threads."""

import contextlib
import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakKeyDictionary

import diffusers
import torch
from diffusers import ModelMixin
from torch import nn

from ..errors import OptionError

# Number format, exactness and memory layout that suit a device.

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


# Less memory for the networks' weights, in exchange for time or a little precision; by diffusers' own hooks.

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


# How many CPU threads torch works with: one, but for large networks.
#
# Threads of OpenMP that wait for each other spin, and torch makes them wait after every layer. Where another program
# works beside, two threads take 2 to 30 times the CPU time of one in small networks, and more wall time as well; see
# docs/performance.md. The layers of a network of LARGE parameters or more take long enough for threads to pay: it gets
# those that torch had before. The rule asks for sizes and never for times, so equal runs stay equal.
#
#     with own_threads():                     # a run: one thread, in this and in its stages' threads
#         with threads_of(network):           # more where it is large
#             network(x)

LARGE = 30_000_000  # parameters; docs/performance.md lists the networks on either side
MOST = 1024  # threads that may be asked for

_for_large: ContextVar[int | None] = ContextVar("threads of large networks", default=None)  # None: outside of any run
_sizes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_turn = threading.RLock()  # of networks that use all there is: every core, or a graphics card and its memory
_guard = threading.Lock()  # of the two that follow
_runs, _found = 0, 1  # how many there are in the process, and torch's threads before the first


@contextmanager
def own_threads(count: int | None = None) -> Iterator[None]:
    """torch works with one thread here and large networks with as many as torch had; all with `count` if it is given.

    Afterwards torch has what it had. Within another such block only a `count` changes anything. Also a decorator of
    functions, not of generators. Raises OptionError.
    """
    global _runs, _found
    if count is not None:
        check_count(count)
    is_within = _for_large.get() is not None
    if is_within and count is None:
        yield
        return
    with _guard:
        if not _runs:  # a new thread beside another run would see what that one has set
            _found = torch.get_num_threads()
        _runs += 1
        before = torch.get_num_threads() if is_within else _found
    outer = _for_large.set(count or _found)
    torch.set_num_threads(count or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        _for_large.reset(outer)
        with _guard:
            _runs -= 1


def check_count(count: int) -> None:
    """Raises OptionError for a number of threads that cannot be asked for."""
    if not 1 <= count <= MOST:
        raise OptionError(f"{count} threads were asked for; expected 1 to {MOST}")


def thread_count(network: object) -> int:
    """The threads that a network gets here. What is no module of torch's, such as a host's VAE, counts as large."""
    for_large = _for_large.get()
    return torch.get_num_threads() if for_large is None or not _is_large(network) else for_large


@contextmanager
def threads_of(network: object) -> Iterator[None]:
    """torch works with the threads of this network here.

    Networks with several threads take turns, since two at once would have more threads than there are cores. So do
    those on a graphics card: two at once would need the memory of both, and a host's may put the others off the card.
    """
    count, before = thread_count(network), torch.get_num_threads()
    if _for_large.get() is None or (count == 1 and _is_on_the_cpu(network)):
        yield
        return
    with _turn:
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _is_large(network: object) -> bool:
    """Whether it is large and works on the CPU."""
    if not isinstance(network, nn.Module):
        return True
    if network not in _sizes:
        _sizes[network] = sum(parameter.numel() for parameter in network.parameters())
    return _sizes[network] >= LARGE and _is_on_the_cpu(network)


def _is_on_the_cpu(network: object) -> bool:
    """False where it is not known."""
    return isinstance(network, nn.Module) and all(
        parameter.device.type == "cpu" for parameter in itertools.islice(network.parameters(), 1)
    )
