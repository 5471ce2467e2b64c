"""The losses of SyncNet: its own training's, and what it teaches the U-Net."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from latentsync.sync.syncnet import StableSyncNet, stack_frames

EPS = 1e-6  # a cosine of equal float32 vectors may be 1.0000002; nothing is as sure as that


def cosine_bce(vision: Tensor, audio: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """Binary cross-entropy of the cosine taken as a probability, mean over pairs.

    vision, audio: (..., D) vectors without negative numbers, of any length; labels: (...,), 1 where they belong
    together, else 0.
    The reference's loss, but the cosine is kept eps away from 0 and 1, where it has no value or raises an error.
    """
    return cosines_bce(F.cosine_similarity(vision.float(), audio.float(), dim=-1), labels, eps).mean()


def cosines_bce(cosines: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """The same of cosines (...,), pair by pair."""
    return F.binary_cross_entropy(cosines.clamp(eps, 1 - eps), labels.float(), reduction="none")


def all_pairs_loss(
    vision: Tensor,
    audio: Tensor,
    belongs: Tensor,
    differs: Sequence[Tensor],
    *,
    contrastive_weight: float,
    temperature: float,
) -> Tensor:
    """Every picture of a batch against every sound of it.

    vision, audio: (B, D) unit vectors; belongs, and each of `differs`: (B, B) bool, pictures by sounds; pairs in none
    of them do not count. The cross-entropy of the cosines: right pairs weigh half, and each kind of wrong ones the
    same part of the other half, however many there are. To it a contrastive loss is added, that of choosing the
    right sound for a picture and the right picture for a sound (logits: cosine / temperature): without it a small net
    needs many times the steps.
    """
    cosines = vision.float() @ audio.float().T
    errors = cosines_bce(cosines, belongs)
    wrong = [errors[kind].mean() for kind in differs if kind.any()]
    loss = 0.5 * (errors[belongs].mean() + torch.stack(wrong).mean())
    if contrastive_weight > 0:
        own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
        counted = torch.stack([own, *differs]).any(0)
        logits = (cosines / temperature).masked_fill(~counted, -torch.inf)
        choices = 0.5 * (logits.logsumexp(0) + logits.logsumexp(1))
        loss = loss + contrastive_weight * (choices - logits.diagonal()).mean()
    return loss


def sync_loss(syncnet: StableSyncNet, frames: Tensor, mel: Tensor) -> Tensor:
    """How badly, to a frozen SyncNet, frames go with the sound: -ln of their cosine, mean over clips; a scalar.

    frames: (B, 3, F, H, W) in [-1, 1] (latents for a latent SyncNet), resized to what it looks at; mel: (B, 1, 80, W).
    Gradients flow through the frames. Works in the SyncNet's dtype.
    """
    stacked = stack_frames(frames.to(syncnet.dtype), syncnet.config)
    vision = syncnet.embed_frames(stacked)
    with torch.no_grad():
        audio = syncnet.embed_audio(mel.to(syncnet.dtype))
    return cosine_bce(vision, audio, torch.ones(len(vision), device=vision.device))
