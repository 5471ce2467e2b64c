"""Looks at a face while it is being made."""

import time
from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from .model.loading import LipSyncModel
from .model.vae import decode

OnPreview = Callable[[np.ndarray], None]


class FacePreview:
    """`preview(clean)`: shows the middle face of the chunk that these latents (F, C, h, w) would become.

    on_preview  given (S, S, 3) uint8 RGB; may raise to stop
    interval    s between two of them at least; each costs the decoding of one face. 0: each time
    """

    def __init__(self, model: LipSyncModel, on_preview: OnPreview, interval: float = 0.5):
        self._model, self._on_preview, self._interval = model, on_preview, interval
        self._last: float | None = None

    def __call__(self, clean: Tensor) -> None:
        now = time.monotonic()
        if self._last is not None and now - self._last < self._interval:
            return
        self._last = now
        middle = len(clean) // 2
        face = decode(self._model.draft_decoder or self._model.vae, clean[middle : middle + 1].to(self._model.device))
        self._on_preview(as_picture(face[0]))


def as_picture(face: Tensor) -> np.ndarray:
    """Face (3, S, S), about [-1, 1] -> (S, S, 3) uint8; values that are not numbers become grey."""
    levels = face.detach().float().nan_to_num(0).clamp(-1, 1).add(1).mul(127.5).round()
    return rearrange(levels.to(torch.uint8).cpu(), "c h w -> h w c").contiguous().numpy()
