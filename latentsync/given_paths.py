"""What a person's text for a file means, and whether an input is there. Quick: neither torch nor PyAV is imported."""

import argparse
import difflib
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .errors import LatentSyncError, MediaError, ModelNotFoundError, OptionError

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters at least: C:/ is a drive
QUOTES = "\"'"
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"  # where released models are put
NAMES = 5000  # of a folder that are compared with one that is not there


class PathTextError(OptionError, argparse.ArgumentTypeError):
    """A text that is no path here; argparse shows such a message as it is."""


def given_path(text: str | os.PathLike) -> Path:
    """The path that is meant, for options, tables and settings alike.

    ~ is the home folder, also where no shell has seen to it. Blanks and quotes pasted around a path are taken off,
    unless there is a file of that very name. file:// is a path. Raises PathTextError, an OptionError, for other
    addresses and for the home folder of a user who is not there.
    """
    text = os.fspath(text)
    if not os.path.lexists(text):
        text = text.strip()
        if len(text) > 2 and text[0] == text[-1] and text[0] in QUOTES:
            text = text[1:-1]
        if text.lower().startswith("file://"):
            text = url2pathname(urlsplit(text).path)
        elif ADDRESS.match(text):
            raise PathTextError(f"'{text}' is a web address; expected a file. Download it first and give its path")
    path = os.path.expanduser(text)
    if path.startswith("~") and {"/", os.sep} & set(path) and not os.path.lexists(path):
        user = re.split(r"[/\\]", path)[0]
        raise PathTextError(f"'{text}': there is no home folder {user}; write ./{user} for a folder of that name")
    return Path(path)


def path_or_word(text: str) -> str:
    """For what is a word, as "auto" or "left", or the path of a file: the same text, or that of `given_path`."""
    path = str(given_path(text))
    return text if path == str(Path(text)) else path


def check_input(path: str | os.PathLike, error: type[MediaError] = MediaError) -> None:
    """Raises `error` for a media file that is missing, a folder, a device or empty."""
    path = Path(path)
    if path.is_dir():
        raise error(f"'{path}' is a folder; expected a media file. Give the path of the file inside it.")
    if not path.exists():
        raise error(f"No such file: '{path}'. {similar(path) or 'Check the path and spelling.'}")
    if not path.is_file():
        raise error(f"'{path}' is not a regular file; expected a media file on disk.")
    if path.stat().st_size == 0:
        raise error(f"'{path}' is empty (0 bytes). Copy or download the file again.")


def check_there(path: str | os.PathLike, what: str, error: type[LatentSyncError] = ModelNotFoundError) -> None:
    """Raises `error` where neither a file nor a folder is at a path. what: it should be."""
    if not os.path.exists(path):
        raise error(f"no {what} at '{path}'. {similar(path) or 'Check the path and spelling.'}")


def check_model(choice: str | os.PathLike | None) -> None:
    """See that there is what "tiny", None for the best model, or a path means. Raises ModelNotFoundError."""
    if choice is not None and str(choice) != "tiny" and not os.path.exists(choice):
        raise ModelNotFoundError(
            f"there is no model at {choice}; give 'tiny', a U-Net file or a folder with one. "
            f"{similar(choice, ['tiny']) or 'Released ones: python install.py --models latentsync-1.6'}"
        )


def similar(path: str | os.PathLike, words: Iterable[str] = ()) -> str:
    """A question for one whose path is not there: whether one of the words, or what is there of nearly that name, is
    meant. "" where nothing is like it."""
    path = Path(path)
    while not path.parent.exists() and path.parent != path:
        path = path.parent  # the folder is misspelt
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in itertools.islice(entries, NAMES)]
    except OSError:
        names = []
    found = {name.lower(): str(path.with_name(name)) for name in names} | {word.lower(): word for word in words}
    near = difflib.get_close_matches(path.name.lower(), found, n=1, cutoff=0.75)
    return f"Did you mean '{found[near[0]]}'?" if near else ""
