"""Stage 4, quality: whether a piece is large and sharp enough to learn from. Needs no network."""

from collections.abc import Sequence

import cv2
import numpy as np

from .settings import PrepareSettings

COMPARED_SIDE = 128  # px, to which the faces are brought, so that one limit serves every resolution
LOOKED_AT = 16  # frames, evenly spaced
COARSE = 2.0  # px, sigma of the blur whose details are the measure's unit


def sharpness(faces: Sequence[np.ndarray]) -> float:
    """Of aligned faces (S, S, 3) uint8: how much fine detail there is beside coarse detail; contrast does not count.

    The ratio of the energies of two bands, below 1 px and between 1 and 2 px at 128 px a side; the median over frames.
    About 0 for a blurred or enlarged face.
    """
    chosen = [faces[i] for i in np.linspace(0, len(faces) - 1, min(LOOKED_AT, len(faces))).astype(int)]
    return float(np.median([_detail(face) for face in chosen]))


def _detail(face: np.ndarray) -> float:
    small = cv2.resize(face, (COMPARED_SIDE, COMPARED_SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = cv2.GaussianBlur(grey, (0, 0), COARSE / 2)
    coarse = cv2.GaussianBlur(grey, (0, 0), COARSE)
    return float(((grey - fine) ** 2).mean() / (((fine - coarse) ** 2).mean() + 0.25))


def poor_quality(segment: dict, settings: PrepareSettings) -> str | None:
    """Why a segment is not good enough; None where it is."""
    if segment["face_side"] < settings.min_face:
        return f"the face is {segment['face_side']:.0f} px large in the source; expected {settings.min_face:g} or more"
    if segment["sharpness"] < settings.min_sharpness:
        return f"the face is blurred: sharpness {segment['sharpness']:.2f}; expected {settings.min_sharpness:g} or more"
    return None
