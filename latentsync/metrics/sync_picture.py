"""A picture of how lips and sound of a clip go together at each shift."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..report import BACKGROUND, FAINT, INK, RESULT, SOURCE
from ..syncnet.scoring import SyncScore
from ..syncnet.sync_mel import FPS


def sync_picture(score: SyncScore, width: int = 640, height: int = 320) -> np.ndarray:
    """The mean cosine over the shift of the sound, the best one marked: (height, width, 3) uint8 RGB."""
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=max(10, height // 22))
    line, margin = max(10, height // 22) + 8, 12
    left, right, top, bottom = margin, width - margin, 2 * line, height - 2 * line
    known = np.isfinite(score.curve)
    low, high = float(score.curve[known].min()), float(score.curve[known].max())
    middle = float(np.median(score.curve[known]))

    def x(offset: float) -> float:
        return left + (offset - score.offsets[0]) / max(score.offsets[-1] - score.offsets[0], 1) * (right - left)

    def y(cosine: float) -> float:
        return bottom - (cosine - low) / max(high - low, 1e-6) * (bottom - top)

    draw.text((left, 4), f"sync score {score.confidence:.3f}, offset {score.offset_ms:+.0f} ms", INK, font)
    draw.line((left, y(middle), right, y(middle)), FAINT)
    draw.line((x(0), top, x(0), bottom), FAINT)
    points = [(x(offset), y(value)) for offset, value in zip(score.offsets[known], score.curve[known], strict=True)]
    draw.line(points, SOURCE, width=2)
    place = x(score.offset_frames), y(high)
    draw.ellipse((place[0] - 5, place[1] - 5, place[0] + 5, place[1] + 5), RESULT)
    for offset in (score.offsets[0], 0, score.offsets[-1]):
        text = f"{1000 * offset / FPS:+.0f} ms" if offset else "0"
        share = (x(offset) - left) / (right - left)
        draw.text((x(offset) - share * draw.textlength(text, font), bottom + 4), text, INK, font)
    text = "lips before the sound  <  >  after it"
    draw.text(((width - draw.textlength(text, font)) / 2, height - line), text, INK, font)
    return np.asarray(image).copy()
