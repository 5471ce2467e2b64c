"""Still pictures from files of others."""

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator

from PIL import Image, UnidentifiedImageError

from ..errors import LatentSyncError
from .limits import MAX_PIXELS

# What Pillow raises for damaged files besides OSError: each format's reader has its own.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, AttributeError, OverflowError)
_DAMAGE += (RuntimeError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError)


class NoPictureError(Exception):
    """The file is of no format that Pillow knows."""


@contextlib.contextmanager
def opened_picture(path: str | os.PathLike, error: type[LatentSyncError], what: str) -> Iterator[Image.Image]:
    """The picture, its pixels not yet read; reading them inside is covered too. what: which, for the message.

    Raises NoPictureError for what is no picture, `error` for a damaged one and for more pixels than MAX_PIXELS, which
    its header tells before memory is taken.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise error(
                    f"{what} '{path}' has {width} x {height} pixels; expected {MAX_PIXELS // 10**6} million at most. "
                    "Make it smaller."
                )
            yield image
    except LatentSyncError:
        raise
    except UnidentifiedImageError as reason:
        raise NoPictureError(str(path)) from reason
    except Image.DecompressionBombError as reason:
        raise error(
            f"{what} '{path}' claims more pixels than {MAX_PIXELS // 10**6} million ({reason}). Make it smaller, or "
            "export it again."
        ) from reason
    except _DAMAGE as reason:
        raise error(
            f"{what} '{path}' cannot be read ({reason}); expected a png, jpg or webp picture. Check the path, or "
            "export it again."
        ) from reason
