"""How well a video's lips go with its sound, and by how much the two lie apart, as SyncNet sees it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError, FrameCountError, OptionError
from ..model.device import own_threads
from .pair_accuracy import THRESHOLD
from .stable_syncnet import StableSyncNet, seen_part
from .sync_mel import FPS, NUM_MELS, count_windows, mel_window, sync_mel

MAX_SHIFT = 15  # frames either way, as in the LSE scores
LEAST_OVERLAP = 5  # windows that a shift is told from, where there are as many


@dataclass(frozen=True)
class SyncScore:
    """What SyncNet makes of a clip; cosines lie in 0..1.

    offset_frames   by how much the lips come later than the sound at 25 fps, negative where earlier: the sign of
                    voice.offset.estimate_offset and of SyncNet's own AV offset; the shift of the largest cosine
    confidence      that largest mean cosine less the median over all shifts: 0 where no shift is better than others
    distance        mean distance of the unit vectors at that shift, 0..1.41; less is better
    cosine          mean cosine as the clip is, not shifted
    accuracy        share of its windows, not shifted, whose cosine says that they belong together
    offsets, curve  the shifts tried, in frames, and the mean cosine at each; NaN where too few windows overlap
    num_windows     runs of frames looked at
    """

    offset_frames: int
    confidence: float
    distance: float
    cosine: float
    accuracy: float
    offsets: np.ndarray
    curve: np.ndarray
    num_windows: int

    @property
    def offset_ms(self) -> float:
        return 1000.0 * self.offset_frames / FPS


@own_threads()
def sync_score(
    faces: np.ndarray,
    sound: np.ndarray,
    syncnet: StableSyncNet,
    *,
    max_shift: int = MAX_SHIFT,
    batch_size: int = 32,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> SyncScore:
    """Compare every run of frames with the sound at the same time and up to `max_shift` frames earlier and later.

    faces: (F, S, S, 3) uint8 RGB, aligned as for the U-Net, 25 fps; sound: the waveform (T,) float at 16 kHz, or its
    sync_mel (80, M); both begin at the same time. encode: pixels (N, 3, S, S) in [-1, 1] to scaled latents, for a
    SyncNet of latents. Each run of frames and each window of sound is embedded once. Raises FrameCountError for too few
    frames, AudioError for too little sound, OptionError for what the SyncNet cannot look at.
    """
    config = syncnet.config
    if faces.ndim != 4 or faces.shape[-1] != 3 or faces.dtype != np.uint8:
        raise OptionError(f"The faces are {faces.dtype} {faces.shape}; expected uint8 of shape (F, S, S, 3).")
    if len(faces) < config.num_frames:
        raise FrameCountError(f"{len(faces)} frames were given; SyncNet needs at least {config.num_frames} in a row.")
    mel = sync_mel(sound) if np.ndim(sound) == 1 else np.asarray(sound, np.float32)
    if mel.ndim != 2 or mel.shape[0] != NUM_MELS:
        raise AudioError(f"The sound has shape {np.shape(sound)}; expected a waveform (T,) or a mel (80, M).")
    num_heard = count_windows(len(faces) + max_shift, mel.shape[1], config.num_frames)
    if not num_heard:
        raise AudioError(
            f"The sound has {mel.shape[1]} mel columns ({mel.shape[1] / 80:.2f} s); SyncNet needs at least "
            f"{config.mel_size[1]} ({config.mel_size[1] / 80:.2f} s)."
        )
    seen = _embed_faces(faces, syncnet, batch_size, encode)
    heard = _embed_sound(mel, num_heard, syncnet, batch_size)
    cosines = (seen @ heard.T).cpu().numpy()  # (runs of frames, windows of sound)
    offsets = np.arange(-max_shift, max_shift + 1)
    least = min(LEAST_OVERLAP, *cosines.shape)
    diagonals = [cosines.diagonal(-offset) for offset in offsets]  # lips later: their sound came before
    curve = np.array([part.mean() if len(part) >= least else np.nan for part in diagonals])
    best = int(np.nanargmax(curve))
    unshifted = cosines.diagonal()
    return SyncScore(
        offset_frames=int(offsets[best]),
        confidence=float(curve[best] - np.nanmedian(curve)),
        distance=float(np.sqrt(np.clip(2 - 2 * diagonals[best], 0, None)).mean()),
        cosine=float(unshifted.mean()),
        accuracy=float((unshifted > THRESHOLD).mean()),
        offsets=offsets,
        curve=curve,
        num_windows=len(cosines),
    )


@torch.inference_mode()
def _embed_faces(
    faces: np.ndarray, syncnet: StableSyncNet, batch_size: int, encode: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """(F - 15, D): of the runs of frames beginning at each frame."""
    config, device = syncnet.config, next(syncnet.parameters()).device
    if config.latent and encode is None:
        raise OptionError("This SyncNet looks at latents; give `encode`, which makes them of pixels.")
    prepared = []
    for start in range(0, len(faces), batch_size):  # each frame resized, or encoded, once
        part = torch.from_numpy(np.ascontiguousarray(faces[start : start + batch_size])).to(device)
        part = part.permute(0, 3, 1, 2).float() / 127.5 - 1
        if config.latent:
            part = encode(part).float()
        prepared.append(seen_part(part, config).to(syncnet.dtype))
    pictures = torch.cat(prepared)  # (F, C, h, w)
    channels = pictures.shape[1]
    runs = pictures.flatten(0, 1).unfold(0, config.num_frames * channels, channels).movedim(-1, 1)  # (N, F*C, h, w)
    return torch.cat([syncnet.embed_frames(part.contiguous()) for part in runs.split(batch_size)])


@torch.inference_mode()
def _embed_sound(mel: np.ndarray, count: int, syncnet: StableSyncNet, batch_size: int) -> Tensor:
    """(count, D): of the windows that belong to runs beginning at each frame."""
    windows = np.stack([mel_window(mel, start, syncnet.config.num_frames) for start in range(count)])[:, None]
    parts = torch.from_numpy(windows).to(next(syncnet.parameters()).device, syncnet.dtype).split(batch_size)
    return torch.cat([syncnet.embed_audio(part) for part in parts])
