"""The model files that come with this package, and whether they are whole. Needs Python's standard library alone."""

import json
import struct
import zipfile
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
PARTS = ("unet", "vae", "whisper", "syncnet")  # that a folder's config.json may name


def damaged_files(assets: Path) -> list[str]:
    """What is wrong with the bundled model files, one line each; files that are not there are not asked for, unless a
    description names them."""
    faults = []
    for path in sorted(assets.rglob("*")):
        if path.suffix == ".safetensors":
            expected = safetensors_size(path)
            if path.stat().st_size != expected:
                faults.append(f"{path}: {path.stat().st_size} bytes, expected {expected or 'a safetensors file'}")
        elif path.suffix == ".pt" and not zipfile.is_zipfile(path):
            faults.append(f"{path}: damaged, its end is missing")
        elif path.name == "config.json" and path.parent.parent == assets:
            description = json.loads(path.read_text(encoding="utf-8"))
            named = [path.parent / description[key] for key in PARTS if key in description]
            faults += [f"{part}: missing" for part in named if not part.exists()]
    return faults


def safetensors_size(path: Path) -> int | None:
    """The length in bytes that the file's own header tells; None if it has no readable header."""
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < 100_000_000 else {}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return 8 + length + max(ends)
        except (struct.error, ValueError, KeyError, TypeError):
            return None
