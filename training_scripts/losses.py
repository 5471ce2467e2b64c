"""The losses of training: functions of tensors, frozen networks that judge pictures, and the U-Net's sum of them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.errors import OptionError
from latentsync.metrics.picture_networks import load_lpips
from latentsync.model.diffusion import ddim_scheduler, mixed_noise, one_step_clean, shared_noise
from latentsync.model.masks import generation_mask, latent_mask
from latentsync.model.vae import Autoencoder, LatentSpace, decode, encode, vae_distance
from latentsync.sync.syncnet import StableSyncNet, load_syncnet, stack_frames
from latentsync.videomae import VideoEncoder, load_videomae, resize_frames

from .batches import Batch, to_pixels
from .config import NoiseConfig, UNetTrainingConfig
from .lip_reader import LipReader

EPS = 1e-6  # a cosine of equal float32 vectors may be 1.0000002; nothing is as sure as that


# Of the autoencoder, the restorer and the noise


def vae_loss(
    reconstruction: Tensor,
    pixels: Tensor,
    mouths: Tensor,
    *,
    gradient_weight: float,
    colour_weight: float,
    mouth_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L1, that of the gradients and that of the colours of 8 x 8 blocks.

    And the mean over the mouths alone of error and gradients, where blur shows most and few pixels would count little.

    The colour term is there because a small VAE learns shapes long before it keeps unusual colours.

    reconstruction, pixels: (N, 3, S, S) in [-1, 1]; mouths: (N, 1, S, S), 1 where inference pastes, else 0.
    Returns the loss and its unweighted parts.
    """
    error = reconstruction - pixels
    l1 = error.abs().mean()
    rows, columns = error.diff(dim=2).abs(), error.diff(dim=3).abs()
    gradient = 0.5 * (rows.mean() + columns.mean())
    at_mouth = (error.abs() * mouths).sum() + (rows * mouths[:, :, 1:]).sum() + (columns * mouths[..., 1:]).sum()
    at_mouth = at_mouth / (mouths.sum() * error.shape[1]).clamp(min=1)
    colour = F.avg_pool2d(error, 8).abs().mean()
    loss = l1 + 2 * gradient_weight * gradient + colour_weight * colour + mouth_weight * at_mouth
    parts = {"l1": l1, "gradient": gradient, "colour": colour, "mouth": at_mouth}
    return loss, {name: part.detach() for name, part in parts.items()}


