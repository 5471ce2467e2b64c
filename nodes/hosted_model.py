"""A lip-sync model whose three networks ComfyUI moves, counts and evicts."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from . import host

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

    from ..latentsync.model.loading import LipSyncModel
    from .hosted_restorer import HostedRestorer

# How many numbers each network holds at once beside its weights, by its structure: skip connections, the widest layer
# of a block and its inputs. Counted on torch's meta device (tests/comfy/inside_host.py): 26.1 and 6.1; the rest is for
# what kernels take to work with. docs/performance.md has the bytes.
UNET_VALUES = 28  # per latent pixel, frame and channel of the first level
VAE_VALUES = 8  # per picture pixel and channel of the first level
FLOAT32_BYTES = 4
WHISPER_BYTES = 256 * 2**20  # one window of 30 s; small's is the largest


@dataclass(frozen=True, repr=False)
class HostedModel(host.Carried):
    """What LATENTSYNC_MODEL carries.

    model: the networks; where they are is ComfyUI's business, so they are used inside `on_device` alone. draft: decodes
    in place of the VAE. in_full: loads the model in float32, None where its format was chosen by hand; draft_decoder:
    loads that, None where the model has none. variants: what they loaded, by preset.
    """

    model: "LipSyncModel"
    unet: host.ModelPatcher
    vae: host.ModelPatcher
    whisper: host.ModelPatcher
    draft: host.ModelPatcher | None = None
    in_full: Callable[[], "LipSyncModel"] | None = None
    draft_decoder: Callable[[], "AutoencoderTiny"] | None = None
    variants: dict[str, "HostedModel"] = field(default_factory=dict)

    @classmethod
    def of(cls, model: "LipSyncModel", **loaders) -> "HostedModel":
        parts = (model.unet, model.vae, model.whisper)
        return cls(model, *(host.ManagedModule.patcher(part) for part in parts), **loaders)

    def for_preset(self, preset: str) -> "HostedModel":
        """The model as the preset computes with it, see presets.network_formats."""
        from ..latentsync.presets import network_formats

        dtype, decoder = network_formats(preset)
        if preset in self.variants:
            return self.variants[preset]
        if dtype == "float32" and self.in_full is not None and self.model.dtype.itemsize < FLOAT32_BYTES:
            self.variants[preset] = HostedModel.of(self.in_full())
        elif decoder == "auto" and self.draft_decoder is not None:
            loaded = self.draft_decoder()
            model = replace(self.model, draft_decoder=loaded)
            self.variants[preset] = replace(self, model=model, draft=host.ManagedModule.patcher(loaded), variants={})
        return self.variants.get(preset, self)

    def get_ram_usage(self) -> int:
        own = {self.unet, self.vae, self.whisper, self.draft}
        own |= {part for one in self.variants.values() for part in (one.unet, one.vae, one.whisper, one.draft)}
        return sum(patcher.model_size() for patcher in own if patcher is not None)

    @contextlib.contextmanager
    def on_device(
        self, *parts: str, num_frames: int = 16, guided: bool = True, beside: "HostedRestorer | None" = None
    ) -> Iterator["LipSyncModel"]:
        """Inside, the named parts ("unet", "vae", "whisper") are ready for work.

        num_frames: in one chunk. guided: whether the U-Net sees each frame twice. beside: is made ready too.
        """
        patchers, memory = [getattr(self, part) for part in parts], self.memory_required(parts, num_frames, guided)
        if "vae" in parts and self.draft is not None:
            patchers.append(self.draft)
        if beside is not None:
            patchers, memory = [*patchers, beside.patcher], max(memory, beside.memory_required)
        with host.on_device(patchers, memory) as device:
            yield replace(self.model, device=device)

    def memory_required(self, parts: tuple[str, ...], num_frames: int, guided: bool) -> int:
        """Bytes beside the weights; the parts work one after another, so the largest counts."""
        from ..latentsync.model.vae import PIXELS_AT_ONCE, width_per_pixel

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
