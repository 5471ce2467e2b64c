"""Writing a file so that it appears complete or not at all."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import av

from ..errors import OutputError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_ATTEMPTS = 10  # to make a folder that others remove
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


class Container(NamedTuple):
    """What the suffix of a video file stands for."""

    muxer: str
    video_codec: str
    audio_codec: str


CONTAINERS = {
    ".mp4": Container("mp4", "libx264", "aac"),
    ".m4v": Container("mp4", "libx264", "aac"),
    ".mov": Container("mov", "libx264", "aac"),
    ".mkv": Container("matroska", "libx264", "aac"),
    ".webm": Container("webm", "libvpx-vp9", "libopus"),
}


def check_output(
    path: str | os.PathLike, inputs: Iterable[str | os.PathLike] = (), suffixes: Iterable[str] | None = None
) -> Path:
    """`path` as a `Path`, if a result can be written there; to be called before any work is done.

    Raises `OutputError` where `path` is one of `inputs` (also through a link), is a folder, has a suffix outside
    `suffixes` (by default those of videos), or lies where no file can be made. Leaves nothing behind; a folder
    that is missing is made later, by the writer.
    """
    path = Path(path)
    _check_kind(path)
    supported = tuple(CONTAINERS if suffixes is None else suffixes)
    if path.suffix.lower() not in supported:
        raise OutputError(
            f"Cannot tell the format to write from '{path.name}'; "
            f"expected a name ending in one of: {', '.join(supported)}."
        )
    for source in map(Path, inputs):
        if (path.exists() and source.exists() and path.samefile(source)) or path.resolve() == source.resolve():
            raise OutputError(f"The output '{path}' is the input itself, which is never changed. Choose another name.")
    ancestor = path.absolute().parent
    while not os.path.lexists(ancestor):
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise OutputError(f"Cannot write '{path}': '{ancestor}' is a file, not a folder. Choose another folder.")
    probe = ancestor / f"latentsync-{uuid.uuid4().hex[:12]}.part"
    with writing_errors(path):
        probe.touch(exist_ok=False)
        probe.unlink()
    return path


def _check_kind(path: Path) -> None:
    """Raises OutputError for a folder, and for a device or pipe, which a file would take the place of."""
    if path.is_dir():
        raise OutputError(f"The output '{path}' is a folder; expected the name of a file. Add a file name to it.")
    if path.exists() and not path.is_file():
        raise OutputError(f"The output '{path}' is a device or a pipe; expected the name of a file.")


@contextlib.contextmanager
def writing_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns the system's and the encoder's errors into `OutputError`s about `path`."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, av.FFmpegError) as reason:
        what = getattr(reason, "strerror", None) or str(reason)
        if reason.errno in _FULL:
            advice = "the disk is full or a size limit is reached. Free some space or choose another disk."
        elif reason.errno in _FORBIDDEN:
            advice = "permission denied. Choose a folder in which files can be made."
        elif reason.errno == errno.ENOENT:
            advice = "the folder cannot be used or has gone. Choose another folder."
        else:
            advice = f"{what}. Choose another place or format."
        raise OutputError(f"Cannot write '{path}': {advice}") from reason


@contextlib.contextmanager
def written_whole(target: str | os.PathLike) -> Iterator[Path]:
    """The path to write `target` at: it gets its name at the end, or is removed where the end is not reached.

    Raises `OutputError` for what the system or the encoder has against it.
    """
    part = PartFile(target)
    try:
        with writing_errors(target):
            yield part.path
        part.commit()
    except BaseException:
        part.discard()
        raise


class PartFile:
    """A file written under a temporary name (`.part` in it) beside its target, and renamed when complete.

    name: without suffixes; None for one that no other run has. A name that comes again, which only one run may use at a
    time, takes the place of what was left of a run that was killed.
    """

    def __init__(self, target: str | os.PathLike, name: str | None = None):
        """Makes the empty file and missing folders. Raises `OutputError` where that fails."""
        self.target = Path(target)
        _check_kind(self.target)
        folder = self.target.absolute().parent
        # The suffix stays last, so that the muxer and the user's file manager see the same type.
        name = name or f"latentsync-{uuid.uuid4().hex[:12]}"
        self.path = folder / f"{name}.part{self.target.suffix}"
        self._made: list[Path] = []
        try:
            with writing_errors(self.target):
                for attempt in range(_ATTEMPTS):
                    try:
                        self._make(folder)
                        break
                    except FileNotFoundError:  # another run gave up, and took the folder that it had made with it
                        if attempt == _ATTEMPTS - 1:
                            raise
        except BaseException:
            self.discard()
            raise

    def _make(self, folder: Path) -> None:
        """The file at once, which keeps the folder from being removed by others."""
        for parent in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
            parent.mkdir(exist_ok=True)
            self._made.append(parent)
        self.path.touch()

    def commit(self) -> None:
        """Give the complete file its name, replacing an older result."""
        with writing_errors(self.target):
            os.replace(self.path, self.target)

    def discard(self) -> None:
        """Remove the unfinished file and the folders made for it."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            for folder in reversed(self._made):
                folder.rmdir()  # fails, as it should, where someone else has put something there
