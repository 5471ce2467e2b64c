"""The face of a clip, frame by frame: what the stages of a run hand to each other."""

from dataclasses import dataclass

import numpy as np

from .model.masks import generation_mask
from .model_files import Framing


@dataclass(frozen=True)
class FaceTrack:
    """One face through F frames of H x W px. Arrays are shared between tracks: treat them as read-only.

    aligned     (F, S, S, 3) uint8 RGB, the face on the model's square; zeros where there is none
    matrices    (F, 2, 3) float32, frame px to canvas px (faces/align.py); NaN where there is no face
    detected    (F,) bool, where the face can be generated
    weights     (F,) float32, 0..1: how much of the generated face shows; falls towards frames without a usable one
    stretches   (F,) int, equal for frames that follow each other without a loss or a cut
    confidence  (F,) float32, 0..1 that it is a face; 0 where there is none
    opening     (F,) float32, of the source's mouth in units of the distance of the outer eye corners; NaN where unknown
    yaw         (F,) float32 degrees, positive turned to the picture's right; NaN where unknown
    contours    (F, K, 2) float32 px, the landmarks facemesh.LOWER_FACE; NaN where unknown
    frame_size  (H, W) px
    resolution  S, px
    mask        name of the mask whose hole is generated, see model/masks.py
    generated   (F, 3, S', S') float32 RGB, about [-1, 1] and not clamped, zeros where there is no face; S' is S, or
                more after restoration; None before sampling
    blend_mask  name of the mask whose hole is pasted, as it suits the model; None for `mask`
    notices     what a person should know of the choice of the face
    framing     by which points the faces were aligned, see faces/detect.py; None for a detector's own
    boxes       (F, 4) float32 px, x0 y0 x1 y1 around the landmarks; NaN where there is no face; None if not kept
    """

    aligned: np.ndarray
    matrices: np.ndarray
    detected: np.ndarray
    weights: np.ndarray
    stretches: np.ndarray
    confidence: np.ndarray
    opening: np.ndarray
    yaw: np.ndarray
    contours: np.ndarray
    frame_size: tuple[int, int]
    resolution: int
    mask: str
    generated: np.ndarray | None = None
    blend_mask: str | None = None
    framing: Framing | None = None
    notices: tuple[str, ...] = ()
    boxes: np.ndarray | None = None

    @property
    def num_frames(self) -> int:
        return len(self.detected)

    @property
    def num_faces(self) -> int:
        return int(self.detected.sum())

    def get_ram_usage(self) -> int:
        """Bytes of the arrays, under the name by which ComfyUI asks what it may drop when memory is short."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))

    def hole(self) -> np.ndarray:
        """(S, S) float32 in [0, 1]: 1 where the face is generated."""
        return (1 - generation_mask(self.resolution, self.mask)).clamp(0, 1).numpy()

    def masked(self) -> np.ndarray:
        """(F, S, S, 3) uint8: the aligned faces with a grey hole, as the model sees them; zeros without a face."""
        hole = self.hole()[..., None]
        masked = np.zeros_like(self.aligned)
        for index in np.flatnonzero(self.detected):
            masked[index] = np.rint(self.aligned[index] * (1 - hole) + 127.5 * hole)
        return masked

    def crops(self) -> np.ndarray | None:
        """(F, S', S', 3) float32 in [0, 1]: generated faces as pictures; black without a face. None before sampling."""
        if self.generated is None:
            return None
        side = self.generated.shape[-1]
        crops = np.zeros((self.num_frames, side, side, 3), np.float32)
        for index in np.flatnonzero(self.detected):
            crops[index] = np.clip((self.generated[index].transpose(1, 2, 0) + 1) / 2, 0, 1)
        return crops
