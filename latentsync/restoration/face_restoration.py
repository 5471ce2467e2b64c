"""Generated faces, restored where that helps: only what was generated, steady over time, as sharp as the source.

The restorer's change of the face is taken, without its broad colours; steadied (steadying.py); added to the enlarged
face; and the sum is brought to the source's sharpness and grain (sharpness.py).
"""

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torch.nn import functional as F

from ..model.masks import generation_mask
from ..model.vae import to_pixels
from ..options import LipSyncOptions
from .restorers import Restorer
from .sharpness import SharpnessMatch
from .steadying import MEMORY, SteadyDetail

GRID_SIDE, BROAD = 64, 2.0  # px; on such a grid, colours broader than a blur of this sigma stay the generated face's
SOFT_EDGE = 1 / 64  # of the face's side, of the region in which faces are restored


class FaceRestoration:
    """Restores the faces of a clip, in order.

    restorer    see restorers.py
    resolution  side S of the generated faces, px
    options     sr_ratio, sr_strength, mask, blend_mask and seed are what counts
    blend_mask  what suits the model, used where the options name none: sharpness is measured where faces are pasted
    memory      share of the frame before in the detail of a face that stands still; 0: every frame by itself
    matched     whether sharpness and grain are made the source's
    """

    def __init__(
        self,
        restorer: Restorer,
        resolution: int,
        options: LipSyncOptions,
        blend_mask: str | None = None,
        *,
        memory: float = MEMORY,
        matched: bool = True,
    ):
        self.restorer, self.side = restorer, resolution * options.sr_ratio
        self._ratio, self._strength = options.sr_ratio, options.sr_strength
        hole = (generation_mask(self.side, options.mask) < 0.5).float()
        self._region = _blur(hole[None, None], SOFT_EDGE * self.side)[0, 0]
        self._steady = SteadyDetail(memory)
        pasted = generation_mask(self.side, options.blend_mask or blend_mask or options.mask) < 0.5
        self._match = SharpnessMatch(pasted.float(), options.seed) if matched else None

    def reset(self) -> None:
        """Forget the frames before: where a face comes after a cut, or after one without a face."""
        self._steady.reset()
        if self._match is not None:
            self._match.reset()

    @torch.inference_mode()
    def __call__(self, faces: Tensor, sources: np.ndarray, scales: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Consecutive faces -> (F, 3, S', S') float32 about [-1, 1], and which of them were restored, (F,) bool.

        faces    (F, 3, S, S) float32, about [-1, 1]
        sources  (F, S', S', 3) uint8: the source's own face at the working size S' = `side`
        scales   (F,): px of the frame per px of the generated square; where it is 1 or less, the frame could not show
                 what restoration adds: such faces are only enlarged
        """
        enlarged = _resize(faces, self.side)
        helps = (np.asarray(scales) > 1) & (self._strength > 0)
        if not helps.any():
            self._steady.reset()
            return enlarged, helps
        chosen = torch.from_numpy(helps)
        change = _resize(self.restorer(faces[chosen]), self.side) - enlarged[chosen]
        details = iter(change - _broad(change))
        finished = []
        for face, source, scale, is_restored in zip(
            enlarged, to_pixels(torch.from_numpy(sources)), scales, helps, strict=True
        ):
            if is_restored:
                restored = face + self._steady(next(details), face)
                if self._match is not None:
                    restored = self._match(restored, source, float(scale) / self._ratio)
                face = torch.lerp(face, restored, self._strength * self._region)
            else:
                self._steady.reset()
            finished.append(face)
        return torch.stack(finished), helps


def _resize(faces: Tensor, side: int) -> Tensor:
    return F.interpolate(faces, (side, side), mode="bicubic", antialias=True)


def _broad(pictures: Tensor) -> Tensor:
    small = F.interpolate(pictures, (GRID_SIDE, GRID_SIDE), mode="area")
    return F.interpolate(_blur(small, BROAD), pictures.shape[-2:], mode="bicubic", align_corners=False)


def _blur(pictures: Tensor, sigma: float) -> Tensor:
    kernel = 2 * int(2.5 * sigma) + 1
    return gaussian_blur2d(pictures, (kernel, kernel), (sigma, sigma), border_type="replicate")
