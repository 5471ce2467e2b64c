"""Weight files that claim more than they have: refused by what they say, before memory is taken for it."""

import io
import json
import pickle
import tracemalloc
import zipfile

import pytest
import torch

from latentsync.errors import DamagedCheckpointError, UnsafeCheckpointError
from latentsync.model.weights import read_weights

MiB = 2**20
TENSOR = {"conv_in.weight": torch.ones(4, 3)}


def saved(content, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def rezipped(content: bytes, edit=lambda name, data: data, compression=zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for item in old.infolist():
            new.writestr(item.filename, edit(item.filename, old.read(item)))
    return stream.getvalue()


def header(entries) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


class Calls:
    """Pickled, it calls."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def refused(tmp_path):
    """`refused(content, error)`: the message of a file with that content, for which no more than 40 MB were taken."""

    def read(content: bytes, error=DamagedCheckpointError) -> str:
        path = tmp_path / "model.pt"
        path.write_bytes(content)
        tracemalloc.start()
        try:
            with pytest.raises(error) as told:
                read_weights(path)
            assert tracemalloc.get_traced_memory()[1] < 40 * MiB
        finally:
            tracemalloc.stop()
        assert str(path) in str(told.value)
        assert len(str(told.value)) < 1000
        return str(told.value)

    return read


@pytest.mark.parametrize("member", ["data/0", "data.pkl", "none: only packed"])
def test_packed_records_are_not_unpacked(refused, member):
    zeros = bytes(64 * MiB)
    bomb = rezipped(saved(TENSOR), lambda name, data: zeros if name.endswith(member) else data)
    assert "packed records" in refused(bomb)


def test_records_that_share_the_same_bytes(refused):
    """Entries of the directory that point to one place, each as large as the file: the sum tells."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a/data/0", bytes(MiB))
        first = file.infolist()[0]
        for number in range(1, 64):
            again = zipfile.ZipInfo(f"a/data/{number}")
            again.file_size = again.compress_size = first.file_size
            again.CRC, again.header_offset = first.CRC, first.header_offset
            file.filelist.append(again)
    assert "bytes of records" in refused(stream.getvalue())


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "call", [Calls(bytearray, 1 << 36), Calls(torch.Tensor, 1 << 36), Calls(eval, "1 + 1"), Calls(len, "ran")]
)
def test_objects_besides_tensors_are_not_made(refused, call, old):
    """torch's own reader lets the first two through: they are made as large as the file says."""
    content = saved(TENSOR | {"more": call}, _use_new_zipfile_serialization=not old)
    assert "Python objects besides tensors" in refused(content, UnsafeCheckpointError)


def test_a_plain_pickle_is_not_read(refused):
    refused(pickle.dumps(Calls(eval, "1 + 1"), protocol=2), UnsafeCheckpointError)
    refused(pickle.dumps(Calls(eval, "1 + 1"), protocol=4), UnsafeCheckpointError)


def test_a_tensor_larger_than_its_file(refused):
    assert "claims tensors" in refused(saved({"conv_in.weight": torch.ones(1).expand(1 << 40)}))
    shared = torch.ones(MiB)
    assert "claims tensors" in refused(saved({f"layer.{i}": shared for i in range(50)}))
    one = saved({"conv_in.weight": torch.ones(1234)}, _use_new_zipfile_serialization=False)
    assert "1073741824 numbers" in refused(one.replace(b"M\xd2\x04", b"J\x00\x00\x00\x40"))


def test_layers_may_share_their_weights(tmp_path):
    shared = torch.ones(64)
    torch.save({"a": shared, "b": shared, "state_dict": {"c": shared.reshape(8, 8).T}}, tmp_path / "tied.pt")
    assert set(read_weights(tmp_path / "tied.pt")[0]) == {"a", "b", "state_dict"}


@pytest.mark.parametrize("old", [False, True])
def test_what_trainers_write_is_still_read(tmp_path, old):
    content = {
        "global_step": 5,
        "state_dict": {"a": torch.nn.Parameter(torch.ones(2)), "b": torch.ones(3, dtype=torch.bfloat16)},
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "optimizer": {"state": {0: {"step": 1}}},
        "name": b"bytes",
    }
    torch.save(content, tmp_path / "all.pt", _use_new_zipfile_serialization=not old)
    read, _ = read_weights(tmp_path / "all.pt")
    assert read["global_step"] == 5
    assert torch.equal(read["state_dict"]["b"], content["state_dict"]["b"])


def test_other_tensors_than_plain_ones(refused):
    refused(saved({"a": torch.ones(3, 3).to_sparse()}), UnsafeCheckpointError)
    refused(saved({"a": torch.ones(3, device="meta")}), UnsafeCheckpointError)
    assert "no text but int" in refused(saved({1: torch.ones(1)}))


def test_a_text_longer_than_its_file(refused):
    """Found by the fuzzer: reading it took the memory that it claims."""
    for opcode in (b"X\xff\xff\xff\x7f", b"T\xff\xff\xff\x7f", b"\x8d" + b"\xff\xff\xff\xff\x10\0\0\0"):
        long = b"\x80\x02" + opcode + b"abc."
        assert "bytes" in refused(long)
        packed = rezipped(saved(TENSOR), lambda n, d, x=long: x if n.endswith("data.pkl") else d, zipfile.ZIP_STORED)
        assert "bytes" in refused(packed)


def test_nesting_without_end(refused):
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    assert "nested more deeply" in refused(deep)
    assert "nested more deeply" in refused(b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".")
    packed = rezipped(saved(TENSOR), lambda n, d: deep if n.endswith("data.pkl") else d, zipfile.ZIP_STORED)
    assert "nested more deeply" in refused(packed)


def test_headers_of_safetensors(refused):
    huge = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    refused(header({"a": huge}) + bytes(16))
    refused(header({"a": {"dtype": "F32", "shape": [0, 1 << 50], "data_offsets": [0, 0]}}))
    assert "claims a header of 536870913 bytes" in refused(((1 << 29) + 1).to_bytes(8, "little") + b"{" + bytes(64))
    refused(header(b'{"a":' * 20_000 + b"1" + b"}" * 20_000))


def test_files_of_many_tensors_are_read(tmp_path):
    """As many as released networks have, in dicts of dicts, with torch's own metadata of each module."""
    network = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(1, 1)) for _ in range(2100)))
    assert len(network.state_dict()) == 4200
    for name, options in (("new.pt", {}), ("old.pt", {"_use_new_zipfile_serialization": False})):
        torch.save({"global_step": 3, "state_dict": network.state_dict()}, tmp_path / name, **options)
        assert len(read_weights(tmp_path / name)[0]["state_dict"]) == 4200
