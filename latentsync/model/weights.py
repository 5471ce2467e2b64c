"""Files of tensors: reading `.safetensors` and torch files without running code, writing them whole or not at all.

What a file is gets decided by its first bytes, not by its name.
"""

import contextlib
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import (
    CheckpointError,
    DamagedCheckpointError,
    ForeignCheckpointError,
    IncompleteCheckpointError,
    LatentSyncError,
    ModelNotFoundError,
    OutputError,
    UnsafeCheckpointError,
)
from ..files import read_json

# What a weight file may claim: checked before memory is taken for it, as far as the file's own text tells.
#
# A torch file is a pickle, plain or in a zip. torch's `weights_only` reader runs no code of it, but it allocates what
# the pickle asks for: a byte array of 64 GB, a tensor that shows one number 10^12 times, a packed record that swells.

MAX_HEADER = 32 * 2**20  # bytes of names, shapes and metadata; the largest models have 1 MB
MAX_HEIGHT = 20_000  # of a pickle's stack: dicts come in batches of 1000 pairs, and lie in each other
# What a pickle of tensors calls. torch's own list is longer, and holds what makes objects of any size.
_MODULES = {"torch", "torch.storage", "collections", "torch._utils", "torch.nn.parameter", "_codecs"}
_NAMES = {"OrderedDict", "Parameter", "Size", "device", "encode"}
_NAMES |= {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"}
_MEMORY_FACTOR = 4  # bytes of all tensors to bytes of the file: layers may share their weights, but not without end
_SLACK = 2**20


def check_header(path: Path, head: bytes) -> None:
    """The header of a safetensors file. Raises DamagedCheckpointError."""
    length = int.from_bytes(head[:8], "little")
    if length > min(MAX_HEADER, path.stat().st_size):
        raise DamagedCheckpointError(
            f"{path} claims a header of {length} bytes, more than the file or any model has. Download it again."
        )


def check_archive(path: Path) -> None:
    """A torch file in a zip: records lie there as they are, together no larger than the file, and so does its pickle.

    Raises DamagedCheckpointError and UnsafeCheckpointError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.filename.endswith("/constants.pkl") for record in records):
                raise UnsafeCheckpointError(
                    f"{path} is a TorchScript program, which was not run. Expected a file of tensors."
                )
            packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
            total = sum(record.file_size for record in records)
            if packed or total > path.stat().st_size:
                raise DamagedCheckpointError(
                    f"{path} holds {'packed records' if packed else f'{total} bytes of records'} and was not unpacked: "
                    "torch writes them as they are. Use the original file."
                )
            for record in records:
                if record.filename.endswith("data.pkl"):
                    _check_size(path, record.file_size)
                    with archive.open(record) as file:
                        _check_pickle(path, file)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError, OverflowError) as error:
        raise DamagedCheckpointError(f"{path} is damaged or cut short ({error}). Download it again.") from error
    except RuntimeError as error:  # zipfile's word for an encrypted record
        raise DamagedCheckpointError(f"{path} cannot be read ({error}). Use the original file.") from error


def check_pickles(path: Path) -> None:
    """A torch file of the old kind: five pickles, and then the numbers. Raises as `check_archive`."""
    with path.open("rb") as file:
        for _ in range(5):
            _check_pickle(path, file)
            _check_size(path, file.tell(), "before its tensors")


def _check_size(path: Path, size: int, where: str = "in its list of tensors") -> None:
    if size > MAX_HEADER:
        raise DamagedCheckpointError(f"{path} has {size} bytes {where}, more than any model. Use the original file.")


def _check_pickle(path: Path, file: BinaryIO) -> None:
    """One pickle, read by its opcodes, none of which is carried out."""
    size, number, stack = path.stat().st_size, None, _Stack()
    for opcode, argument in _opcodes(path, file):
        name = opcode.name
        if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            if name != "GLOBAL" or not _is_known(argument):
                raise UnsafeCheckpointError(
                    f"{path} holds Python objects besides tensors ({str(argument)[:80]}) and was not loaded, because "
                    "such a file can run code. Use the original file, or a .safetensors version of it."
                )
        elif name == "BINPERSID" and number is not None and number > size:
            raise DamagedCheckpointError(
                f"{path} claims a tensor of {number} numbers, more than the file has bytes. Download it again."
            )
        number = argument if isinstance(argument, int) and "PUT" not in name and "GET" not in name else number
        if stack.after(opcode) > MAX_HEIGHT:
            raise DamagedCheckpointError(f"{path} is nested more deeply than any model. Use the original file.")


class _Stack:
    """How high the stack of the machine that reads a pickle would be: what lies in each other lies on it at once."""

    def __init__(self):
        self._height, self._marks = 0, []

    def after(self, opcode: pickletools.OpcodeInfo) -> int:
        taken, given = opcode.stack_before, opcode.stack_after
        if opcode.name == "MARK":
            self._marks.append(self._height)
        elif pickletools.markobject in taken:
            self._height = (self._marks.pop() if self._marks else 0) - taken.index(pickletools.markobject) + len(given)
        else:
            self._height += len(given) - len(taken)
        return self._height + len(self._marks)


class _Bounded:
    """A file of which no more is read at once than it can hold: memory is taken before a read finds its end."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, number: int) -> bytes:
        if number > self._size:
            raise ValueError(f"a text of {number} bytes")
        return self._file.read(number)


def _opcodes(path: Path, file: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, object]]:
    try:
        for opcode, argument, _ in pickletools.genops(_Bounded(file, path.stat().st_size)):
            yield opcode, argument
    except (ValueError, UnicodeDecodeError, OverflowError, EOFError) as error:
        reason = str(error)[:200]
        raise DamagedCheckpointError(f"{path} is damaged or not a torch file ({reason}). Download it again.") from error


