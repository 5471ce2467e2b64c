"""Generation over a stream of faces: chunks of fixed length, cross-faded where they overlap.

The U-Net's normalisation and motion modules span a chunk, so what a frame becomes depends on its neighbours. A run is
an unbroken sequence of frames with a face.
"""

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import is_out_of_memory
from ..faces.colours import match_colours
from ..model.diffusion import shared_noise
from ..model.loading import LipSyncModel
from ..model.masks import generation_mask
from ..model.vae import to_pixels
from ..options import LipSyncOptions
from .steps import FaceJudge, OnEstimate, OnStep, check_finite, condition, decode_faces, generate_clips

# Chunks of all faces of a run on their way through the U-Net, several together where that can be.
#
# Whoever needs a chunk denoised is a generator: it yields the chunk and is sent its latents. So faces that fill their
# chunks with the same frame, as they usually do, are denoised in one batch. Each clip of a batch has its own GroupNorm
# statistics, attention and noise, so a face is what it is alone, up to the rounding of larger matrix products.

Result = TypeVar("Result")


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of one face.

    noise         (1, C, 1, h, w), shared by all frames
    conditioning  (F, 2C + 1, h, w)
    tokens        (F, K, D)
    faces         F of (S, S, 3) uint8, what the conditioning was made from
    """

    noise: Tensor
    conditioning: Tensor
    tokens: Tensor
    faces: Sequence[np.ndarray] = ()


Denoising = Generator[Chunk, Tensor, Result]
"""Work that yields chunks, is sent the clean latents (F, C, h, w) of each, and returns its result."""


class ChunkMemory(Protocol):
    """What an interrupted run has made already, asked for and added to in the order of the run."""

    def recall(self, chunks: Sequence[Chunk]) -> list[Tensor] | None:
        """Latents (F, C, h, w) of chunks that were denoised together; None where they have to be made."""
        ...

    def keep(self, chunks: Sequence[Chunk], latents: Sequence[Tensor]) -> None:
        """What was made of them."""
        ...


class Denoiser:
    """Denoises chunks. `on_step`, `on_estimate`: see steps.generate_clips. memory: of a run that goes on."""

    def __init__(
        self,
        model: LipSyncModel,
        options: LipSyncOptions,
        on_step: OnStep | None = None,
        on_estimate: OnEstimate | None = None,
        memory: ChunkMemory | None = None,
    ):
        self._model, self._options, self._memory = model, options, memory
        self._on_step, self._on_estimate = on_step, on_estimate

    def together(self, works: Sequence[Denoising[Result]]) -> list[Result]:
        """The results of all works; chunks that they ask for at the same time are denoised together."""
        results: list[Result | None] = [None] * len(works)
        asked: dict[int, Chunk] = {}

        def resume(index: int, latents: Tensor | None) -> None:
            try:
                asked[index] = works[index].send(latents)
            except StopIteration as end:
                results[index] = end.value

        for index in range(len(works)):
            resume(index, None)
        while asked:
            indices, chunks = list(asked), list(asked.values())
            asked.clear()
            for index, latents in zip(indices, self._denoised(chunks), strict=True):
                resume(index, latents)
        return results

    def _denoised(self, chunks: Sequence[Chunk]) -> Iterator[Tensor]:
        """Latents (F, C, h, w) of each chunk; those of one length beside each other go together."""
        limit = self._options.clips_at_once if self._model.low_memory == "none" else 1
        for _, equal in groupby(chunks, key=lambda chunk: len(chunk.conditioning)):
            batch = list(equal)
            while batch:
                now, batch = batch[:limit], batch[limit:]
                yield from self._generated(now)

    def _generated(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        latents = None if self._memory is None else self._memory.recall(chunks)
        if latents is None:
            latents = self._made(chunks)
            if self._memory is not None:
                self._memory.keep(chunks, latents)
        return latents

    def _made(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        try:
            return self._generate(chunks)
        except Exception as error:
            if not is_out_of_memory(error) or len(chunks) == 1:
                raise
        return [latents for chunk in chunks for latents in self._generate([chunk])]

    def _generate(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        return generate_clips(
            self._model,
            [chunk.noise for chunk in chunks],
            [chunk.conditioning for chunk in chunks],
            [chunk.tokens for chunk in chunks],
            self._options,
            self._on_step,
            self._on_estimate,
        )


# What was computed of a source frame, for when the frame is shown again: a clip that is bounced or looped, or held.

Value = TypeVar("Value")


class SourceCache(Generic[Value]):
    """Values by frame: the first ones that fit into `max_bytes`, and always the latest.

    The first are kept, not the most recently used ones: of a loop that does not fit, these would always be those that
    come last. Memory is bounded by `max_bytes`, not by the clip.
    """

    def __init__(self, max_bytes: int):
        self._room = max_bytes
        self._kept: dict[Hashable, Value] = {}
        self._latest: tuple[Hashable, Value] | None = None

    def get(self, key: Hashable) -> Value | None:
        if self._latest is not None and self._latest[0] == key:
            return self._latest[1]
        return self._kept.get(key)

    def put(self, key: Hashable, value: Value, num_bytes: int) -> None:
        self._latest = key, value
        if key not in self._kept and num_bytes <= self._room:
            self._kept[key] = value
            self._room -= num_bytes


# The chunks


@dataclass
class FaceFrame:
    """One frame on its way through generation.

    aligned: (S, S, 3) uint8; tokens: (K, D); payload: whatever the caller wants back with the result. key: the same
    for frames whose aligned faces are the same, None where that is not known.
    conditioning: (2C + 1, h, w) and latents: (C, h, w) once they are known.
    """

    aligned: np.ndarray
    tokens: Tensor
    payload: object = None
    key: Hashable = None
    conditioning: Tensor | None = field(default=None, repr=False)
    latents: Tensor | None = field(default=None, repr=False)


Pairs = list[tuple[FaceFrame, Tensor]]


class ChunkGenerator:
    """Turns frames of a run into generated faces, a chunk at a time.

    `push` takes a frame, and `flush` ends the run: work for a Denoiser, which may denoise the chunks of several faces
    together. They return frames whose latents are final, and `finished` makes faces of these, (3, S, S) float32 about
    [-1, 1]: in the same order, but in any thread. `finish(frames, faces)` may change final faces, also their size,
    before they are handed out: (F, 3, S, S) -> (F, 3, S', S'). `encoded` keeps the conditioning of frames with a key;
    not for sampled posteriors, of which each is a draw of its own. Memory: one chunk of payloads, and of the frames
    before it only aligned faces and latents.
    """

    def __init__(
        self,
        model: LipSyncModel,
        options: LipSyncOptions,
        generator: torch.Generator,
        finish: Callable[[list[FaceFrame], Tensor], Tensor] | None = None,
        encoded: SourceCache[Tensor] | None = None,
    ):
        self.model, self.options, self._generator = model, options, generator
        self._finish = finish
        self._encoded = encoded if options.posterior == "mean" else None
        self.mask = generation_mask(model.resolution, options.mask)
        side = model.resolution // model.latents.ratio
        # One draw for the whole clip, before any other, as in the reference: equal noise keeps frames alike.
        self._noise = shared_noise((1, model.latents.channels, 1, side, side), generator)
        self._waiting: list[FaceFrame] = []  # not yet final; the first ones may have latents from the chunk before
        self._judge = FaceJudge(model, self.mask, options.num_inference_steps)
        self._past: list[FaceFrame] = []  # final ones, context for a short last chunk

    @property
    def warning(self) -> str | None:
        """What is doubtful about the faces made so far."""
        return self._judge.warning

    def push(self, frame: FaceFrame) -> Denoising[list[FaceFrame]]:
        self._waiting.append(frame)
        if len(self._waiting) < self.options.chunk_frames:
            return []
        yield from self._generate()
        return self._release(self.options.chunk_frames - self.options.chunk_overlap)

    def flush(self) -> Denoising[list[FaceFrame]]:
        if any(frame.latents is None for frame in self._waiting):
            yield from self._generate()
        final = self._release(len(self._waiting))
        self._past = []
        return final

    def finished(self, final: list[FaceFrame]) -> Pairs:
        """Their faces, seen to be faces, in the source's colours. Raises BrokenResultError."""
        if not final:
            return []
        faces = decode_faces(self.model, torch.stack([frame.latents for frame in final]))
        sources = to_pixels(torch.from_numpy(np.stack([frame.aligned for frame in final])))
        self._judge(faces, sources)
        if self.options.colour_match:
            faces = match_colours(faces, sources)
        if self._finish is not None:
            faces = self._finish(final, faces)
        return list(zip(final, faces, strict=True))

    def _generate(self) -> Denoising[None]:
        missing = self.options.chunk_frames - len(self._waiting) if self.options.full_chunks else 0
        context = self._past[-missing:] if missing > 0 else []
        self._encode(self._waiting)
        chunk = context + self._waiting
        tokens = torch.stack([frame.tokens for frame in chunk])
        check_finite(tokens, self.model, "whisper")
        conditioning = torch.stack([frame.conditioning for frame in chunk])
        latents = yield Chunk(self._noise, conditioning, tokens, [frame.aligned for frame in chunk])
        latents = latents[len(context) :]
        shared = [frame for frame in self._waiting if frame.latents is not None]
        for index, (frame, new) in enumerate(zip(self._waiting, latents, strict=True)):
            if frame.latents is None:
                frame.latents = new
            else:
                weight = (index + 1) / (len(shared) + 1)
                frame.latents = torch.lerp(frame.latents, new, weight)

    def _encode(self, frames: list[FaceFrame]) -> None:
        """Give each frame its conditioning; of frames with one key, one is encoded."""
        fresh: dict[Hashable, list[FaceFrame]] = {}
        for frame in frames:
            if frame.conditioning is None and self._encoded is not None and frame.key is not None:
                frame.conditioning = self._encoded.get(frame.key)
            if frame.conditioning is None:
                known = frame.key if self._encoded is not None and frame.key is not None else id(frame)
                fresh.setdefault(known, []).append(frame)
        if not fresh:
            return
        faces = torch.from_numpy(np.stack([same[0].aligned for same in fresh.values()]))
        encoded = condition(self.model, faces, self.mask, generator=self._generator, posterior=self.options.posterior)
        for same, conditioning in zip(fresh.values(), encoded, strict=True):
            for frame in same:
                frame.conditioning = conditioning
            if self._encoded is not None and same[0].key is not None:
                # A copy, for the slice would keep all of its batch alive.
                self._encoded.put(same[0].key, conditioning.clone(), conditioning.nbytes)

    def _release(self, count: int) -> list[FaceFrame]:
        final, self._waiting = self._waiting[:count], self._waiting[count:]
        self._past = (self._past + final)[-self.options.chunk_frames :]
        return final


def generate_alone(chunks: ChunkGenerator, denoiser: Denoiser, frames: Iterable[FaceFrame | None]) -> Iterator[Pairs]:
    """Generate one face without others beside it; None among the frames, and their end, end a run.

    Yields the (frame, face) pairs that became final with each of them.
    """
    for frame in chain(frames, [None]):
        work = chunks.flush() if frame is None else chunks.push(frame)
        yield chunks.finished(denoiser.together([work])[0])
