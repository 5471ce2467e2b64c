"""The losses of the U-Net: of its output, and of the pictures that its one-step estimates of the clean latents give."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from latentsync.errors import OptionError
from latentsync.model.diffusion import ddim_scheduler, mixed_noise, one_step_clean, shared_noise
from latentsync.model.masks import generation_mask, latent_mask
from latentsync.model.vae import Autoencoder, LatentSpace, decode, encode
from latentsync.sync.syncnet import load_syncnet
from latentsync.videomae import load_videomae

from .clip_latents import to_pixels
from .config import NoiseConfig, UNetTrainingConfig
from .lip_reader import LipReader
from .losses import lip_loss, noise_loss, region_weights
from .perceptual import LPIPSLoss, VAEPerceptualLoss
from .sync_loss import sync_loss
from .trepa import TREPALoss
from .unet_batches import Batch


def draw_noise(shape: tuple[int, ...], config: NoiseConfig, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Noise (B, C, F, h, w) float32 and timesteps (B,), each clip's from its own CPU generator, noise first."""
    noise, timesteps = [], []
    for generator in generators:
        single = (1, *shape[1:])
        if config.kind == "shared":
            noise.append(shared_noise(single, generator))
        elif config.kind == "mixed":
            noise.append(mixed_noise(single, config.alpha, generator))
        else:
            noise.append(torch.randn(single, generator=generator))
        timesteps.append(torch.randint(0, ddim_scheduler().config.num_train_timesteps, (1,), generator=generator))
    return torch.cat(noise), torch.cat(timesteps)


