"""Where one shot of a clip ends and the next begins."""

from collections import deque

import cv2
import numpy as np

THUMBNAIL = (32, 18)  # cells, across and down
CHANGED = 14.0  # grey levels in any channel by which a cell has changed
MIN_CHANGED = 0.4  # share of changed cells at a cut
MIN_RATIO = 2.5  # and so many times as many as between the frames just before: fast movement is no cut
MEMORY = 8  # frames
FLASH = 3  # frames after which a picture that comes back was only interrupted, as by a photographer's light
SAMPLES = 160  # px looked at along the longer side of a frame


class ShotDetector:
    """`detector(frame)`: whether this frame (H, W, 3) uint8 begins another shot than the one before.

    Compares frames a few cells in size. Dissolves and fades are not cuts: a face that is followed through one is told
    by its looks (see scan.py).

    share    of the picture, 0..1, that changed with the latest frame
    flashed  frames since the cut before, where the latest one brings back the picture that was there until then; else 0
    """

    share, flashed = 0.0, 0

    def __init__(self):
        self._before: np.ndarray | None = None
        self._shares: deque[float] = deque(maxlen=MEMORY)
        self._left: np.ndarray | None = None  # the last picture of the shot before
        self._since = 0  # frames since then

    def __call__(self, frame: np.ndarray) -> bool:
        cells = thumbnail(frame)
        before, self._before = self._before, cells
        if before is None:
            return False
        self.share, self.flashed = _changed(cells, before), 0
        self._since += 1
        usual = float(np.median(self._shares)) if self._shares else 0.0
        is_cut = self.share > max(MIN_CHANGED, MIN_RATIO * usual)
        if is_cut:
            is_back = self._left is not None and self._since <= FLASH and _changed(cells, self._left) < MIN_CHANGED
            self.flashed = self._since if is_back else 0
            self._left, self._since = before, 0
            self._shares.clear()
        else:
            self._shares.append(self.share)
        return is_cut


def _changed(cells: np.ndarray, before: np.ndarray) -> float:
    return float((np.abs(cells - before).max(-1) > CHANGED).mean())


def thumbnail(frame: np.ndarray) -> np.ndarray:
    """(18, 32, 3) float32 of a frame (H, W, 3) uint8, thinned before it is averaged."""
    step = max(1, max(frame.shape[:2]) // SAMPLES)
    thinned = np.ascontiguousarray(frame[::step, ::step])
    return cv2.resize(thinned, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