def restoration_loss(restored: Tensor, sharp: Tensor, *, gradient_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 of the pictures (N, 3, h, w) in [0, 1] and of their gradients, without which edges stay soft.

    Returns the loss and its unweighted parts.
    """
    error = restored - sharp
    l1 = error.abs().mean()
    gradient = 0.5 * (error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean())
    return l1 + 2 * gradient_weight * gradient, {"l1": l1.detach(), "gradient": gradient.detach()}


def noise_loss(
    predicted: Tensor,
    target: Tensor,
    region_weight: Tensor,
    alphas_cumprod: Tensor,
    timesteps: Tensor,
    *,
    max_timestep_weight: float,
) -> Tensor:
    """Squared error of the U-Net's output, weighted where and when it shows.

    predicted, target: (B, C, F, h, w); region_weight: (h, w), see `region_weights`; alphas_cumprod: the schedule's
    table; timesteps: (B,).
    An error e of the noise moves the one-step clean latents by e * sqrt((1 - a) / a); weighting the square by 1 / a
    makes it count as what is seen, which is what keeps colours from drifting at high noise. The weight is capped, and
    its mean over all timesteps is 1. For a U-Net that predicts the velocity or the clean latents a cap of 1, which
    weighs all timesteps the same, does that by itself. The reference predicts noise and uses neither weight.
    """
    weights = (1 / alphas_cumprod).clamp(max=max_timestep_weight)
    weight = (weights / weights.mean()).to(timesteps.device)[timesteps]
    squared = (predicted.float() - target.float()) ** 2 * region_weight
    return (squared.flatten(1).mean(1) * weight).mean()


def lip_loss(read: Tensor, lips: Tensor, heard: Tensor, deviation: Tensor) -> Tensor:
    """Squared error of the lips read from one-step clean estimates; clips that heard nothing do not count.

    read, lips: (B, F, L); heard: (B,), 1 or 0; deviation: (L,) the unit of each value: 1 is what guessing costs.
    """
    return ((((read - lips) / deviation) ** 2).flatten(1).mean(1) * heard).mean()


def region_weights(keep_mask: Tensor, paste_mask: Tensor, *, mask_weight: float, paste_weight: float) -> Tensor:
    """How much each latent counts: 1 around the hole, mask_weight in it, paste_weight where inference pastes.

    keep_mask, paste_mask: (h, w) of latents, 0 in the hole. Returns (h, w).
    """
    weights = torch.where(keep_mask < 0.5, mask_weight, 1.0)
    return torch.where(paste_mask < 0.5, paste_weight, weights)


# Of SyncNet: its own training, and what it teaches the U-Net


def cosine_bce(vision: Tensor, audio: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """Binary cross-entropy of the cosine taken as a probability, mean over pairs.

    vision, audio: (..., D) vectors without negative numbers, of any length; labels: (...,), 1 where they belong
    together, else 0.
    The reference's loss, but the cosine is kept eps away from 0 and 1, where it has no value or raises an error.
    """
    return cosines_bce(F.cosine_similarity(vision.float(), audio.float(), dim=-1), labels, eps).mean()


def cosines_bce(cosines: Tensor, labels: Tensor, eps: float = EPS) -> Tensor:
    """The same of cosines (...,), pair by pair."""
    return F.binary_cross_entropy(cosines.clamp(eps, 1 - eps), labels.float(), reduction="none")


def all_pairs_loss(
    vision: Tensor,
    audio: Tensor,
    belongs: Tensor,
    differs: Sequence[Tensor],
    *,
    contrastive_weight: float,
    temperature: float,
) -> Tensor:
    """Every picture of a batch against every sound of it.

    vision, audio: (B, D) unit vectors; belongs, and each of `differs`: (B, B) bool, pictures by sounds; pairs in none
    of them do not count. The cross-entropy of the cosines: right pairs weigh half, and each kind of wrong ones the
    same part of the other half, however many there are. To it a contrastive loss is added, that of choosing the
    right sound for a picture and the right picture for a sound (logits: cosine / temperature): without it a small net
    needs many times the steps.
    """
    cosines = vision.float() @ audio.float().T
    errors = cosines_bce(cosines, belongs)
    wrong = [errors[kind].mean() for kind in differs if kind.any()]
    loss = 0.5 * (errors[belongs].mean() + torch.stack(wrong).mean())
    if contrastive_weight > 0:
        own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
        counted = torch.stack([own, *differs]).any(0)
        logits = (cosines / temperature).masked_fill(~counted, -torch.inf)
        choices = 0.5 * (logits.logsumexp(0) + logits.logsumexp(1))
        loss = loss + contrastive_weight * (choices - logits.diagonal()).mean()
    return loss


def sync_loss(syncnet: StableSyncNet, frames: Tensor, mel: Tensor) -> Tensor:
    """How badly, to a frozen SyncNet, frames go with the sound: -ln of their cosine, mean over clips; a scalar.

    frames: (B, 3, F, H, W) in [-1, 1] (latents for a latent SyncNet), resized to what it looks at; mel: (B, 1, 80, W).
    Gradients flow through the frames. Works in the SyncNet's dtype.
    """
    stacked = stack_frames(frames.to(syncnet.dtype), syncnet.config)
    vision = syncnet.embed_frames(stacked)
    with torch.no_grad():
        audio = syncnet.embed_audio(mel.to(syncnet.dtype))
    return cosine_bce(vision, audio, torch.ones(len(vision), device=vision.device))


# Of pictures: LPIPS where VGG16 is there, else `vae`, features of the VAE's own encoder


class LPIPSLoss(nn.Module):
    """LPIPS (VGG, v0.1), frozen and in float32 whatever surrounds it.

    path: torchvision's VGG16 (None: torch's cache); lin: the calibration (None: the package's own). Raises
    ModelNotFoundError where a file is missing: nothing is downloaded.
    """

    def __init__(self, path: str | Path | None = None, lin: str | Path | None = None):
        super().__init__()
        self.network = load_lpips(path, lin)

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Pictures (N, 3, h, w) RGB in [-1, 1], of any such size -> the mean distance. The reference gives it the lower
        halves of the faces."""
        with torch.autocast(predicted.device.type, enabled=False):
            return self.network(predicted.float(), target.detach().float()).mean()


class VAEPerceptualLoss(nn.Module):
    """The mean of `vae_distance` by a frozen VAE; it is no LPIPS."""

    def __init__(self, vae: Autoencoder):
        super().__init__()
        self.vae = vae

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Pictures (N, 3, h, w) RGB in [-1, 1], sides multiples of 8 -> the mean distance."""
        with torch.autocast(predicted.device.type, enabled=False):
            return vae_distance(self.vae, predicted, target).mean()


# Of movement: how far apart two clips are to a video encoder


class TREPALoss(nn.Module):
    """Mean squared difference of the clips' features of unit length, (2 - 2 cos) / D.

    encoder: VideoMAE-v2, or a small one (see `latentsync.videomae`); frozen by this.
    reference: the reference's arithmetic: pixels in [0, 1] without VideoMAE's mean and deviation, cut where they leave
    the range (no gradient there), everything in the encoder's dtype. Else float32, VideoMAE's own normalisation, and a
    cut that lets gradients through.
    checkpointing: recompute the encoder's blocks in the backward pass; of a giant one nothing else fits.
    """

    def __init__(self, encoder: VideoEncoder, reference: bool = False, checkpointing: bool = False):
        super().__init__()
        self.encoder = (encoder if reference else encoder.float()).eval().requires_grad_(False)
        self.reference = reference
        if checkpointing:
            self.encoder.checkpoint_blocks()

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Clips (B, 3, F, H, W) RGB in [-1, 1], F as the encoder has it -> scalar. Gradients flow to `predicted`."""
        with torch.no_grad():
            wanted = self._features(target)
        return F.mse_loss(self._features(predicted), wanted)

    def _features(self, frames: Tensor) -> Tensor:
        if self.reference:
            pixels = resize_frames(frames.to(self.encoder.dtype), self.encoder.config.image_size)
            return F.normalize(self.encoder((pixels / 2 + 0.5).clamp(0, 1)), dim=1)
        with torch.autocast(frames.device.type, enabled=False):
            return F.normalize(self.encoder.features(frames.float()), dim=1)


# Of the U-Net: of its output, and of the pictures that its one-step estimates of the clean latents give


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
        elif self.prediction_type == "sample":
            wanted = clean
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
