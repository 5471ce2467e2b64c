"""Files of tensors: reading `.safetensors` and torch files without running code, writing them whole or not at all.

What a file is gets decided by its first bytes, not by its name.
"""

import contextlib
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import (
    DamagedCheckpointError,
    IncompleteCheckpointError,
    LatentSyncError,
    ModelNotFoundError,
    OutputError,
    UnsafeCheckpointError,
)
from .files import read_json
from .weight_limits import check_archive, check_header, check_pickles, check_tensors

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
# Parts of torch's messages for a pickle that wants more than tensors and plain containers.
UNSAFE_SIGNS = ("Unsupported global", "Unsupported class", "Unsupported operand", "not an allowed", "not allowed")
# What torch raises for files whose bytes were changed.
DAMAGE = (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError)
DAMAGE += (ArithmeticError, MemoryError)


def read_weights(path: str | Path) -> tuple[dict, dict[str, str]]:
    """Content and metadata of a weight file; tensors lie on the CPU and are mapped from disk where possible.

    Returns what was saved (a dict of tensors, possibly nested for torch files) and the text metadata of a safetensors
    file (empty for others). What the file claims is checked before memory is taken for it, see weight_limits.py.
    Raises ModelNotFoundError, DamagedCheckpointError and UnsafeCheckpointError.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "not there"
        raise ModelNotFoundError(f"The model file {path} is {what}. Check the path, or download the file.")
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise DamagedCheckpointError(f"{path} is empty. The download probably failed; download it again.")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30:
        check_header(path, head)
        content, metadata = _read_safetensors(path)
        check_tensors(path, content)
        return content, metadata
    if head.startswith((ZIP_MAGIC, PICKLE_MAGIC)):
        is_archive = head.startswith(ZIP_MAGIC)
        (check_archive if is_archive else check_pickles)(path)
        content = _read_torch(path, mapped=is_archive)
        check_tensors(path, content)
        return content, {}
    if head.startswith(b"version https://git-lfs"):
        reason = "a Git LFS pointer, not the file itself. Fetch it with `git lfs pull` or download it from its page"
    elif head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        reason = "a web page, not a model. Use the download link of the file instead of the address of its page"
    else:
        reason = "neither a torch nor a safetensors file. Expected a .pt, .ckpt or .safetensors model"
    raise DamagedCheckpointError(f"{path} is {reason}.")


def _read_safetensors(path: Path) -> tuple[dict, dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} is damaged or cut short ({error}). Download it again.") from error


def _read_torch(path: Path, mapped: bool) -> dict:
    try:
        if mapped and path.suffix != ".safetensors":  # torch goes by that suffix when it is given a path
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            with path.open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in UNSAFE_SIGNS):
            raise UnsafeCheckpointError(
                f"{path} holds Python objects besides tensors and was not loaded, because such a file can run code. "
                "Use the original file, or a .safetensors version of it."
            ) from error
        raise DamagedCheckpointError(f"{path} is damaged or not a torch file. Download it again.") from error
    except DAMAGE as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpointError(
            f"{path} is damaged or cut short ({first_line[:200]}). Download it again."
        ) from error
    if not isinstance(content, Mapping):
        raise DamagedCheckpointError(
            f"{path} holds a {type(content).__name__}, not named tensors. Expected a model checkpoint."
        )
    return dict(content)


def write_weights(path: str | Path, content: Mapping, metadata: Mapping[str, str] | None = None) -> None:
    """Write `content` as `.safetensors` (flat dict of tensors, with metadata) or as a torch file, by the suffix.

    The file appears complete or not at all. Raises OutputError.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            tensors = {key: value.detach().cpu().contiguous() for key, value in content.items()}
            save_file(tensors, part, metadata={"format": "pt", **(metadata or {})})
        else:
            torch.save(dict(content), part)
        os.replace(part, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            part.unlink()
        raise OutputError(f"{path} cannot be written: {error}. Check the folder's rights and free space.") from error


@contextlib.contextmanager
def building(path: str | Path, what: str) -> Iterator[None]:
    """Inside, a network is made as a file's shapes and description say: what cannot be made is the file's fault.

    Raises IncompleteCheckpointError, telling what was to be made.
    """
    try:
        yield
    except LatentSyncError:
        raise
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        first_line = (str(error).splitlines() or [""])[0][:200]
        raise IncompleteCheckpointError(
            f"{path} does not describe {what} that can be built ({type(error).__name__}: {first_line}). Download it "
            "again, together with the description beside it."
        ) from error


def read_sidecar(path: str | Path) -> dict:
    """The JSON object beside a weight file: `<stem>.json`, else `config.json`, else {}. Raises CheckpointError."""
    path = Path(path)
    for candidate in (path.with_suffix(".json"), path.with_name("config.json")):
        if candidate.is_file():
            content = read_json(candidate, what=f"describes {path.name}")
            return content if isinstance(content, dict) else {}
    return {}
