"""Scores of a model on held-out avatars in the aligned square: sync, steadiness and picture of what would be pasted.

Every avatar is given a speech that is not its own; what it should look like then can be drawn, so each measure has a
truth. The faces are generated as the product does, but not blended into whole frames, which would cost more than them.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from latentsync.face_track import FaceTrack
from latentsync.faces.align import warp_faces
from latentsync.faces.finder import FaceTracker
from latentsync.metrics.faces import correlation, opening_track
from latentsync.metrics.pictures import psnr_of, ssim
from latentsync.model.loading import LipSyncModel, bundled_model, load_model
from latentsync.model.masks import generation_mask
from latentsync.model.vae import vae_distance
from latentsync.options import LipSyncOptions
from latentsync.speech_features import encode_speech
from latentsync.stages import prepare_faces, sample_faces
from latentsync.sync.score import sync_score
from latentsync.sync.syncnet import StableSyncNet
from latentsync.synthetic.speech import SAMPLE_RATE
from latentsync.videomae import VideoEncoder

from .heldout_avatars import HeldOutClip, held_out_clips

log = logging.getLogger(__name__)
FPS = 25.0
FRAME_SIZE = 288  # px, as the training clips were drawn
MESH_SIZE = 256  # px of the square when landmarks are looked for
STRIDE = 8  # frames between the clips that the video encoder sees


@dataclass(frozen=True)
class ClipScores:
    """Of one clip. Compared are the result and the avatar drawn with the lips of the new speech.

    sync_confidence, sync_offset: SyncNet's, see SyncScore; offset in frames, counted without its sign.
    r_opening: Pearson's r of the mouth's opening, as the face mesh sees it, with the true opening.
    flicker: mean absolute second difference over time where the result is pasted, over that of the truth; 1 as steady.
    temporal: 1 - cosine of the small video encoder's features, mean over runs of 16 frames; no VideoMAE.
    psnr (dB), ssim: where the result is pasted, and in the rectangle around it; psnr is None for equal pictures.
    vae: distance of features of the bundled VAE's encoder over that rectangle; no LPIPS.
    """

    sync_confidence: float
    sync_offset: float
    r_opening: float
    flicker: float
    temporal: float
    psnr: float | None
    ssim: float
    vae: float


MEASURES = tuple(ClipScores.__dataclass_fields__)


@dataclass(frozen=True)
class PreparedClip:
    """speech: (T,) at 16 kHz, the new one; lips: (F,) its true opening; truth: (F, S, S, 3) uint8, aligned as track."""

    track: FaceTrack
    truth: np.ndarray
    speech: np.ndarray
    lips: np.ndarray


class HeldOutScores:
    """What scoring needs: clips are drawn and aligned once, networks loaded once.

    num_clips, num_frames: of the clips of heldout_avatars.yaml, from their beginning on. options: of inference.
    """

    def __init__(
        self,
        syncnet: StableSyncNet,
        video_encoder: VideoEncoder,
        num_clips: int,
        num_frames: int,
        options: LipSyncOptions,
    ):
        self.syncnet, self.video_encoder = syncnet, video_encoder
        self.num_clips, self.num_frames, self.options = num_clips, num_frames, options
        self.bundled = load_model(bundled_model())  # its VAE and Whisper serve all

    @cached_property
    def clips(self) -> list[PreparedClip]:
        return [self._prepare(clip) for clip in held_out_clips()[0][: self.num_clips]]

    def _prepare(self, clip: HeldOutClip) -> PreparedClip:
        source, truth = (
            [side.frame(index, FRAME_SIZE, FRAME_SIZE) for index in range(self.num_frames)]
            for side in (clip.own, clip.new)
        )
        model, options = self.bundled, self.options
        track = prepare_faces(
            source,
            model.resolution,
            options,
            finder=FaceTracker(),
            fps=FPS,
            missing="error",
            blend_mask=model.blend_mask,
            framing=model.framing,
        )
        return PreparedClip(
            track,
            warp_faces(truth, track.matrices, model.resolution, options.sampling),
            clip.new.speech.waveform,
            clip.new.lips[: self.num_frames, 0],
        )

    @cached_property
    def hole(self) -> np.ndarray:
        """(S, S) bool: where the result is pasted."""
        return generation_mask(self.bundled.resolution, self.bundled.blend_mask).numpy() < 0.5

    def of_unet(self, unet: Path) -> list[ClipScores]:
        """Scores of each clip as this U-Net, with the bundled VAE and Whisper, makes it."""
        model = load_model(replace(bundled_model(), unet=unet))
        return [self.score(clip, made) for clip, made in zip(self.clips, self._generated(model), strict=True)]

    def of_truth(self) -> list[ClipScores]:
        """What the measures give for the drawn avatar itself: the best to be had."""
        return [self.score(clip, clip.truth) for clip in self.clips]

    def of_source(self) -> list[ClipScores]:
        """What they give for the source's own lips, which say something else: what doing nothing is worth."""
        return [self.score(clip, clip.track.aligned) for clip in self.clips]

    def _generated(self, model: LipSyncModel) -> Iterator[np.ndarray]:
        for number, clip in enumerate(self.clips):
            speech = encode_speech(model, clip.speech, SAMPLE_RATE, FPS)
            track = sample_faces(model, clip.track, speech, self.options)
            crops = np.rint(track.crops() * 255).astype(np.uint8)
            log.info("clip %d of %d generated", number + 1, len(self.clips))
            yield np.where(self.hole[..., None], crops, track.aligned)

    def score(self, clip: PreparedClip, made: np.ndarray) -> ClipScores:
        """made: (F, S, S, 3) uint8, aligned as the clip's track."""
        rows, columns = (slice(*span) for span in _spans(self.hole))
        mouth, true_mouth = made[:, rows, columns], clip.truth[:, rows, columns]
        sync = sync_score(made, clip.speech, self.syncnet)
        error = float(((made.astype(np.float64) - clip.truth)[:, self.hole] ** 2).mean())
        with torch.inference_mode():
            distance = vae_distance(self.bundled.vae, as_pixels(mouth), as_pixels(true_mouth))
        enlarged = (cv2.resize(face, (MESH_SIZE, MESH_SIZE), interpolation=cv2.INTER_CUBIC) for face in made)
        return ClipScores(
            sync_confidence=sync.confidence,
            sync_offset=float(abs(sync.offset_frames)),
            r_opening=correlation(opening_track(enlarged), clip.lips),
            flicker=unsteadiness(made[:, self.hole]) / unsteadiness(clip.truth[:, self.hole]),
            temporal=temporal_distance(self.video_encoder, made, clip.truth),
            psnr=psnr_of(error) if error else None,
            ssim=float(np.mean([ssim(*pair) for pair in zip(mouth, true_mouth, strict=True)])),
            vae=float(distance.mean()),
        )


