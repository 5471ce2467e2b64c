"""Clips beside each other as one picture: a row a clip, evenly spaced frames."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_BACKGROUND, _INK = (245, 245, 245), (30, 30, 30)
_LABEL_WIDTH = 132  # px
_GAP = 4  # px between rows


def evenly_spaced(count: int, columns: int) -> list[int]:
    """Indices of ``columns`` frames out of ``count``, first and last included."""
    return [int(i) for i in np.linspace(0, count - 1, columns)]


def strip(frames: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Frames (H, W, 3) uint8 scaled to ``side`` px high, in a row: (side, W', 3) uint8."""
    width = max(1, round(side * frames[0].shape[1] / frames[0].shape[0]))
    return np.concatenate([cv2.resize(frame, (width, side), interpolation=cv2.INTER_AREA) for frame in frames], axis=1)


def labelled_sheet(rows: Mapping[str, Sequence[np.ndarray]], *, side: int = 192) -> np.ndarray:
    """One row of frames under each label, the label to its left: (h, w, 3) uint8 RGB. Rows need the same length."""
    strips = [strip(frames, side) for frames in rows.values()]
    height = len(strips) * (side + _GAP) - _GAP
    sheet = Image.new("RGB", (_LABEL_WIDTH + strips[0].shape[1], height), _BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for number, (label, row) in enumerate(zip(rows, strips, strict=True)):
        top = number * (side + _GAP)
        sheet.paste(Image.fromarray(row), (_LABEL_WIDTH, top))
        pen.multiline_text((8, top + side // 2), label, fill=_INK, font=font, anchor="lm")
    return np.asarray(sheet)
