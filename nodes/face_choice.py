"""Which face is meant: the inputs to say it with, and what they say for the library."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from . import host, media
from .host import io

FACES = ["largest", "left", "right", "centre", "number", "point"]
SPEAKERS_FACES = [*FACES, "all"]  # where several faces may speak
MAX_NUMBER = 99


@dataclass(frozen=True, repr=False)
class ChosenFace(host.Carried):
    """A choice as the library reads it, see faces/choice.py; a picture (H, W, 3) of the person goes before it."""

    words: str
    picture: torch.Tensor | None = None

    @classmethod
    def of(cls, face: str, face_number: int, face_x: float, face_y: float, face_picture) -> "ChosenFace":
        """From the values of the inputs below; face_picture: an IMAGE or None. Raises ValueError."""
        if face_picture is not None:
            face_picture = media.checked_images(face_picture, "face_picture")[0]
        return cls({"number": str(face_number), "point": f"{face_x:.4f},{face_y:.4f}"}.get(face, face), face_picture)

    @contextlib.contextmanager
    def as_text(self) -> Iterator[str]:
        """The choice in words; a picture lies in a file inside the block, of which no message need speak."""
        from ..latentsync.errors import OptionError

        if self.picture is None:
            yield self.words
            return
        path = host.temp_path(".png")
        media.write_picture(self.picture, path)
        try:
            yield str(path)
        except OptionError as error:
            raise OptionError(str(error).replace(f"'{path}'", "face_picture")) from error
        finally:
            path.unlink(missing_ok=True)


def face(*, everyone: bool = False, default: str = "largest") -> io.Combo.Input:
    """The list of places. everyone: whether "all" is one of them."""
    everyone_too = ", or all faces at once" if everyone else ""
    return io.Combo.Input(
        "face",
        options=SPEAKERS_FACES if everyone else FACES,
        default=default,
        tooltip="Which face speaks where there are several: the largest one, the one furthest left, furthest right or "
        f"nearest to the centre, the one of face_number, the one at the point face_x, face_y{everyone_too}. Its person "
        "is followed through the clip, over cuts too.",
    )


def face_details(number: int = 0) -> list:
    """Inputs for the choices that need more than a word; optional, so they come after the node's first ones."""
    return [
        io.Int.Input(
            "face_number",
            default=number,
            min=0,
            max=MAX_NUMBER,
            optional=True,
            tooltip="For face = number: 0 is the face that fills most of the picture over the clip, 1 the next, and so "
            "on. A number that is not there gets a list of all faces.",
        ),
        *(
            io.Float.Input(
                name,
                default=0.5,
                min=0.0,
                max=1.0,
                step=0.001,
                optional=True,
                tooltip=f"For face = point: {where} of a place that the face is the first to come to, as a fraction of "
                f"the picture's {side}.",
            )
            for name, where, side in (
                ("face_x", "distance from the left", "width"),
                ("face_y", "distance from the top", "height"),
            )
        ),
        io.Image.Input(
            "face_picture",
            optional=True,
            tooltip="A picture of the person, seen from the front: whoever resembles it speaks, whatever face says. A "
            "frame of the same clip is the safest.",
        ),
    ]
