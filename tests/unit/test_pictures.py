"""Pictures from others that are damaged or claim too much."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from latentsync.errors import MediaError
from latentsync.media import container
from latentsync.media.container import NoPictureError, opened_picture


def read(path) -> np.ndarray:
    with opened_picture(path, MediaError, "the mask") as image:
        return np.asarray(image.convert("L"))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + data


def test_whole_pictures(tmp_path):
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 7).all()


@pytest.mark.parametrize("sides", [(9000, 9000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_claimed_sizes(tmp_path, sides):
    (tmp_path / "a.png").write_bytes(png(*sides))
    with pytest.raises(MediaError, match=r"the mask '.*a\.png' .*67 million"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize(
    "content",
    [
        png(64, 64),
        png(64, 64)[:40],
        png(20, 20, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(64 << 20)))),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        png(0, 0),
    ],
    ids=["no pixels", "cut", "text of 64 MiB", "no chunks", "no size"],
)
def test_damaged_ones(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises((MediaError, NoPictureError)) as told:
        read(tmp_path / "a.png")
    assert len(str(told.value)) < 500


def test_other_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"text")
    with pytest.raises(NoPictureError):
        read(tmp_path / "a.png")
    with pytest.raises(MediaError, match="cannot be read"):
        read(tmp_path / "missing.png")
    assert container.MAX_PIXELS == 8192 * 8192
