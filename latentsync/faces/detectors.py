"""The face detectors one can choose, and where their networks come from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import OptionError
from ..model_files import Origin
from .finder import FaceFinder, FaceTracker
from .insightface import InsightFaceDetector


@dataclass(frozen=True)
class Detector:
    """A row.

    load    (its files, device) -> a FaceFinder that is a FaceDetector too
    files   the options that name its model files, which the user brings; none: they come with this package
    origin  of its networks
    """

    load: Callable[[list[Path], torch.device | str], FaceFinder]
    files: tuple[str, ...]
    origin: Origin


DETECTORS = {
    "mediapipe": Detector(
        lambda files, device: FaceTracker(device),
        (),
        Origin("Google (MediaPipe)", "Apache-2.0", 2019, "https://github.com/google-ai-edge/mediapipe"),
    ),
    "insightface": Detector(
        lambda files, device: InsightFaceDetector(*files, device=device),
        ("det_model", "landmark_model"),
        Origin(
            "InsightFace",
            "non-commercial research only",
            2021,
            "https://github.com/deepinsight/insightface",
            "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91",
        ),
    ),
}


def load_detector(device: torch.device | str = "cpu", **files: Path | None) -> FaceFinder:
    """The detector whose files are given, by the names of their options; with none, the one that needs none.

    Raises what it raises about its files.
    """
    named = {name: path for name, path in files.items() if path is not None}
    row = next((row for row in DETECTORS.values() if set(row.files) == set(named)), None)
    if row is None:
        sets = [" and ".join(f"--{name}" for name in row.files) for row in DETECTORS.values() if row.files]
        given = " and ".join(f"--{name}" for name in named)
        raise OptionError(f"{given} make no face detector; give {', or '.join(sets)}, or none of them")
    return row.load([named[name] for name in row.files], device)
