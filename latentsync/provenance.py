"""Where a result comes from: an entry in its metadata, written and read back."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from . import __version__
from .files import sha256_of
from .media.container import open_media
from .media.marking import DIGITAL_SOURCE_TYPE, STATEMENT, Marking
from .model.loading import LipSyncModel
from .options import LipSyncOptions

TOOL = "latentsync-nodes"


def marking_of(model: LipSyncModel, options: LipSyncOptions) -> Marking:
    """What the options ask for. Names of files are told without folders. Raises OptionError.

    The entry's digest is the SHA-256 of its other fields as JSON with sorted keys and no blanks: it shows that a
    program has cut or changed the entry. It is no signature: whoever changes it on purpose can make another.
    """
    if not options.marking:
        return Marking(None, options.visible_mark)
    entry = {
        "statement": STATEMENT,
        "ai_generated": True,
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "tool": TOOL,
        "version": __version__,
        "model": model.name,
        "model_sha256": None if model.unet_path is None else sha256_of(model.unet_path),
        "adapter_sha256": None if model.lora_path is None else sha256_of(model.lora_path),
    }
    return Marking({**entry, "digest": _digest(entry)}, options.visible_mark)


def read_provenance(path: str | Path) -> dict | None:
    """The provenance entry of a file; None where it has none, or one that was cut or changed. Raises MediaError."""
    with open_media(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    try:
        entry = json.loads(tags["provenance"])
        return entry if entry.pop("digest") == _digest(entry) else None
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _digest(entry: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
