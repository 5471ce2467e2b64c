"""Draw avatars, let them speak, find and align their faces exactly as the product does, and store what training reads.

Writes into ``run_dir/data``: seeds.npy (N,), faces.npy (N, F, S, S, 3) uint8 and lips.npy (N, F, 2) float32. A finished
set is not made again.
"""

import logging
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from latentsync.faces.alignment import fit_matrices, warp_faces
from latentsync.faces.tracking import FaceTracker
from latentsync.synthetic.clips import AvatarClip

from .config import TrainingConfig, parse_config

log = logging.getLogger(__name__)


def training_clip(index: int, config: TrainingConfig) -> AvatarClip:
    """Clip number ``index``; every clip is another person with another voice."""
    return AvatarClip(identity_seed=index, speech_seed=500_000 + index, duration=config.data.duration)


def align_clip(clip: AvatarClip, frame_size: int, resolution: int) -> np.ndarray:
    """Draw all frames of a clip and align them; (F, S, S, 3) uint8. The face must be found in every frame."""
    torch.set_num_threads(1)
    tracker, observation, frames, points = FaceTracker(), None, [], []
    for index in range(clip.num_frames):
        frames.append(clip.frame(index, frame_size, frame_size))
        observation = tracker(frames[-1], observation)
        if observation is None:
            raise RuntimeError(f"no face in frame {index} of avatar {clip.identity_seed}")
        points.append(observation.points)
    return warp_faces(frames, fit_matrices(np.stack(points), resolution), resolution)


def _aligned_or_none(index: int, config: TrainingConfig) -> np.ndarray | None:
    try:
        return align_clip(training_clip(index, config), config.data.frame_size, config.resolution)
    except RuntimeError as error:
        log.warning("left out: %s", error)
        return None


def make_dataset(config: TrainingConfig) -> Path:
    """Make what is missing of the data set; returns its folder."""
    folder = Path(config.run_dir) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "faces.npy").exists():
        return folder
    with ProcessPoolExecutor(config.data.num_workers) as pool:
        aligned = list(pool.map(partial(_aligned_or_none, config=config), range(config.data.num_clips), chunksize=4))
    kept = [i for i, faces in enumerate(aligned) if faces is not None]
    log.info("%d of %d avatars have a face in every frame", len(kept), len(aligned))
    np.save(folder / "seeds.npy", np.array(kept))
    np.save(folder / "lips.npy", np.stack([training_clip(i, config).lips for i in kept]).astype(np.float32))
    part = folder / "faces.npy.part"
    with part.open("wb") as file:  # last and by rename: its presence says that the data set is complete
        np.save(file, np.stack([aligned[i] for i in kept]))
    part.replace(folder / "faces.npy")
    return folder


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make_dataset(parse_config(__doc__))
