"""What errors of other libraries mean."""

import errno

import cv2
import pytest
import torch

from latentsync.errors import BrokenResultError, OptionError, is_out_of_memory

# As users report them, shortened.
FULL = {
    "python": MemoryError(),
    "cuda": torch.cuda.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity .."
    ),
    "cuda, without words": torch.cuda.OutOfMemoryError(),
    "cuda driver": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported .."),
    "rocm": torch.cuda.OutOfMemoryError("HIP out of memory. Tried to allocate 20.00 MiB"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "mps": RuntimeError(
        "MPS backend out of memory (MPS allocated: 17.9 GB, other allocations: 64 MB, max allowed: ..)"
    ),
    "mps, one tensor": RuntimeError("Invalid buffer size: 24.00 GiB"),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried .."
    ),
    "cpu, windows": RuntimeError("[enforce fail at alloc_cpu.cpp:80] . DefaultCPUAllocator: not enough memory: you .."),
    "system": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "opencv": cv2.error("OpenCV(4.10.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
    "onnxruntime": RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
def test_full_memory_is_recognised(error):
    assert is_out_of_memory(error)


def test_what_this_machine_says_is_recognised():
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**50)
    assert is_out_of_memory(told.value)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device"),
        OptionError("clips_at_once is 20; expected 1 to 16, or the GPU is out of memory"),
        BrokenResultError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)