def unsteadiness(frames: np.ndarray) -> float:
    """Mean absolute second difference over time of (F, ...) levels."""
    return float(np.abs(np.diff(frames.astype(np.float64), n=2, axis=0)).mean())


@torch.inference_mode()
def temporal_distance(encoder: VideoEncoder, made: np.ndarray, truth: np.ndarray) -> float:
    """1 - cosine of the features of runs of frames, (F, S, S, 3) uint8 each; the mean over the runs."""
    length = encoder.config.num_frames
    starts = range(0, len(made) - length + 1, STRIDE)
    features = []
    for faces in (made, truth):
        runs = torch.stack([as_pixels(faces[start : start + length]) for start in starts])
        features.append(encoder.features(runs.transpose(1, 2)))
    return float((1 - F.cosine_similarity(*features)).mean())


def as_pixels(faces: np.ndarray) -> torch.Tensor:
    """(F, H, W, 3) uint8 -> (F, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(faces)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _spans(region: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last-plus-one rows and columns of a region, widened to multiples of 8 for the VAE."""
    spans = []
    for axis in (1, 0):
        where = np.flatnonzero(region.any(axis))
        spans.append((int(where[0]) // 8 * 8, min(len(region), -(-int(where[-1] + 1) // 8) * 8)))
    return spans[0], spans[1]


def as_rows(scores: list[ClipScores]) -> list[dict]:
    return [asdict(score) for score in scores]
