"""Chunks of all faces of a run on their way through the U-Net, several together where that can be.

Whoever needs a chunk denoised is a generator: it yields the chunk and is sent its latents. So faces that fill their
chunks with the same frame, as they usually do, are denoised in one batch. Each clip of a batch has its own GroupNorm
statistics, attention and noise, so a face is what it is alone, up to the rounding of larger matrix products.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor

from .errors import is_out_of_memory
from .model.loading import LipSyncModel
from .options import LipSyncOptions
from .pipeline import OnEstimate, OnStep, generate_clips

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
    """Denoises chunks. `on_step`, `on_estimate`: see pipeline.generate_clips. memory: of a run that goes on."""

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
