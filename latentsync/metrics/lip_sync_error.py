"""LSE-C, LSE-D and the offset of lips and sound by the original SyncNet, in the reference's arithmetic."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MediaError
from .mfcc import SAMPLE_RATE, mfcc
from .syncnet_v2 import FRAMES, MFCC_COLUMNS, SyncNetV2

FPS = 25
SHIFT = 15  # frames to either side that are tried
BATCH = 20  # windows
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS
COLUMNS_PER_FRAME = 4  # MFCC


@dataclass(frozen=True)
class LipSyncError:
    """How lips and sound go together at every shift.

    distances (N, 31) float32, of N windows of five frames: to the sound 15 frames earlier .. 15 frames later
    """

    distances: np.ndarray

    @property
    def curve(self) -> np.ndarray:
        """(31,), means over the windows."""
        return self.distances.mean(0)

    @property
    def lse_d(self) -> float:
        """The least of the curve: lower is better."""
        return float(self.curve.min())

    @property
    def lse_c(self) -> float:
        """By how much the curve's median is above its least: higher is better."""
        return float(np.median(self.curve) - self.curve.min())

    @property
    def offset(self) -> int:
        """Frames at 25 a second by which the lips come later than the sound."""
        return self.distances.shape[1] // 2 - int(self.curve.argmin())


@torch.inference_mode()
def lip_sync_error(
    network: SyncNetV2, faces: Iterable[np.ndarray], num_faces: int, samples: np.ndarray
) -> LipSyncError:
    """Of one face.

    faces: (224, 224, 3) uint8 RGB crops at 25 a second (face_crops.py), one at a time; num_faces: how many there are.
    samples: (T,) int16 at 16 kHz, beginning with the first. Raises MediaError for less than seven frames of both.
    """
    count = min(num_faces, len(samples) // SAMPLES_PER_FRAME) - FRAMES  # the reference's arange(0, n - 5)
    if count < 2:
        raise MediaError(f"{num_faces} frames beside {len(samples) / SAMPLE_RATE:.2f} s of sound; expected 7 frames")
    device = next(network.parameters()).device
    sound = torch.from_numpy(mfcc(samples).T).float()[None]
    windows = torch.stack([sound[:, :, 4 * place : 4 * place + MFCC_COLUMNS] for place in range(count)])
    audio = torch.cat([network.embed_audio(part.to(device)) for part in windows.split(BATCH)]).float().cpu()
    lips = torch.cat([network.embed_lips(part.to(device)) for part in _lip_windows(faces, count)]).float().cpu()
    return LipSyncError(shift_distances(lips, audio).numpy())


def _lip_windows(faces: Iterable[np.ndarray], count: int) -> Iterator[Tensor]:
    """Batches (<= 20, 3, 5, 224, 224) float32 BGR 0..255, `count` windows in all; what they share is held once."""
    coming = iter(faces)
    held = [_as_bgr(face) for face in islice(coming, FRAMES - 1)]
    for first in range(0, count, BATCH):
        length = min(BATCH, count - first)
        held += [_as_bgr(face) for face in islice(coming, length)]
        frames = torch.stack(held, 1).float()  # (3, n, 224, 224)
        yield torch.stack([frames[:, place : place + FRAMES] for place in range(length)])
        held = held[length:]


def _as_bgr(face: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(face[..., ::-1].transpose(2, 0, 1)))


def shift_distances(lips: Tensor, audio: Tensor, shift: int = SHIFT) -> Tensor:
    """(N, D) each -> (N, 2 shift + 1): of the lips at i to the sound at i - shift .. i + shift, zeros beyond its ends.

    As in the reference 1e-6 is added to each difference.
    """
    padded = F.pad(audio, (0, 0, shift, shift))
    return torch.stack([F.pairwise_distance(lips, padded[k : k + len(lips)]) for k in range(2 * shift + 1)], 1)
