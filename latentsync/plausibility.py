"""Whether what the networks made can be a picture of the face they were given.

A damaged file, a number format that overflows, another VAE or Whisper than the model was trained with: none of these
stops a network, and all of them would be written into the video. The part of the face that is to be kept is known, so
the generated face is compared with it. Measured with the bundled model: 0.98 correlation, 0.97 with two steps, 0.89 at
half its resolution, 0.81 with its prediction taken for noise; below 0.2 with broken weights, another VAE or Whisper.
"""

import torch
from torch import Tensor, nn

from .errors import BrokenResultError
from .model.loading import LipSyncModel

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
