"""Frames that wait for their faces: those of several people are denoised at different times."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from .faces.place import PlacedFace
from .media.video_reader import VideoFrame


@dataclass(frozen=True)
class FinishedFace:
    """A generated face and where it belongs.

    face      (3, S', S') float32, about [-1, 1]
    aligned   (S', S', 3) uint8, the source's
    placed    its place; weight: 0..1 of the generated one in the frame
    restored  whether super-resolution changed it
    """

    face: Tensor
    aligned: np.ndarray
    placed: PlacedFace
    weight: float
    restored: bool = False


@dataclass(eq=False)
class WaitingFrame:
    """A frame of the result on its way.

    protect  (H, W) float32 0..1, 1 keeps the source; None for nothing
    awaited  faces that are still to be denoised; finished: by number of the speaker
    is_tail  comes after the speech
    """

    frame: VideoFrame
    protect: np.ndarray | None = None
    is_tail: bool = False
    awaited: int = 0
    finished: dict[int, FinishedFace] = field(default_factory=dict)


class FrameQueue:
    """First in, first out, and only with all faces denoised: holds about one chunk of frames."""

    def __init__(self):
        self._waiting: deque[WaitingFrame] = deque()

    def add(self, frame: WaitingFrame) -> None:
        self._waiting.append(frame)

    def ready(self) -> Iterator[WaitingFrame]:
        while self._waiting and not self._waiting[0].awaited:
            yield self._waiting.popleft()
