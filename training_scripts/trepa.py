"""The temporal loss TREPA: how far apart two clips are to a video encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.videomae import VideoEncoder, resize_frames


class TREPALoss(nn.Module):
    """Mean squared difference of the clips' features of unit length, (2 - 2 cos) / D.

    encoder: VideoMAE-v2, or a small one (see `latentsync.videomae`); frozen by this.
    reference: the reference's arithmetic: pixels in [0, 1] without VideoMAE's mean and deviation, cut where they leave
    the range (no gradient there), everything in the encoder's dtype. Else float32, VideoMAE's own normalisation, and a
    cut that lets gradients through.
    checkpointing: recompute the encoder's blocks in the backward pass; of a giant one nothing else fits.
    """

    def __init__(self, encoder: VideoEncoder, reference: bool = False, checkpointing: bool = False):
        super().__init__()
        self.encoder = (encoder if reference else encoder.float()).eval().requires_grad_(False)
        self.reference = reference
        if checkpointing:
            self.encoder.checkpoint_blocks()

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Clips (B, 3, F, H, W) RGB in [-1, 1], F as the encoder has it -> scalar. Gradients flow to `predicted`."""
        with torch.no_grad():
            wanted = self._features(target)
        return F.mse_loss(self._features(predicted), wanted)

    def _features(self, frames: Tensor) -> Tensor:
        if self.reference:
            pixels = resize_frames(frames.to(self.encoder.dtype), self.encoder.config.image_size)
            return F.normalize(self.encoder((pixels / 2 + 0.5).clamp(0, 1)), dim=1)
        with torch.autocast(frames.device.type, enabled=False):
            return F.normalize(self.encoder.features(frames.float()), dim=1)
