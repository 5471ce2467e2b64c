"""Errors a caller may want to tell apart.

Every message says what was given, what was expected and what to do about it, in words that can be shown to a
person without a stack trace.
"""

import errno
import re
import traceback

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


class DependencyError(LatentSyncError, ImportError):
    """A package that the work needs is missing or does not load."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error of Python's or of a library says, of the computer's memory or of a GPU's."""
    if isinstance(error, LatentSyncError):
        return False  # they say themselves what to do
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in OUT_OF_MEMORY_SIGNS)


def dependency_error(error: BaseException) -> DependencyError | None:
    """``error`` as a sentence about the package to blame, where it arose while something was imported; else None.

    A package in disorder may raise anything: what tells is the body of a module in the traceback.
    """
    if not (isinstance(error, ImportError) or _module_bodies(error)):
        return None
    while error.__cause__ is not None:  # libraries that import lazily wrap what happened
        error = error.__cause__
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and "." not in missing:
        return DependencyError(
            f"the package {missing} is missing. In this project's folder, with the Python that runs this: "
            "python -m pip install -r requirements.txt"
        )
    package = (getattr(error, "name", None) or next(reversed(_module_bodies(error)), "")).partition(".")[0]
    if not package or __name__.startswith(f"{package}."):
        return None  # this project's own fault
    said = re.sub(r" \(\S+\)$", "", (str(error).strip() or "no reason given").splitlines()[0])  # without a file's path
    advice = f"python -m pip install --force-reinstall --no-deps {package}"
    if package.startswith("torch"):
        advice = "install torch and torchvision again, in releases that belong together (python -m pip list shows them)"
    return DependencyError(
        f"the package {package} does not load ({type(error).__name__}: {said}): it is damaged "
        f"or does not fit another package. With the Python that runs this: {advice}"
    )


def _module_bodies(error: BaseException) -> list[str]:
    """Names of the modules that were being imported where ``error`` arose, the outermost first."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return [frame.f_globals.get("__name__", "") for frame in frames if frame.f_code.co_name == "<module>"]
