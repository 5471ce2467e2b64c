"""A lip-sync model whose three networks ComfyUI moves, counts and evicts."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    from ..latentsync.models import LipSyncModel
    from .hosted_restorer import HostedRestorer

# How many numbers each network holds at once beside its weights, by its structure: skip connections, the widest layer
# of a block and its inputs. Counted on torch's meta device (tests/comfy/inside_host.py): 26.1 and 6.1; the rest is for
# what kernels take to work with. docs/performance.md has the bytes.
UNET_VALUES = 28  # per latent pixel, frame and channel of the first level
VAE_VALUES = 8  # per picture pixel and channel of the first level
WHISPER_BYTES = 256 * 2**20  # one window of 30 s; small's is the largest


@dataclass(frozen=True, repr=False)
class HostedModel(host.Carried):
    """What LATENTSYNC_MODEL carries.

    model: the networks; where they are is ComfyUI's business, so they are used inside `on_device` alone.
    """

    model: "LipSyncModel"
    unet: host.ModelPatcher
    vae: host.ModelPatcher
    whisper: host.ModelPatcher

    @classmethod
    def of(cls, model: "LipSyncModel") -> "HostedModel":
        return cls(model, *(host.ManagedModule.patcher(part) for part in (model.unet, model.vae, model.whisper)))

    def get_ram_usage(self) -> int:
        return sum(patcher.model_size() for patcher in (self.unet, self.vae, self.whisper))

    @contextlib.contextmanager
    def on_device(
        self, *parts: str, num_frames: int = 16, guided: bool = True, beside: "HostedRestorer | None" = None
    ) -> Iterator["LipSyncModel"]:
        """Inside, the named parts ("unet", "vae", "whisper") are ready for work.

        num_frames: in one chunk. guided: whether the U-Net sees each frame twice. beside: is made ready too.
        """
        patchers, memory = [getattr(self, part) for part in parts], self.memory_required(parts, num_frames, guided)
        if beside is not None:
            patchers, memory = [*patchers, beside.patcher], max(memory, beside.memory_required)
        with host.on_device(patchers, memory) as device:
            yield replace(self.model, device=device)

    def memory_required(self, parts: tuple[str, ...], num_frames: int, guided: bool) -> int:
        """Bytes beside the weights; the parts work one after another, so the largest counts."""
        from ..latentsync.pipeline import PIXELS_AT_ONCE
        from ..latentsync.vae import width_per_pixel

        size = self.model.dtype.itemsize
        side = self.model.resolution // self.model.latents.ratio
        needs = {"whisper": WHISPER_BYTES}
        if "unet" in parts:
            values = num_frames * (2 if guided else 1) * side**2 * self.model.unet.config.block_out_channels[0]
            needs["unet"] = UNET_VALUES * values * size
        if "vae" in parts:
            pixels = max(PIXELS_AT_ONCE, self.model.resolution**2)
            needs["vae"] = VAE_VALUES * pixels * width_per_pixel(self.model.vae) * size
        return max(needs[part] for part in parts)