def _is_known(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    if module not in _MODULES:
        return False
    known = (
        attribute in _NAMES or attribute.endswith("Storage") or isinstance(getattr(torch, attribute, 0), torch.dtype)
    )
    return known and attribute != "TypedStorage"


def check_tensors(path: Path, content: Mapping) -> None:
    """What was read: named by text, and no larger in memory than the file can be. Raises DamagedCheckpointError."""
    size, total = path.stat().st_size, 0
    for name, tensor in _named(path, content):
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise DamagedCheckpointError(
                f"{path}: the tensor {name[:200]} is {tensor.layout} on {tensor.device}; expected numbers, as "
                "they are. Use the original file."
            )
        total += tensor.numel() * tensor.element_size()
        if max(tensor.shape, default=0) > size or total > _MEMORY_FACTOR * size + _SLACK:
            raise DamagedCheckpointError(
                f"{path} has {size} bytes and claims tensors beyond that: {name[:200]} is {tuple(tensor.shape)}. "
                "Use the original file."
            )


def _named(path: Path, content: Mapping, depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a file, and of the dicts in it, where trainers put them."""
    for name, value in content.items():
        if not isinstance(name, str):
            raise DamagedCheckpointError(
                f"{path} holds a name that is no text but {type(name).__name__}. Expected named tensors."
            )
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, Mapping) and depth == 0:
            yield from _named(path, value, depth + 1)


# Reading and writing

NAMES_SHOWN = 5  # of tensors, in a message
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
    file (empty for others). What the file claims is checked before memory is taken for it.
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


def check_fit(
    tensors: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    told: str,
    advice: str = "Download it again.",
    shown: Callable[[str], str] = str,
) -> None:
    """See that a file's tensors are those of a network, by name and shape.

    expected  the network's own, as its state dict; it may lie on "meta"
    told      what does not fit what, for the message: "x.pt does not fit the U-Net that its layers describe"
    shown     makes a name one that stands in the file
    Raises IncompleteCheckpointError, which names missing, unknown and misshapen tensors.
    """
    refuse_misfits(
        {
            "missing": [key for key in expected if key not in tensors],
            "unknown": [key for key in tensors if key not in expected],
            "of another shape": [
                key for key in expected if key in tensors and tensors[key].shape != expected[key].shape
            ],
        },
        told,
        advice,
        shown,
    )


def refuse_misfits(
    faults: Mapping[str, Collection[str]], told: str, advice: str, shown: Callable[[str], str] = str
) -> None:
    """Raise the same for what another reader found: names by fault, as "missing"; all empty where the file fits."""
    listed = [
        f"{len(keys)} tensors are {fault}: {some_names(map(shown, keys))}" for fault, keys in faults.items() if keys
    ]
    if listed:
        raise IncompleteCheckpointError(f"{told}: {'; '.join(listed)}. {advice}")


def some_names(names: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    names = list(names)
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def load_strictly(network: torch.nn.Module, tensors: Mapping, path: str | Path, sign: str) -> torch.nn.Module:
    """The network with exactly the tensors of a file; `sign` is a key that tells whether it is of this kind."""
    expected = network.state_dict()
    if sign not in tensors:
        raise ForeignCheckpointError(
            f"{path} is no {type(network).__name__}: it has no tensor {sign}. Give the file that the table of "
            "docs/evaluation.md names."
        )
    told = f"{path} does not fit {type(network).__name__}, which has {len(expected)} tensors"
    check_fit(tensors, expected, told, "Download the file again.")
    network.load_state_dict(dict(tensors))
    return network.requires_grad_(False)


def read_sidecar(path: str | Path) -> dict:
    """The JSON object beside a weight file: `<stem>.json`, else `config.json`, else {}. Raises CheckpointError."""
    path = Path(path)
    for candidate in (path.with_suffix(".json"), path.with_name("config.json")):
        if candidate.is_file():
            content = read_json(candidate, what=f"describes {path.name}")
            return content if isinstance(content, dict) else {}
    return {}
