"""What a weight file may claim: checked before memory is taken for it, as far as the file's own text tells.

A torch file is a pickle, plain or in a zip. torch's `weights_only` reader runs no code of it, but it allocates what the
pickle asks for: a byte array of 64 GB, a tensor that shows one number 10^12 times, a packed record that swells.
"""

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from .errors import CheckpointError, DamagedCheckpointError, UnsafeCheckpointError

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
