"""Features for FVD: I3D, published as a TorchScript program."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DamagedCheckpointError, ModelNotFoundError

SIDE, WIDTH = 224, 400
NUM_FRAMES = 16
REFERENCE_START = 20  # the reference looks at frames 20 to 35 only


class I3D:
    """`network(clips)`: (B, T, H, W, 3) uint8 RGB -> (B, 400) float32, the logits for Kinetics' classes.

    reference: values in [0, 1], as the reference gives them, instead of [-1, 1], for which the network was trained:
    figures of the two are not comparable with each other, and those of the reference not with the literature.
    """

    def __init__(self, program: nn.Module, device: torch.device | str = "cpu", reference: bool = False):
        self._program, self._device, self._reference = program, device, reference

    @torch.inference_mode()
    def __call__(self, clips: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.ascontiguousarray(clips)).to(self._device)
        values = self._resized(pixels).div(255)
        values = values if self._reference else values * 2 - 1
        return self._program(values, rescale=False, resize=False, return_features=True).float().cpu().numpy()

    @staticmethod
    def _resized(pixels: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 -> (B, 3, T, 224, 224) float32, averaged where they are larger."""
        frames = pixels.flatten(0, 1).permute(0, 3, 1, 2).float()
        if frames.shape[-2:] != (SIDE, SIDE):
            frames = F.interpolate(frames, (SIDE, SIDE), mode="bilinear", antialias=True)
        return frames.unflatten(0, pixels.shape[:2]).transpose(1, 2).contiguous()


def load_i3d(path: str | Path, device: torch.device | str = "cpu", reference: bool = False) -> I3D:
    """From `i3d_torchscript.pt`. Such a file is a program and is run: give only one from where it is published.

    Raises ModelNotFoundError and DamagedCheckpointError.
    """
    if not Path(path).is_file():
        raise ModelNotFoundError(f"The model file {path} is not there. Check the path, or download the file.")
    try:
        program = torch.jit.load(str(path), map_location=device)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DamagedCheckpointError(f"{path} is no TorchScript program ({reason}). Download it again.") from error
    return I3D(program.eval(), device, reference)
