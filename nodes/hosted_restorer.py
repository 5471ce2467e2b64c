"""A restorer of faces whose network ComfyUI moves, counts and evicts: the pack's own, or a native upscale model."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    import torch

    from ..latentsync.restoration.restorers import Restorer

VALUES = 384 * 3  # numbers held at once per pixel that goes in, as ComfyUI's own upscaling node reckons


@dataclass(frozen=True, repr=False)
class HostedRestorer(host.Carried):
    """What LATENTSYNC_RESTORER carries. The network is where ComfyUI has it: use `at` where it was made ready."""

    restorer: "Restorer"
    patcher: host.ModelPatcher

    @classmethod
    def of(cls, restorer: "Restorer") -> "HostedRestorer":
        return cls(restorer, host.ManagedModule.patcher(restorer.module))

    def get_ram_usage(self) -> int:
        return self.patcher.model_size()

    @property
    def memory_required(self) -> int:
        """Bytes beside the weights."""
        from ..latentsync.model.vae import PIXELS_AT_ONCE

        return VALUES * PIXELS_AT_ONCE * self.restorer.dtype.itemsize

    def at(self, device: "torch.device") -> "Restorer":
        """The restorer, for as long as its network is on that device."""
        return replace(self.restorer, device=device)


@contextlib.contextmanager
def linked_restorer(linked) -> Iterator[HostedRestorer | None]:
    """What came by a socket for a LATENTSYNC_RESTORER or an UPSCALE_MODEL; None for None.

    ComfyUI's own node moves an upscale model by itself and leaves it on the CPU: so does this at its end.
    """
    if linked is None or isinstance(linked, HostedRestorer):
        yield linked
        return
    from ..latentsync.restoration.restorers import described_restorer

    hosted = HostedRestorer.of(described_restorer(linked, f"upscale model {linked.architecture.name}"))
    try:
        yield hosted
    finally:
        host.unload(hosted.patcher)
