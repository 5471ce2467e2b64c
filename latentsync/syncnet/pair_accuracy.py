"""How well cosines tell pairs that belong together from those that do not."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from ..errors import OptionError
from ..model.vae import Autoencoder, encode
from .pairs import Clips, PairBatch, fixed_pairs, load_pairs, usable_clips
from .stable_syncnet import StableSyncNet, stack_frames

TOGETHER = 64  # frames that the VAE encodes at a time
THRESHOLD = 0.5


@dataclass(frozen=True)
class PairScores:
    """accuracy: share of pairs told right by a cosine over the given threshold; best_accuracy: over best_threshold.

    right, wrong: mean cosine of the pairs that belong together and of the others.
    """

    num_pairs: int
    accuracy: float
    best_accuracy: float
    best_threshold: float
    right: float
    wrong: float


def pair_scores(cosines: np.ndarray, labels: np.ndarray, threshold: float = THRESHOLD) -> PairScores:
    """cosines: (N,); labels: (N,), 1 or True where a pair belongs together. Both kinds must be there."""
    cosines, belongs = np.asarray(cosines, np.float64), np.asarray(labels) > 0.5
    order = np.argsort(cosines)
    # With the threshold below the k-th smallest cosine, k pairs are called wrong.
    below = np.concatenate(([0], np.cumsum(~belongs[order])))
    over = belongs.sum() - np.concatenate(([0], np.cumsum(belongs[order])))
    edges = np.concatenate(([-np.inf], cosines[order], [np.inf]))
    possible = np.append(np.diff(edges) > 0, True)[: len(below)]  # equal cosines cannot be told apart
    share = np.where(possible, (below + over) / len(cosines), -1.0)
    best = int(share.argmax())
    between = np.clip(edges[best : best + 2], cosines.min(), cosines.max())
    return PairScores(
        num_pairs=len(cosines),
        accuracy=float(((cosines > threshold) == belongs).mean()),
        best_accuracy=float(share[best]),
        best_threshold=float(between.mean()),
        right=float(cosines[belongs].mean()),
        wrong=float(cosines[~belongs].mean()),
    )


def prepare_frames(batch: PairBatch, vae: Autoencoder | None, device: torch.device | str) -> Tensor:
    """Faces as SyncNet's kind of frames: (B, 3, F, S, S) in [-1, 1], or scaled latents (B, C, F, s, s)."""
    frames = rearrange(batch.frames.to(device), "b f h w c -> b c f h w").float() / 127.5 - 1
    if vae is None:
        return frames
    with torch.no_grad():
        latents = encode(vae, rearrange(frames, "b c f h w -> (b f) c h w"), sample=False, batch_size=TOGETHER)
    return rearrange(latents.float(), "(b f) c h w -> b c f h w", b=len(frames))


@torch.no_grad()
def pair_cosines(syncnet: StableSyncNet, batch: PairBatch, vae: Autoencoder | None = None) -> Tensor:
    """(B,) of each picture with its sound. Raises OptionError for a latent SyncNet without a VAE."""
    if syncnet.config.latent and vae is None:
        raise OptionError("This SyncNet looks at latents; give the VAE that makes them.")
    device = next(syncnet.parameters()).device
    stacked = stack_frames(prepare_frames(batch, vae, device), syncnet.config)
    vision, audio = syncnet(stacked.to(syncnet.dtype), batch.mel.to(device, syncnet.dtype))
    return (vision.float() * audio.float()).sum(1)


def measure_pairs(
    clips: Clips,
    among: Iterable[int],
    syncnet: StableSyncNet,
    *,
    num_pairs: int = 2048,
    min_negative_distance: int = 8,
    seed: int = 42,
    batch_size: int = 64,
    vae: Autoencoder | None = None,
    threshold: float = THRESHOLD,
) -> PairScores:
    """The scores on fixed pairs of these clips: half of frames with their own sound, half with that of another time.

    Raises OptionError where no clip is long enough.
    """
    num_frames = syncnet.config.num_frames
    usable = usable_clips(clips, among, num_frames, min_negative_distance)
    pairs = fixed_pairs(clips, usable, num_frames, min_negative_distance, num_pairs, seed)
    cosines = [
        pair_cosines(syncnet, load_pairs(clips, pairs[start : start + batch_size], num_frames), vae).cpu()
        for start in range(0, num_pairs, batch_size)
    ]
    return pair_scores(torch.cat(cosines).numpy(), np.array([pair.label for pair in pairs]), threshold)
