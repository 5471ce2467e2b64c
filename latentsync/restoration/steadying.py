"""What a restorer adds, held steady over time.

A restorer sees one frame at a time, and small differences of its input change the detail it invents: the detail
flickers. Here the detail of the frame before is carried along with the motion of the face and averaged in, wherever
the face still looks the same there; the face itself, as it was generated, is not averaged and keeps its motion.
"""

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MEMORY = 0.7  # share of the frame before where the face stands still
TOLERANCE = 0.04  # of the range [-1, 1]: differences of the face at which the share has fallen to 1/e of that
FLOW_SIDE = 256  # px at which motion is estimated


class SteadyDetail:
    """Averages the detail of consecutive frames along the motion of the face."""

    def __init__(self, memory: float = MEMORY):
        self._memory = memory
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self.reset()

    def reset(self) -> None:
        """Forget the frame before."""
        self._before: tuple[np.ndarray, Tensor, Tensor] | None = None

    def __call__(self, detail: Tensor, face: Tensor) -> Tensor:
        """One frame's detail (3, R, R) -> steadied; face: (3, R, R), about [-1, 1], to which it is added."""
        grey = _grey(face)
        if self._before is not None and self._memory > 0:
            grey_before, face_before, detail_before = self._before
            flow = self._flow.calc(grey, grey_before, None)  # from each pixel to where it was
            grid = _grid(flow, detail.shape[-1])
            moved = F.grid_sample(
                torch.cat([face_before, detail_before])[None],
                grid,
                mode="bilinear",
                padding_mode="border",
                align_corners=False,
            )[0]
            change = (moved[:3] - face).abs().mean(0, keepdim=True)
            change = F.avg_pool2d(change[None], 5, 1, 2)[0]
            share = self._memory * torch.exp(-change / TOLERANCE)
            detail = torch.lerp(detail, moved[3:], share)
        self._before = grey, face, detail
        return detail


def _grey(face: Tensor) -> np.ndarray:
    """(3, R, R) about [-1, 1] -> (h, h) uint8 at which motion is estimated."""
    side = min(FLOW_SIDE, face.shape[-1])
    small = F.interpolate(face.mean(0, keepdim=True)[None], (side, side), mode="area")[0, 0]
    return ((small.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def _grid(flow: np.ndarray, side: int) -> Tensor:
    """Flow (h, h, 2) in its own px -> sampling grid (1, side, side, 2) for grid_sample."""
    motion = torch.from_numpy(flow).permute(2, 0, 1)[None] * (2 / flow.shape[0])
    motion = F.interpolate(motion, (side, side), mode="bilinear", align_corners=False)[0]
    place = (torch.arange(side) + 0.5) * (2 / side) - 1
    return torch.stack([place[None, :] + motion[0], place[:, None] + motion[1]], -1)[None]
