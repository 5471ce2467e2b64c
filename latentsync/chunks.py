"""Generation over a stream of faces: chunks of fixed length, cross-faded where they overlap.

The U-Net's normalisation and motion modules span a chunk, so what a frame becomes depends on its neighbours. A run is
an unbroken sequence of frames with a face.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .colours import match_colours
from .diffusion import shared_noise
from .masks import generation_mask
from .models import LATENT_SCALE, LipSyncModel
from .options import LipSyncOptions
from .pipeline import OnEstimate, OnStep, condition, decode_faces, generate, to_pixels
from .plausibility import FaceJudge, check_finite


@dataclass
class FaceFrame:
    """One frame on its way through generation.

    aligned: (S, S, 3) uint8; tokens: (K, D); payload: whatever the caller wants back with the result.
    conditioning: (9, h, w) and latents: (4, h, w) once they are known.
    """

    aligned: np.ndarray
    tokens: Tensor
    payload: object = None
    conditioning: Tensor | None = field(default=None, repr=False)
    latents: Tensor | None = field(default=None, repr=False)


class ChunkGenerator:
    """Turns frames of a run into generated faces, a chunk at a time.

    Feed frames with `push`; it yields (frame, face) pairs as they become final, face (3, S, S) float32 about [-1, 1].
    `flush` ends the run. `finish(frames, faces)` may change final faces, also their size, before they are handed out:
    (F, 3, S, S) -> (F, 3, S', S'). Memory: one chunk of payloads, and of the frames before it only aligned faces and
    latents.
    """

    def __init__(
        self,
        model: LipSyncModel,
        options: LipSyncOptions,
        generator: torch.Generator,
        on_step: OnStep | None = None,
        on_estimate: OnEstimate | None = None,
        finish: Callable[[list[FaceFrame], Tensor], Tensor] | None = None,
    ):
        self.model, self.options, self._generator = model, options, generator
        self._on_step, self._on_estimate, self._finish = on_step, on_estimate, finish
        self.mask = generation_mask(model.resolution, options.mask)
        side = model.resolution // LATENT_SCALE
        # One draw for the whole clip, before any other, as in the reference: equal noise keeps frames alike.
        self._noise = shared_noise((1, 4, 1, side, side), generator)
        self._waiting: list[FaceFrame] = []  # not yet final; the first ones may have latents from the chunk before
        self._judge = FaceJudge(model, self.mask, options.num_inference_steps)
        self._past: list[FaceFrame] = []  # final ones, context for a short last chunk

    @property
    def warning(self) -> str | None:
        """What is doubtful about the faces made so far."""
        return self._judge.warning

    def push(self, frame: FaceFrame) -> Iterator[tuple[FaceFrame, Tensor]]:
        self._waiting.append(frame)
        if len(self._waiting) == self.options.chunk_frames:
            self._generate()
            yield from self._release(self.options.chunk_frames - self.options.chunk_overlap)

    def flush(self) -> Iterator[tuple[FaceFrame, Tensor]]:
        if any(frame.latents is None for frame in self._waiting):
            self._generate()
        yield from self._release(len(self._waiting))
        self._past = []

    def _generate(self) -> None:
        missing = self.options.chunk_frames - len(self._waiting) if self.options.full_chunks else 0
        context = self._past[-missing:] if missing > 0 else []
        self._encode(self._waiting)
        chunk = context + self._waiting
        tokens = torch.stack([frame.tokens for frame in chunk])
        check_finite(tokens, self.model, "whisper")
        latents = generate(
            self.model,
            self._noise,
            torch.stack([frame.conditioning for frame in chunk]),
            tokens,
            self.options,
            self._on_step,
            self._on_estimate,
        )[len(context) :]
        shared = [frame for frame in self._waiting if frame.latents is not None]
        for index, (frame, new) in enumerate(zip(self._waiting, latents, strict=True)):
            if frame.latents is None:
                frame.latents = new
            else:
                weight = (index + 1) / (len(shared) + 1)
                frame.latents = torch.lerp(frame.latents, new, weight)

    def _encode(self, frames: list[FaceFrame]) -> None:
        fresh = [frame for frame in frames if frame.conditioning is None]
        faces = torch.from_numpy(np.stack([frame.aligned for frame in fresh]))
        encoded = condition(self.model, faces, self.mask, generator=self._generator, posterior=self.options.posterior)
        for frame, conditioning in zip(fresh, encoded, strict=True):
            frame.conditioning = conditioning

    def _release(self, count: int) -> Iterator[tuple[FaceFrame, Tensor]]:
        final, self._waiting = self._waiting[:count], self._waiting[count:]
        if not final:
            return
        faces = decode_faces(self.model, torch.stack([frame.latents for frame in final]))
        sources = to_pixels(torch.from_numpy(np.stack([frame.aligned for frame in final])))
        self._judge(faces, sources)
        if self.options.colour_match:
            faces = match_colours(faces, sources)
        if self._finish is not None:
            faces = self._finish(final, faces)
        for frame, face in zip(final, faces, strict=True):
            yield frame, face
            frame.payload = None  # the picture itself is no longer needed
        self._past = (self._past + final)[-self.options.chunk_frames :]
