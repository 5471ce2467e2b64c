"""Ways to damage a file, each a function of its bytes and of a seeded generator: the same seed, the same damage."""

import copy
import json
import math
import struct
from collections.abc import Callable
from random import Random

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x7FFF_FFFF_FFFF_FFFF)
HEADER = 4096  # bytes at the beginning, where most formats say what follows
ODD_VALUES = (None, True, -1, 0, 1, 7, 1e308, -1e9, 2**31, 2**63, 10**30, math.nan, math.inf)
ODD_VALUES += ("", "x", "8", [], {}, [[]])
BOX_NAMES = b"moov mvhd tkhd mdhd stsd stts stsc stsz stco ctts elst avcC hvcC esds trak mdat".split()
BOX_NAMES += [b"fmt ", *b"data hdrl strh idx1 fLaC IHDR".split()]
Damage = Callable[[bytes, Random, bytes], bytes]


def flip_bits(content: bytes, rng: Random, _: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 4, 16, 64, max(1, len(content) // 200)))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def flip_bits_in_header(content: bytes, rng: Random, _: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 4, 8))):
        damaged[rng.randrange(min(len(damaged), HEADER))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def set_number(content: bytes, rng: Random, _: bytes) -> bytes:
    """Another number of 1 to 8 bytes, most often in the header: sizes, counts, offsets and versions."""
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        reach = len(damaged) if rng.random() < 0.4 else min(len(damaged), HEADER)
        size = rng.choice((1, 2, 4, 4, 8))
        place = rng.randrange(max(1, reach - size))
        value = rng.choice(EXTREMES) if rng.random() < 0.8 else rng.getrandbits(64)
        packed = (value & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(("little", "big")))
        damaged[place : place + size] = packed
    return bytes(damaged)


def truncate(content: bytes, rng: Random, _: bytes) -> bytes:
    return content[: rng.randrange(max(1, min(len(content), HEADER) if rng.random() < 0.3 else len(content)))]


def cut_out(content: bytes, rng: Random, _: bytes) -> bytes:
    first = rng.randrange(len(content))
    return content[:first] + content[first + rng.randrange(1, max(2, len(content) // 3)) :]


def repeat_part(content: bytes, rng: Random, _: bytes) -> bytes:
    first = rng.randrange(len(content))
    part = content[first : first + rng.randrange(1, max(2, len(content) // 4))]
    return content[:first] + part * rng.randrange(2, 6) + content[first:]


def overwrite_part(content: bytes, rng: Random, _: bytes) -> bytes:
    first, size = rng.randrange(len(content)), rng.choice((16, 256, 4096))
    filling = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return (content[:first] + filling + content[first + size :])[: max(len(content), first + 1)]


def insert_noise(content: bytes, rng: Random, _: bytes) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(rng.choice((1, 3, 64, 1000))) + content[place:]


def splice(content: bytes, rng: Random, other: bytes) -> bytes:
    """The beginning of one file, the end of another."""
    return content[: rng.randrange(1, len(content))] + other[rng.randrange(len(other)) :]


def swap_parts(content: bytes, rng: Random, _: bytes) -> bytes:
    a, b, c = sorted(rng.randrange(len(content) + 1) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def edit_boxes(content: bytes, rng: Random, _: bytes) -> bytes:
    """Sizes and fields right behind the four letters of mp4 and RIFF boxes."""
    places = [place for name in BOX_NAMES if (place := content.find(name)) >= 0]
    if not places:
        return set_number(content, rng, content)
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 2, 3))):
        place = rng.choice(places) + rng.choice((-4, 4, 8, 12, 16, 20, 24, 32))
        if 0 <= place < len(damaged) - 4:
            damaged[place : place + 4] = struct.pack(">I", rng.choice(EXTREMES) & 0xFFFF_FFFF)
    return bytes(damaged)


def edit_json(content: bytes, rng: Random, _: bytes) -> bytes:
    """Other values, types and names in a JSON file, or in the header of a safetensors file."""
    is_plain = content[:1] in b"{["
    length = 0 if is_plain else int.from_bytes(content[:8], "little")
    try:
        value = json.loads(content if is_plain else content[8 : 8 + length])
    except ValueError:
        return set_number(content, rng, content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        _edit(value, rng)
    text = json.dumps(value).encode()
    return text if is_plain else len(text).to_bytes(8, "little") + text + content[8 + length :]


def _edit(value, rng: Random, depth: int = 0) -> None:
    """Change one place somewhere inside a dict or list."""
    if not isinstance(value, dict | list) or not value:
        return
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.75:
        _edit(value[key], rng, depth + 1)
    elif isinstance(value, dict) and rng.random() < 0.25:
        value[rng.choice(("", "x", str(key).upper(), f"{key}.{10**9}"))] = value.pop(key)
    elif rng.random() < 0.15:
        del value[key]
    else:
        odd = copy.deepcopy(rng.choice(ODD_VALUES))
        value[key] = value[key] * 1000 if odd is True and isinstance(value[key], list) else odd


BYTES: tuple[Damage, ...] = (
    flip_bits,
    flip_bits_in_header,
    set_number,
    truncate,
    cut_out,
    repeat_part,
    overwrite_part,
    insert_noise,
    splice,
    swap_parts,
)
BOXES: tuple[Damage, ...] = (edit_boxes, edit_boxes)
JSON: tuple[Damage, ...] = (edit_json,) * 4


def ways_for(name: str) -> tuple[Damage, ...]:
    """The damages that suit a file of that name."""
    suffix = name.rpartition(".")[2]
    if suffix in ("json", "safetensors", "csv"):
        return BYTES + JSON
    return BYTES + BOXES if suffix in ("mp4", "mov", "m4a", "avi", "wav", "png", "flac") else BYTES
