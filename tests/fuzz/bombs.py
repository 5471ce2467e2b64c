"""Files that are made, not damaged: well-formed enough to be opened, and built to exhaust whoever believes them."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator

import numpy as np
import torch

from .samples import Sample

MiB = 1 << 20
DESCRIPTIONS = ("unet_sidecar", "vae_config", "adapter_config", "model_description", "manifest")
DESCRIPTIONS += ("batch_results", "report", "draft_decoder")


def make_bombs(samples: list[Sample]) -> Iterator[Sample]:
    """All of them, each as a Sample to be read like an intact one."""
    by_name = {f"{sample.kind}/{sample.name}": sample for sample in samples}
    weights = [*_torch_bombs(), *_safetensors_bombs()]
    for kind in ("unet", "whisper", "vae", "lora", "syncnet", "restorer"):
        yield from (Sample(name, kind, content) for name, content in weights)
    for kind in DESCRIPTIONS:
        like = next(sample for sample in samples if sample.kind == kind)
        for name, content in _json_bombs(like.content):
            yield Sample(name, kind, content, like.companions)
    yield from _name_bombs(by_name)
    for name, content in _tables():
        yield Sample(name, "jobs", content)
    for name, content in _pictures():
        yield Sample(name, "picture", content)
    for name, content in _tracks(by_name):
        like = next(sample for sample in samples if sample.kind == "tracks")
        yield Sample(name, "tracks", content, like.companions)
    yield from _media(by_name)


def _saved(content, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _rezipped(content: bytes, edit: Callable[[str, bytes], bytes], compression=zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for item in old.infolist():
            new.writestr(item.filename, edit(item.filename, old.read(item)))
    return stream.getvalue()


class _Runs:
    """Pickled, it would run a command."""

    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('ran').touch()",)


class _Allocates:
    """Pickled, it makes an object of `size` of a class that torch's loader lets through."""

    def __init__(self, kind, size: int):
        self.call = kind, (size,)

    def __reduce__(self):
        return self.call


