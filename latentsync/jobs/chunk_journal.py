"""The latents of a run's chunks, kept as they are made and given again to the run that goes on."""

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..denoising import Chunk
from .journal import Journal

logger = logging.getLogger(__name__)


class ChunkJournal:
    """A denoiser's memory (see denoising.ChunkMemory), in a journal whose first record says which job it is.

    A run that goes on asks for the same chunks in the same order; the U-Net's part of the work is left out as long as
    they are. From the first chunk on that differs in its faces, or that was not kept, everything is made again. Where
    the disk is full or gone the run goes on without: it is warned once.

    recalled: frames that were given again; holds_chunks: whether there is anything worth keeping.
    """

    def __init__(self, journal: Journal, facts: dict, resume: bool = True):
        """facts: what the latents depend on; resume: whether chunks that are there are used. Raises OSError."""
        self._journal, self._is_lost, self.recalled = journal, False, 0
        first = journal.read()
        self._reads_on = resume and first is not None and first[0] == {"job": facts}
        if not self._reads_on:
            journal.take_back()
            journal.append({"job": facts})
        self.holds_chunks = journal.has_more()

    def recall(self, chunks: Sequence[Chunk]) -> list[Tensor] | None:
        """Latents (F, C, h, w) float32 of chunks that were denoised together; None where they have to be made."""
        if not self._reads_on:
            return None
        record = self._journal.read()
        shapes = [(len(chunk.conditioning), chunk.noise.shape[1], *chunk.conditioning.shape[-2:]) for chunk in chunks]
        sizes = [int(np.prod(shape)) for shape in shapes]
        if record is None or record[0] != _header(chunks) or len(record[1]) != 4 * sum(sizes):
            self._reads_on = False
            if record is not None:
                logger.warning("%s holds other faces than these; they are made again", self._journal.path)
                self._journal.unread()
            return None
        self.recalled += len(chunks[0].conditioning)
        values = torch.from_numpy(np.frombuffer(record[1], "<f4").astype(np.float32))
        parts = zip(values.split(sizes), shapes, chunks, strict=True)
        return [part.reshape(shape).to(chunk.conditioning.device) for part, shape, chunk in parts]

    def keep(self, chunks: Sequence[Chunk], latents: Sequence[Tensor]) -> None:
        """Keep what was made of the chunks."""
        if self._is_lost:
            return
        payload = b"".join(part.float().cpu().contiguous().numpy().astype("<f4").tobytes() for part in latents)
        try:
            self._journal.append(_header(chunks), payload)
            self.holds_chunks = True
        except OSError as error:
            self._is_lost = True
            logger.warning(
                "%s cannot be written (%s); the run goes on, but if it is interrupted, what follows is lost",
                self._journal.path,
                error.strerror or error,
            )

    def close(self) -> None:
        self._journal.close()


def _header(chunks: Sequence[Chunk]) -> dict:
    """What the chunks are: their lengths, and a digest of the faces that they are made from."""
    digest = hashlib.sha256()
    for chunk in chunks:
        for face in chunk.faces:
            digest.update(np.ascontiguousarray(face))
    return {"frames": [len(chunk.conditioning) for chunk in chunks], "faces": digest.hexdigest()}
