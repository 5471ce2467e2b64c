"""Whether what the networks made can be a picture of the face they were given.

A damaged file, a number format that overflows, another VAE or Whisper than the model was trained with: none of these
stops a network, and all of them would be written into the video. The part of the face that is to be kept is known, so
the generated face is compared with it. Measured with the bundled model: 0.98 correlation, 0.97 with two steps, 0.89 at
half its resolution, 0.81 with its prediction taken for noise; below 0.2 with broken weights, another VAE or Whisper.
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import BrokenResultError
from ..model.diffusion import build_scheduler, denoise
from ..model.loading import LipSyncModel
from ..model.masks import latent_mask
from ..model.vae import decode, encode, to_pixels, vae_batch
from ..options import LipSyncOptions

RANGE = 1.25  # of values, beyond which a picture clearly leaves [-1, 1]
MAX_OUT_OF_RANGE, CERTAINLY_OUT = 0.02, 0.5  # shares of values: a fitting model and VAE stay far below the first
MAX_SATURATED = 0.8  # share of values at or beyond black or white, where the source has less than half of that
LEAST_SPREAD = 1 / 127.5  # standard deviation of a picture: one grey level; flatter ones are no face
DOUBTFUL, CERTAINLY_UNLIKE = 0.85, 0.5  # correlation with the source where the mask keeps it
LEAST_STEPS = 2  # with a single step even a fitting model hardly leaves the noise
NETWORKS = {"unet": "U-Net", "vae": "VAE", "whisper": "Whisper"}


def check_finite(values: Tensor, model: LipSyncModel, part: str) -> None:
    """Raises BrokenResultError, naming the network, where values of its making are not finite. part: see NETWORKS."""
    if values.isfinite().all():
        return
    network = getattr(model, part)
    damaged = first_damaged(network) if isinstance(network, nn.Module) else None
    number_format = str(model.dtype).removeprefix("torch.")
    advice = "check that the model file is whole" if model.dtype == torch.float32 else "try float32 (fp32)"
    if damaged is not None:
        advice += f": its tensor {damaged} holds such values"
    raise BrokenResultError(
        f"the {NETWORKS[part]} of the model {model.name} produced values that are not finite numbers in "
        f"{number_format}; {advice}"
    )


def first_damaged(network: nn.Module) -> str | None:
    """The name of the first tensor with values that are not finite."""
    tensors = network.state_dict().items()
    return next((name for name, tensor in tensors if not tensor.isfinite().all()), None)


def out_of_range(faces: Tensor) -> float:
    """Share of values clearly outside [-1, 1]; a model at a wrong resolution or a wrong VAE shows here."""
    return (faces.abs() > RANGE).float().mean().item()


class FaceJudge:
    """`judge(faces, sources)` looks at generated faces (F, 3, S, S), about [-1, 1], beside the source's, the same.

    Raises BrokenResultError for what is certainly no picture of that face. `warning` tells what is doubtful, if any.

    mask      (S, S) keep-mask; num_inference_steps: of the faces
    """

    def __init__(self, model: LipSyncModel, mask: Tensor, num_inference_steps: int):
        self._model, self._kept = model, (mask > 0.5).flatten()
        self._compares = model.is_trained and num_inference_steps >= LEAST_STEPS and bool(self._kept.any())
        self.warning: str | None = None

    def __call__(self, faces: Tensor, sources: Tensor) -> None:
        outside = out_of_range(faces)
        if outside > CERTAINLY_OUT:
            raise self._broken(f"{outside:.0%} of their values are beyond black and white")
        if _saturated(faces) > MAX_SATURATED and _saturated(sources) < MAX_SATURATED / 2:
            raise self._broken(f"{_saturated(faces):.0%} of their values are black or white")
        if float(faces.flatten(1).std(1).median()) < LEAST_SPREAD <= float(sources.flatten(1).std(1).median()):
            raise self._broken("they are of one colour")
        if outside > MAX_OUT_OF_RANGE:
            self.warning = (
                f"the model's pictures exceed their range; is {self._model.resolution} the right resolution for "
                f"{self._model.name}, and is the VAE the one it was trained with?"
            )
        if self._compares:
            likeness = _correlation(faces, sources, self._kept)
            if likeness < CERTAINLY_UNLIKE:
                raise self._broken(
                    f"where they should show the source's face, their correlation with it is {likeness:.2f} instead of "
                    "nearly 1"
                )
            if likeness < DOUBTFUL and self.warning is None:
                self.warning = (
                    f"the model's pictures are unlike the source's face (correlation {likeness:.2f}); is "
                    f"{self._model.resolution} the right resolution for {self._model.name}, and are VAE and Whisper "
                    "those it was trained with?"
                )

    def _broken(self, why: str) -> BrokenResultError:
        return BrokenResultError(
            f"the pictures that the model {self._model.name} makes are no faces: {why}. None of them was used. Check "
            "that its files are whole and belong together (U-Net, VAE, Whisper, adapter), that the resolution is "
            f"{self._model.resolution}, and try float32 (fp32)"
        )


def _saturated(faces: Tensor) -> float:
    return (faces.abs() >= 1).float().mean().item()


def _correlation(faces: Tensor, sources: Tensor, kept: Tensor) -> float:
    """The median over the frames, of the values where `kept` (S * S) is true; 1 for sources without contrast."""
    pairs = [values.flatten(2)[:, :, kept].flatten(1) for values in (faces.float(), sources.float())]
    faces, sources = (values - values.mean(1, keepdim=True) for values in pairs)
    spread = sources.norm(dim=1)
    correlation = (faces * sources).sum(1) / (faces.norm(dim=1) * spread).clamp(min=1e-9)
    return float(torch.where(spread > 0, correlation, 1.0).median())


# The steps

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
