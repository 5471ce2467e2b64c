"""The stages of generation as functions on tensors: encode, denoise, decode.

Frames of one chunk lie side by side in F, chunks of several faces in B; latents have C channels (model/vae.py).
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from .model.diffusion import build_scheduler, denoise
from .model.loading import LipSyncModel
from .model.masks import latent_mask
from .model.vae import decode, encode, to_pixels, vae_batch
from .options import LipSyncOptions
from .plausibility import check_finite

OnStep = Callable[[int, int, Tensor], None]
OnEstimate = Callable[[Tensor], None]


def faces_at_once(model: LipSyncModel) -> int:
    """How many faces go through the model's VAE together; one by one where memory is to be saved."""
    return vae_batch(model.resolution) if model.low_memory == "none" else 1


def condition(
    model: LipSyncModel, faces: Tensor, mask: Tensor, *, generator: torch.Generator, posterior: str = "mean"
) -> Tensor:
    """What the U-Net knows of the picture: mask, masked latents and reference latents, (F, 2C + 1, h, w) float32.

    faces: (F, S, S, 3) uint8; mask: (S, S) keep-mask. The reference of each frame is the frame itself. With
    posterior="sample" the masked image is drawn before the reference image, as in the reference.
    """
    pixels = to_pixels(faces).to(model.device)
    settings = {"generator": generator, "sample": posterior == "sample", "batch_size": faces_at_once(model)}
    masked = encode(model.vae, pixels * mask.to(pixels), **settings)
    reference = encode(model.vae, pixels, **settings)
    hole = latent_mask(mask, reference.shape[-1]).to(reference).expand(len(faces), 1, -1, -1)
    conditioning = torch.cat([hole, masked, reference], 1).float()
    check_finite(conditioning, model, "vae")
    return conditioning


def generate(
    model: LipSyncModel,
    noise: Tensor,
    conditioning: Tensor,
    tokens: Tensor,
    options: LipSyncOptions,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
) -> Tensor:
    """Denoise one chunk: clean latents (F, C, h, w) float32.

    noise: (1, C, 1, h, w), shared by all frames; conditioning: (F, 2C + 1, h, w); tokens: (F, K, D). `on_step` as in
    `denoise`; `on_estimate(clean)` is given what the latents (F, C, h, w) will be about, at each step.
    """
    return generate_clips(model, [noise], [conditioning], [tokens], options, on_step, on_estimate)[0]


def generate_clips(
    model: LipSyncModel,
    noises: Sequence[Tensor],
    conditionings: Sequence[Tensor],
    tokens: Sequence[Tensor],
    options: LipSyncOptions,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
) -> list[Tensor]:
    """The same for one chunk of each of several faces, all of F frames, in one batch. Estimates are the first one's."""
    estimate = None if on_estimate is None else lambda clean: on_estimate(rearrange(clean[0], "c f h w -> f c h w"))
    num_frames = len(conditionings[0])
    latents = denoise(
        model.unet,
        build_scheduler(options.scheduler, model.prediction_type),
        torch.cat(list(noises)).to(model.device).repeat(1, 1, num_frames, 1, 1),
        rearrange(torch.stack(list(conditionings)), "b f c h w -> b c f h w").to(model.device),
        torch.cat(list(tokens)).to(model.device),
        options.num_inference_steps,
        options.guidance_scale,
        on_step,
        estimate,
        guidance_interval=options.guidance_interval,
        cache_interval=options.cache_interval,
    )
    check_finite(latents, model, "unet")
    return list(rearrange(latents, "b c f h w -> b f c h w").float())


def decode_faces(model: LipSyncModel, latents: Tensor) -> Tensor:
    """Latents (F, C, h, w) -> faces (F, 3, S, S) float32, about [-1, 1], on the CPU.

    Raises BrokenResultError where values are not finite: a sign of float16 overflow or of a damaged model.
    """
    decoder = model.draft_decoder or model.vae
    faces = decode(decoder, latents.to(model.device), faces_at_once(model)).float().cpu()
    check_finite(faces, model, "vae")
    return faces
