"""What a person's text for a file means, and whether an input is there. Quick: neither torch nor PyAV is imported."""

import argparse
import os
import re
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .errors import MediaError, OptionError

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters at least: C:/ is a drive
QUOTES = "\"'"


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
        raise error(f"No such file: '{path}'. Check the path and spelling.")
    if not path.is_file():
        raise error(f"'{path}' is not a regular file; expected a media file on disk.")
    if path.stat().st_size == 0:
        raise error(f"'{path}' is empty (0 bytes). Copy or download the file again.")
