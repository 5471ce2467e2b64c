"""Generated faces, restored where that helps."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..options import LipSyncOptions
from .restorers import Restorer


class FaceRestoration:
    """Restores the faces of one unbroken stretch after another.

    restorer    see restorers.py
    resolution  side S of the generated faces, px
    options     sr_ratio, sr_strength, mask and seed are what counts
    """

    def __init__(self, restorer: Restorer, resolution: int, options: LipSyncOptions):
        self.restorer, self.side = restorer, resolution * options.sr_ratio
        self._strength = options.sr_strength
        self.reset()

    def reset(self) -> None:
        """Forget the frames before: at a cut, and where the face was lost."""

    def __call__(self, faces: Tensor, sources: np.ndarray, scales: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Consecutive faces -> (F, 3, S', S') float32 about [-1, 1], and which of them were restored, (F,) bool.

        faces    (F, 3, S, S) float32, about [-1, 1]
        sources  (F, S', S', 3) uint8: the source's own face at the working size S' = `side`
        scales   (F,): px of the frame per px of the generated square; where it is 1 or less, the frame could not show
                 what restoration adds: such faces are only enlarged
        """
        plain = F.interpolate(faces, (self.side, self.side), mode="bicubic", antialias=True)
        helps = (np.asarray(scales) > 1) & (self._strength > 0)
        if not helps.any():
            return plain, helps
        restored = self.restorer(faces[torch.from_numpy(helps)])
        plain[torch.from_numpy(helps)] = F.interpolate(restored, plain.shape[-2:], mode="bicubic", antialias=True)
        return plain, helps