class UNetLosses:
    """Prepares a batch for the U-Net and weighs what comes out of it. Holds the frozen networks that this takes.

    config.reference: latents, noise and schedule in half precision, as there, where training is in half precision.
    """

    def __init__(
        self,
        config: UNetTrainingConfig,
        prediction_type: str,
        vae: Autoencoder,
        device: torch.device,
        lip_reader: LipReader | None = None,
    ):
        self.config, self.prediction_type, self.device = config, prediction_type, device
        self.vae, self.lip_reader = vae, None if lip_reader is None else lip_reader.to(device)
        loss, checkpointing = config.loss, config.gradient_checkpointing
        self.half = config.reference and config.mixed_precision == "fp16"
        frozen = torch.float16 if self.half else torch.float32
        self.vae.to(device)
        if self.half:
            self.vae.half()
        if checkpointing and loss.decodes and self.vae._supports_gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        self.syncnet = load_syncnet(loss.syncnet, device, frozen) if loss.sync_weight > 0 else None
        self.perceptual = self.temporal = None
        if loss.perceptual_weight > 0:
            lpips = loss.perceptual == "lpips"
            self.perceptual = LPIPSLoss(loss.vgg, loss.lin).to(device) if lpips else VAEPerceptualLoss(self.vae)
        if loss.temporal_weight > 0:
            encoder = load_videomae(loss.video_encoder, device=device, dtype=frozen)
            self.temporal = TREPALoss(encoder, reference=config.reference, checkpointing=checkpointing)
        self.scheduler = ddim_scheduler(prediction_type)
        self.alphas = self.scheduler.alphas_cumprod.to(device)
        side = config.data.resolution
        self.mask = generation_mask(side, config.data.mask).to(device)
        self.latent_ratio = LatentSpace.of(vae.config).ratio
        size = side // self.latent_ratio
        self.hole = latent_mask(self.mask, size)
        paste = latent_mask(generation_mask(side, loss.paste_mask).to(device), size)
        self.region = region_weights(self.hole, paste, mask_weight=loss.mask_weight, paste_weight=loss.paste_weight)
        self._check_frames()

    def _check_frames(self) -> None:
        frames = {"the SyncNet": self.syncnet, "the video encoder": self.temporal and self.temporal.encoder}
        for name, network in frames.items():
            if network is not None and network.config.num_frames != self.config.data.num_frames:
                raise OptionError(
                    f"{name} looks at {network.config.num_frames} frames, but data.num_frames is "
                    f"{self.config.data.num_frames}. Set data.num_frames={network.config.num_frames}."
                )

    @property
    def needs_pixels(self) -> bool:
        of_pixels = self.syncnet is not None and not self.syncnet.config.latent
        return of_pixels or self.perceptual is not None or self.temporal is not None

    @torch.no_grad()
    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The U-Net's input (B, 3C + 1, F, h, w), timesteps (B,), noisy and clean latents and noise (B, C, F, h, w)."""
        generators = [torch.Generator().manual_seed(seed) for seed in batch.seeds.tolist()]
        if batch.latents is not None:
            latents = rearrange(batch.latents, "b n f c h w -> n b c f h w")
        else:
            latents = torch.stack(
                [self._encoded(*item) for item in zip(batch.frames, batch.reference_frames, generators, strict=True)], 1
            )
        clean, masked, reference = latents.half() if self.half else latents.float()
        noise, timesteps = draw_noise(clean.shape, self.config.noise, generators)
        noise, timesteps = noise.to(clean), timesteps.to(self.device)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        hole = self.hole.to(clean).expand(len(clean), 1, *clean.shape[2:])
        return torch.cat([noisy, hole, masked, reference], 1), timesteps, noisy, clean, noise

    def _encoded(self, frames: Tensor, reference_frames: Tensor, generator: torch.Generator) -> Tensor:
        """(3, C, F, h, w): clean, masked and reference."""
        pixels = to_pixels(frames)
        parts = (pixels, pixels * self.mask, to_pixels(reference_frames))
        sample = self.config.data.posterior == "sample"
        latents = torch.stack([encode(self.vae, part, generator, sample) for part in parts])
        return rearrange(latents, "n f c h w -> n c f h w")

    def __call__(
        self, batch: Batch, predicted: Tensor, timesteps: Tensor, noisy: Tensor, clean: Tensor, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum and the parts, unweighted; call it under autocast, which only the VAE's decoder follows.

        predicted: the U-Net's output (B, C, F, h, w); the rest as `prepare` gave it.
        """
        loss, parts = self.config.loss, {}
        wanted = noise
        if self.prediction_type == "v_prediction":
            wanted = self.scheduler.get_velocity(clean, noise, timesteps)
        if self.config.reference:
            parts["recon"] = F.mse_loss(predicted.float(), wanted.float())
        else:
            parts["recon"] = noise_loss(
                predicted, wanted, self.region, self.alphas, timesteps, max_timestep_weight=loss.max_timestep_weight
            )
        if self.needs_pixels or self.syncnet is not None or self.lip_reader is not None:
            estimate = one_step_clean(noisy, predicted.to(noisy.dtype), self.alphas, timesteps, self.prediction_type)
            if self.lip_reader is not None:
                read = self.lip_reader(rearrange(estimate, "b c f h w -> (b f) c h w").float())
                read = rearrange(read, "(b f) n -> b f n", b=len(estimate))
                parts["lip"] = lip_loss(read, batch.lips, batch.heard, self.lip_reader.deviation)
            parts |= self._of_pictures(batch, estimate, timesteps)
        weights = {
            "recon": loss.recon_weight,
            "lip": loss.lip_weight,
            "sync": loss.sync_weight,
            "perceptual": loss.perceptual_weight,
            "temporal": loss.temporal_weight,
        }
        total = sum(weights[name] * part for name, part in parts.items())
        return total, {name: part.detach() for name, part in parts.items()}

    def _of_pictures(self, batch: Batch, estimate: Tensor, timesteps: Tensor) -> dict[str, Tensor]:
        """Losses of chosen clips, one by one: each has a weight of its own, and one clip's frames are a batch."""
        loss = self.config.loss
        kinds = {"sync": self.syncnet, "perceptual": self.perceptual, "temporal": self.temporal}
        sums = {
            name: estimate.new_zeros((), dtype=torch.float32) for name, network in kinds.items() if network is not None
        }
        for i, position in enumerate(batch.positions.tolist()):
            if position % loss.pixel_every:
                continue
            weight = loss.pixel_every / len(estimate)
            if loss.pixel_timestep_weight == "signal":
                weight = weight * self.alphas[timesteps[i]] / self.alphas.mean()
            for name, part in self._of_clip(batch, estimate[i], i).items():
                sums[name] = sums[name] + weight * part
        return sums

    def _of_clip(self, batch: Batch, estimate: Tensor, i: int) -> dict[str, Tensor]:
        parts, heard = {}, bool(batch.heard[i])
        if self.needs_pixels and (heard or self.perceptual is not None or self.temporal is not None):
            chosen = self._chosen_frames(heard)
            frames = decode(self.vae, rearrange(estimate[:, chosen], "c f h w -> f c h w"))
            target = to_pixels(batch.frames[i, chosen])
        if self.perceptual is not None:
            half = frames.shape[2] // 2
            parts["perceptual"] = self.perceptual(frames[:, :, half:].float(), target[:, :, half:])
        if self.temporal is not None:
            pair = (rearrange(x, "f c h w -> 1 c f h w") for x in (frames, target))
            parts["temporal"] = self.temporal(*pair).float()
        if self.syncnet is not None and heard:  # of what was not heard the lips cannot know
            seen = estimate if self.syncnet.config.latent else rearrange(frames, "f c h w -> c f h w")
            with torch.autocast(self.device.type, enabled=False):
                parts["sync"] = sync_loss(self.syncnet, seen[None], batch.mel[i, None])
        return parts

    def _chosen_frames(self, heard: bool) -> slice:
        count, wanted = self.config.data.num_frames, self.config.loss.pixel_frames
        all_needed = self.temporal is not None or (heard and self.syncnet is not None)
        if wanted is None or all_needed or wanted >= count:
            return slice(0, count)
        return slice((count - wanted) // 2, (count - wanted) // 2 + wanted)
