"""Draw avatars, let them speak, find and align their faces exactly as the product does, and store what training reads.

Makes the store of clips ``run_dir/clips`` (see clip_store.py): faces, true lips, and several voices for the same words.
Every clip is whole or not there; a run that was cut goes on, a finished set is not made again.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from latentsync.faces.align import fit_matrices, warp_faces
from latentsync.faces.finder import FaceTracker
from latentsync.model.loading import BUNDLED_WHISPER
from latentsync.model.whisper import AudioEncoder, load_whisper
from latentsync.model_files import Framing
from latentsync.synthetic.clips import AvatarClip

from .clip_store import MANIFEST, ClipStoreWriter, encode_voices
from .config import TrainingConfig, parse_settings

log = logging.getLogger(__name__)
LOG_EVERY = 50  # clips


def training_clip(index: int, config: TrainingConfig) -> AvatarClip:
    """Clip number ``index``; every clip is another person with another voice."""
    return AvatarClip(identity_seed=index, speech_seed=500_000 + index, duration=config.data.duration)


def align_clip(clip: AvatarClip, frame_size: int, resolution: int, framing: Framing = "mesh") -> np.ndarray:
    """Draw all frames of a clip and align them; (F, S, S, 3) uint8. The face must be found in every frame."""
    tracker, observation, frames, points = FaceTracker(), None, [], []
    for index in range(clip.num_frames):
        frames.append(clip.frame(index, frame_size, frame_size))
        observation = tracker(frames[-1], observation)
        if observation is None:
            raise RuntimeError(f"no face in frame {index} of avatar {clip.identity_seed}")
        points.append(observation.framed(framing))
    return warp_faces(frames, fit_matrices(np.stack(points), resolution), resolution)


def add_avatar(index: int, config: TrainingConfig) -> str | None:
    """Add clip number ``index`` to the store; its key, or None where its face is not found."""
    key = f"avatar{index:07d}"
    writer = ClipStoreWriter(config.clip_folder)
    if key in writer:
        return key
    torch.set_num_threads(1)  # the processes share the cores
    clip = training_clip(index, config)
    try:
        faces = align_clip(clip, config.data.frame_size, config.resolution, config.framing)
    except RuntimeError as error:
        log.warning("left out: %s", error)
        return None
    voices = [clip.speech_by(voice).waveform for voice in range(config.data.num_voices)]
    speech = encode_voices(voices, _whisper())
    lips = clip.lips.astype(np.float32)
    writer.add_clip(key, identity=str(index), faces=faces, lips=lips, framing=config.framing, **speech)
    return key


@lru_cache(maxsize=1)
def _whisper() -> AudioEncoder:
    return load_whisper(BUNDLED_WHISPER, device="cpu", dtype=torch.float32)


def make_dataset(config: TrainingConfig) -> Path:
    """Make what is missing of the data set; returns its folder."""
    folder = config.clip_folder
    if (folder / MANIFEST).exists():
        return folder
    kept = []
    for done, key in enumerate(_in_processes(partial(add_avatar, config=config), config), 1):
        kept += [] if key is None else [key]
        if done % LOG_EVERY == 0 or done == config.data.num_clips:
            log.info("%d of %d avatars, %d of them with a face in every frame", done, config.data.num_clips, len(kept))
    ClipStoreWriter(folder).finish(kept)
    return folder


def _in_processes(add: Callable[[int], str | None], config: TrainingConfig) -> Iterator[str | None]:
    """In the order of the clips; one worker needs no process."""
    indices = range(config.data.first_clip, config.data.first_clip + config.data.num_clips)
    if config.data.num_workers <= 1:
        threads = torch.get_num_threads()
        try:
            yield from map(add, indices)
        finally:
            torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(config.data.num_workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(add, indices)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make_dataset(parse_settings(TrainingConfig, __doc__))
