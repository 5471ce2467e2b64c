"""Errors a caller may want to tell apart.

Every message says what was given, what was expected and what to do about it, in words that can be shown to a
person without a stack trace.
"""

import errno

# Parts, in lower case, of what others say, often in a plain RuntimeError.
OUT_OF_MEMORY_SIGNS = (
    "outofmemoryerror",  # torch's own class
    "out of memory",  # torch on CUDA, ROCm, MPS and XPU; CUDA's driver
    "_status_alloc_failed",  # cuBLAS, cuDNN
    "can't allocate memory",  # torch on the CPU
    "not enough memory",  # the same on Windows
    "invalid buffer size",  # MPS, of a tensor larger than it can hold
    "insufficient memory",  # OpenCV
    "failed to allocate memory",  # onnxruntime
)


class LatentSyncError(Exception):
    """Base of all errors raised on purpose by this package."""


class OptionError(LatentSyncError, ValueError):
    """An option is out of its range or contradicts another."""


class MediaError(LatentSyncError, ValueError):
    """A video file cannot be read or has no usable frames."""


class AudioError(MediaError):
    """An audio file or tensor cannot be read or has no samples."""


class FaceNotFoundError(LatentSyncError, ValueError):
    """No face was found in any frame."""


class FrameCountError(LatentSyncError, ValueError):
    """Things that belong together, frame by frame, differ in their numbers of frames."""


class BrokenResultError(LatentSyncError, RuntimeError):
    """What the networks made is no picture of a face: a wrong number format, a damaged or a wrong model file."""


class OutputError(LatentSyncError, OSError):
    """The result cannot be written."""


class Cancelled(LatentSyncError):
    """The caller asked to stop."""


class ModelNotFoundError(LatentSyncError, FileNotFoundError):
    """A model file that is needed is not there."""


class CheckpointError(LatentSyncError, ValueError):
    """A checkpoint cannot be used; subclasses say why."""


class ForeignCheckpointError(CheckpointError):
    """The file holds another kind of model."""


class IncompleteCheckpointError(CheckpointError):
    """Tensors are missing, unknown or of the wrong shape."""


class DamagedCheckpointError(CheckpointError):
    """The file is truncated or not a checkpoint at all."""


class UnsafeCheckpointError(CheckpointError):
    """The file is a pickle that holds more than tensors."""


class DownloadError(LatentSyncError, OSError):
    """A file cannot be fetched, or what came is not the file that was meant."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error of Python's or of a library says, of the computer's memory or of a GPU's."""
    if isinstance(error, LatentSyncError):
        return False  # they say themselves what to do
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY_SIGNS)
