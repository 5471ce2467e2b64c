"""JSON files written by others: descriptions of models, of adapters, of downloads."""

import json
import reprlib
from pathlib import Path

from .errors import CheckpointError, LatentSyncError

MAX_BYTES = 4 * 2**20  # descriptions have a few kB; a file of this size describes nothing
MAX_SHOWN = 300  # characters of a value in a message
_SHORT = reprlib.Repr()  # looks only at the beginning of a value, which may hold itself a thousand million times
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxstring = 3, 12, 80


def read_json(
    path: str | Path, error: type[LatentSyncError] = CheckpointError, *, what: str = "", max_bytes: int = MAX_BYTES
) -> object:
    """What the file holds. what: which, for the message, as "describes the VAE".

    Raises `error` for a file that cannot be read, is larger than max_bytes, not UTF-8, or not JSON: also where it is
    nested too deeply or has a number too long to be one.
    """
    path = Path(path)
    told = f"{path}, which {what}," if what else str(path)
    try:
        if path.stat().st_size > max_bytes:
            raise error(
                f"{told} has {path.stat().st_size} bytes; expected at most {max_bytes} of this kind. Is it the "
                "right file?"
            )
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{told} is not valid JSON ({reason}). Repair or remove it.") from reason
    except OSError as reason:
        raise error(f"{told} cannot be read ({reason}). Check its permissions.") from reason
    return parse_json(text, error, told=told)


def parse_json(text: str, error: type[LatentSyncError] = CheckpointError, *, told: str) -> object:
    """The same of text that lies elsewhere, as in a header; told: where, for the message."""
    try:
        return json.loads(text)
    except RecursionError as reason:
        raise error(f"{told} is not valid JSON (nested too deeply). Repair or remove it.") from reason
    except ValueError as reason:  # syntax, and numbers of more digits than Python converts
        raise error(f"{told} is not valid JSON ({reason}). Repair or remove it.") from reason


def shown(value: object) -> str:
    """A value from such a file in words, shortened for a message."""
    text = _SHORT.repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