def _torch_bombs() -> Iterator[tuple[str, bytes]]:
    plain = _saved({"conv_in.weight": torch.ones(8, 13, 3, 3)})
    zeros = bytes(32 * MiB)
    yield "zip_bomb.pt", _rezipped(plain, lambda name, data: zeros if name.endswith("data/0") else data)
    yield "pickle_zip_bomb.pt", _rezipped(plain, lambda name, data: zeros if name.endswith("data.pkl") else data)
    yield "deflated.pt", _rezipped(plain, lambda name, data: data)
    yield "stretched.pt", _saved({"conv_in.weight": torch.ones(1).expand(1 << 40)})
    yield "shared.pt", _saved({f"layer.{i}": view for i, view in enumerate([torch.ones(MiB // 4)] * 4000)})
    yield "runs.pt", _saved({"conv_in.weight": torch.ones(1), "more": _Runs()})
    yield "runs_legacy.pt", _saved({"more": _Runs()}, _use_new_zipfile_serialization=False)
    yield "runs.pickle.pt", pickle.dumps(_Runs(), protocol=2)
    for kind in (bytearray, torch.Tensor):
        yield f"allocates_{kind.__name__}.pt", _saved({"conv_in.weight": _Allocates(kind, 1 << 36)})
    deep: list = []
    for _ in range(400):
        deep = [deep]
    yield "deep.pt", _saved({"conv_in.weight": deep})
    nested = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    yield "deeper.pickle.pt", nested
    yield "deeper.pt", _rezipped(plain, lambda n, d: nested if n.endswith("data.pkl") else d, zipfile.ZIP_STORED)
    laughs: object = "ha"
    for _ in range(40):
        laughs = [laughs, laughs]
    yield "laughs.pt", _saved({"conv_in.weight": laughs, "state_dict": {"more": laughs}, "global_step": laughs})
    cycle: dict = {}
    cycle["state_dict"] = cycle
    yield "cycle.pt", _saved(cycle)
    yield "cycle_legacy.pt", _saved(cycle, _use_new_zipfile_serialization=False)
    legacy = _saved({"conv_in.weight": torch.ones(1234)}, _use_new_zipfile_serialization=False)
    for size in (1 << 30, (1 << 31) - 1):
        yield f"legacy_{size}.pt", legacy.replace(b"M\xd2\x04", b"J" + struct.pack("<i", size))
    yield "not_names.pt", _saved({1: torch.ones(1), None: torch.ones(2), (1, 2): torch.ones(3)})
    yield "numbers.pt", _saved(OrderedDict({"state_dict": 5, "model_state_dict": [], "dims": "x"}))
    yield "sparse.pt", _saved({"conv_in.weight": torch.ones(3, 3).to_sparse()})
    yield "meta.pt", _saved({"conv_in.weight": torch.ones(8, 13, 3, 3, device="meta")})
    yield "bool.pt", _saved({"conv_in.weight": torch.ones(8, 13, 3, 3, dtype=torch.bool), "b": torch.tensor(1 + 2j)})


def _tensors_file(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _safetensors_bombs() -> Iterator[tuple[str, bytes]]:
    huge = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    yield "huge.safetensors", _tensors_file({"conv_in.weight": huge}, bytes(16))
    wrapped = {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}
    yield "wrapped.safetensors", _tensors_file({"a": wrapped})
    empty = {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}
    yield "empty_tensors.safetensors", _tensors_file({f"layer.{i}": empty for i in range(20_000)})
    yield "deep.safetensors", _tensors_file(b'{"a":' * 20_000 + b"1" + b"}" * 20_000)
    yield "metadata.safetensors", _tensors_file({"__metadata__": {f"k{i}": "v" * 100 for i in range(200_000)}})
    config = {"__metadata__": {"config": "[" * 100_000, "lora_adapter_config": "[" * 100_000, "resolution": "9" * 9000}}
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    yield "described.safetensors", _tensors_file(config | {"x.lora_A.weight": one}, bytes(4))
    yield "long_header.safetensors", ((1 << 29) + 1).to_bytes(8, "little") + b"{" + bytes(64)
    yield "overlapping.safetensors", _tensors_file({"a": one, "b": one}, bytes(4))


def _json_bombs(like: bytes) -> Iterator[tuple[str, bytes]]:
    name = "bomb.json"
    yield name, b"[" * 200_000
    yield name, b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield name, b'{"resolution": ' + b"9" * 20_000 + b"}"
    yield name, like.rstrip().rstrip(b"}") + b', "more": "' + b"x" * (8 * MiB) + b'"}'
    yield name, b"\xff\xfe" + like.decode().encode("utf-16-le")
    yield name, like.replace(b"1", b"1000000000").replace(b"2", b"2000000000")


def _tables() -> Iterator[tuple[str, bytes]]:
    head = b"video_path,audio_path,video_out_path\n"
    yield "columns.csv", b"," * MiB
    yield "field.csv", head + b"a" * MiB + b",b,c\n"
    yield "quote.csv", head + b'"' + b"a\n" * 100_000
    yield "rows.csv", head + b"a,b,c\n" * 20_000
    yield "nul.csv", head + b"a\0,b,c\n"
    yield "words.csv", b"video_path,audio_path,video_out_path,track,help\na,b,c,--help|=,yes\n"
    yield "paths.csv", head + b"/" * 100_000 + b",b,c\n"


def _name_bombs(samples: dict[str, Sample]) -> Iterator[Sample]:
    """Tensors whose names count to a thousand million."""
    one = {"dtype": "F32", "shape": [1, 13, 3, 3], "data_offsets": [0, 468]}
    names = {
        "unet": ["conv_in.weight", "down_blocks.0.resnets.999999999.conv1.weight", "down_blocks.999999999.x"],
        "whisper": ["encoder.blocks.999999999.attn.query.weight"],
        "vae": ["encoder.conv_in.weight", "decoder.conv_in.weight", "encoder.down_blocks.999999999.resnets.0.x"],
        "syncnet": ["audio_encoder.conv_in.weight", "visual_encoder.down_blocks.999999999.conv1.weight"],
        "lora": ["down_blocks.999999999.lora_A.weight"],
        "restorer": ["body.999999999.weight", "params_ema", "conv_first.weight", "model.999999999.weight"],
    }
    for kind, keys in names.items():
        header = {key: one for key in keys[:1]}
        for key in keys[1:]:
            header[key] = {"dtype": "F32", "shape": [0], "data_offsets": [468, 468]}
        yield Sample("names.safetensors", kind, _tensors_file(header, bytes(468)))
    for key in ("down_blocks.0.resnets.999999999.conv1.weight", "down_blocks.999999999.attentions.0.x"):
        whole = samples["unet/unet.safetensors"].content
        length = int.from_bytes(whole[:8], "little")
        header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
        header[key] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
        yield Sample("more_names.safetensors", "unet", _tensors_file(header, data))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _pictures() -> Iterator[tuple[str, bytes]]:
    def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")

    yield "huge.png", png(30_000, 30_000, zlib.compress(bytes(30_001 * 500), 9))
    yield "endless.png", png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(1000)))
    text = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(32 * MiB)))
    yield "text.png", png(192, 192, zlib.compress(bytes(193 * 192)), text)
    gif = b"GIF89a" + struct.pack("<HHBBB", 192, 192, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 192, 192, 0) + b"\x02\x02\x44\x01\x00"
    yield "frames.gif", gif + frame * 20_000 + b";"
    yield "vast.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + frame + b";"


def _tracks(samples: dict[str, Sample]) -> Iterator[tuple[str, bytes]]:
    def npz(**columns) -> bytes:
        stream = io.BytesIO()
        np.savez_compressed(stream, **columns)
        return stream.getvalue()

    basis = {"version": 2, "whole": True, "frame_size": (192, 192)}
    basis |= {"times": np.arange(12) / 25, "shots": np.zeros(12, int)}
    yield "many.npz", npz(**basis, num_paths=2**62)
    yield "none.npz", npz(**basis | {"times": np.zeros(0), "shots": np.zeros(0, int)}, num_paths=0)
    yield "bomb.npz", npz(**basis | {"times": np.zeros(8 * MiB)}, num_paths=0)
    yield "shapes.npz", npz(**basis | {"times": np.zeros((12, 3)), "frame_size": (1.5, -2)}, num_paths=0)
    stream = io.BytesIO()
    np.savez(stream, **basis, num_paths=np.array([_Runs()], dtype=object))
    yield "runs.npz", stream.getvalue()
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"
    huge = b"\x93NUMPY\x01\x00v\x00" + header.ljust(117) + b"\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("version.npy", huge)
    yield "header.npz", stream.getvalue()


def _media(samples: dict[str, Sample]) -> Iterator[Sample]:
    """Containers that nest, repeat, or count what is not there."""
    mp4 = samples["video/h264.mp4"].content
    webm = samples["video/vp9.webm"].content
    yield Sample("nested.mp4", "video", mp4[:32] + struct.pack(">I4s", 8 * 30_000, b"moov") * 30_000 + mp4[32:])
    yield Sample("nested.webm", "video", webm[:40] + b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 30_000)
    yield Sample("tags.mkv", "video", webm[:64] + b"\x12\x54\xc3\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 30_000)
    yield Sample("empty_boxes.mp4", "video", mp4 + struct.pack(">I4s", 8, b"free") * 500_000)
    yield Sample("zero_boxes.mp4", "video", mp4[:32] + bytes(8) * 100_000 + mp4[32:])
    cluster, block = b"\x1f\x43\xb6\x75\x8b\xe7\x81\x00", b"\xa3\x86\x81\x00\x00\x80\x00\x00"
    yield Sample("empty_blocks.webm", "video", webm + (cluster + block) * 200_000)
    for name, place, value in (
        ("stts_count.mp4", b"stts", struct.pack(">II", 0, 0xFFFF_FFFF)),
        ("stsz_count.mp4", b"stsz", struct.pack(">III", 0, 1, 0x7FFF_FFFF)),
        ("stco_count.mp4", b"stco", struct.pack(">II", 0, 0x0FFF_FFFF)),
        ("elst_count.mp4", b"elst", struct.pack(">II", 0, 0x0FFF_FFFF)),
    ):
        at = mp4.find(place) + 4
        yield Sample(name, "video", mp4[:at] + value + mp4[at + len(value) :])
    yield from _timed(mp4)
    yield from _sized(samples)
    wav = samples["sound/speech.wav"].content
    at = wav.find(b"fmt ") + 8
    for rate, channels in ((1, 1), (0xFFFF_FFFF, 1), (48_000, 0xFFFF), (48_000, 0), (0, 1), (0x7FFF_FFFF, 64)):
        form = struct.pack("<HHIIHH", 1, channels, rate, rate & 0xFFFF, (2 * channels) & 0xFFFF, 16)
        yield Sample(f"rate_{rate}_{channels}.wav", "sound", wav[:at] + form + wav[at + 16 :])
    yield Sample("id3.mp3", "sound", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(MiB))
    yield Sample("no_frames.mp3", "sound", samples["sound/speech.mp3"].content[:600] + b"\xff\xfb\x10\xc4" * 200_000)
    pages = (b"OggS" + bytes(22) + b"\x00") * 50_000
    yield Sample("tiny_pages.ogg", "sound", samples["sound/speech.ogg"].content + pages)
    for name, text in (
        ("playlist.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n"),
        ("concat.mp4", b"ffconcat version 1.0\nfile '/etc/passwd'\n" * 1000),
        ("script.mp4", b"#!/bin/sh\ntouch ran\n"),
    ):
        yield Sample(name, "video", text)


def _timed(mp4: bytes) -> Iterator[Sample]:
    """Frames and sound that are said to last for years."""
    places = [place for place in range(len(mp4)) if mp4.startswith(b"stts", place)]
    for number, place in enumerate(places):
        for delta in (0x7FFF_FFFF, 0x00FF_FFFF, 0):
            at = place + 16
            yield Sample(f"stts_{number}_{delta}.mp4", "video", mp4[:at] + struct.pack(">I", delta) + mp4[at + 4 :])
    for number, place in enumerate(place for place in range(len(mp4)) if mp4.startswith(b"elst", place)):
        edited = struct.pack(">IIIi", 0, 2, 0x7FFF_FFFF, -1)  # an empty edit of weeks
        yield Sample(f"elst_{number}.mp4", "video", mp4[: place + 4] + edited + mp4[place + 20 :])
    for name in (b"mdhd", b"mvhd"):
        at = mp4.find(name) + 16
        for scale in (0, 1, 0xFFFF_FFFF):
            content = mp4[:at] + struct.pack(">II", scale, 2**32 - 1) + mp4[at + 8 :]
            yield Sample(f"{name.decode()}_{scale}.mp4", "video", content)


def _sized(samples: dict[str, Sample]) -> Iterator[Sample]:
    """Pictures that are said to be vast, in the container and, for MJPEG and VP9, in the stream itself."""
    avi = samples["video/mjpeg.avi"].content
    for width, height in ((65_500, 65_500), (16_384, 16_384), (0xFFFF, 1)):
        damaged, place = bytearray(avi), 0
        while (place := avi.find(b"\xff\xc0", place)) >= 0:
            damaged[place + 5 : place + 9] = struct.pack(">HH", height, width)
            place += 2
        yield Sample(f"vast_{width}_{height}.avi", "video", bytes(damaged))
    webm = bytearray(samples["video/vp9.webm"].content)
    sync = webm.find(b"\x49\x83\x42")  # of a VP9 key frame, whose size follows
    webm[sync + 4 : sync + 8] = b"\xff\xff\xff\xff"
    yield Sample("vast.webm", "video", bytes(webm))
    mp4 = samples["video/h264.mp4"].content
    for name, at in (("avc1", mp4.find(b"avc1") + 28), ("tkhd", mp4.find(b"tkhd") + 80)):
        yield Sample(f"vast_{name}.mp4", "video", mp4[:at] + b"\xff\xff\xff\xff" + mp4[at + 4 :])
