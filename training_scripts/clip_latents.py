"""Latents of a whole store, encoded once: for data that is small enough to lie on disk in that form too.

They lie beside the clips, in ``latents/<VAE>-<mask>/<key>.npy``: (2, F, C, s, s) float16, clean and masked, scaled
posterior means. <VAE> is a hash of its weights, so that another VAE never reads them.
"""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latentsync.errors import MediaError
from latentsync.media.output_file import written_whole
from latentsync.model.vae import Autoencoder, LatentSpace, encode

from .clip_store import ClipStore

log = logging.getLogger(__name__)
ENCODED_AT_ONCE = 25  # frames


def hash_of(vae: Autoencoder) -> str:
    """Twelve hexadecimal digits of the VAE's weights and scale."""
    digest = hashlib.sha256(repr(LatentSpace.of(vae.config)).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()))
    return digest.hexdigest()[:12]


class ClipLatents:
    """vae: on the device that encodes; mask: keep-mask (S, S), whose name tells it from others."""

    def __init__(self, store: ClipStore, vae: Autoencoder, mask: Tensor, mask_name: str):
        self.store, self.vae, self.mask = store, vae, mask
        self.folder = store.folder / "latents" / f"{hash_of(vae)}-{mask_name}-{len(mask)}"

    def path(self, i: int) -> Path:
        return self.folder / f"{self.store.keys[i]}.npy"

    def of(self, i: int) -> np.ndarray:
        """(2, F, C, s, s) float16, memory-mapped: clean and masked. Raises MediaError, with the path."""
        try:
            return np.load(self.path(i), mmap_mode="r")
        except (OSError, ValueError, EOFError) as reason:
            raise MediaError(f"{self.path(i)} cannot be read ({reason}). Delete it; it is made again.") from reason

    @torch.inference_mode()
    def make(self, clips: Iterable[int], precision: torch.dtype | None = None) -> None:
        """Encode those of the clips that are not encoded yet; broken ones are left out, and met again when read."""
        missing = [i for i in clips if not self.path(i).exists()]
        for count, i in enumerate(missing):
            try:
                frames = self.store.frames(i, 0, self.store.num_frames(i))
            except (MediaError, OSError) as error:
                log.warning("not encoded: %s", error)
                continue
            pixels = to_pixels(frames)
            with torch.autocast(self.vae.device.type, precision, enabled=precision is not None):
                both = [
                    encode(self.vae, part, sample=False, batch_size=ENCODED_AT_ONCE).half().cpu().numpy()
                    for part in (pixels, pixels * self.mask)
                ]
            with written_whole(self.path(i)) as part:
                np.save(part, np.stack(both))
            if (count + 1) % 100 == 0:
                log.info("encoded %d of %d clips", count + 1, len(missing))


def to_pixels(frames: np.ndarray | Tensor) -> Tensor:
    """(..., S, S, 3) uint8 -> (..., 3, S, S) float32 in [-1, 1]."""
    return torch.as_tensor(frames).movedim(-1, -3).float() / 127.5 - 1
