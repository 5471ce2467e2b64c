"""Pairs for the small restorer, and what comes of training on them."""

import cv2
import numpy as np
import pytest
import torch

from latentsync.restoration.restorers import load_restorer
from latentsync.synthetic.clips import AvatarClip
from training_scripts.make_restorer_pairs import draw_pairs, make_pairs
from training_scripts.train_restorer import train_restorer


@pytest.fixture(scope="module")
def pairs(micro_run):
    return draw_pairs(AvatarClip(3, 500_003, 1.2), micro_run)


def test_the_sharp_face_is_the_aligned_one_drawn_larger(pairs, micro_run):
    """Shrunk it lies where the aligned one lies, to a fraction of a px: any shift makes the two more different."""
    side = micro_run.resolution
    assert len(pairs) == micro_run.restorer.frames_per_clip
    for aligned, sharp in pairs:
        assert (aligned.shape, sharp.shape) == ((side, side, 3), (2 * side, 2 * side, 3))
        inner = (slice(8, -8), slice(8, -8))
        differences = {}
        for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
            shifted = np.roll(sharp, (dy, dx), (0, 1))  # half a px of the aligned face
            shrunk = cv2.resize(shifted, (side, side), interpolation=cv2.INTER_AREA)
            differences[dx, dy] = np.abs(shrunk[inner].astype(float) - aligned[inner]).mean()
        assert min(differences, key=differences.get) == (0, 0), differences
        enlarged = cv2.resize(aligned, sharp.shape[:2], interpolation=cv2.INTER_CUBIC)
        assert gradient(sharp) > 1.15 * gradient(enlarged)


def gradient(picture: np.ndarray) -> float:
    return float(np.abs(np.diff(picture.astype(float), axis=0)).mean())


def test_pairs_are_made_once(new_run):
    config = new_run("pairs", "vae")
    folder = make_pairs(config)
    count, side = config.restorer.num_clips * config.restorer.frames_per_clip, config.resolution
    soft, sharp = np.load(folder / "soft.npy"), np.load(folder / "sharp.npy")
    assert (soft.shape, soft.dtype) == ((count, config.restorer.variants, side, side, 3), np.uint8)
    assert (sharp.shape, sharp.dtype) == ((count, 2 * side, 2 * side, 3), np.uint8)
    assert not np.array_equal(soft[:, 0], soft[:, 1])  # other noise in the latents
    times = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    make_pairs(config)
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == times


def test_the_result_is_a_model_that_the_product_loads(new_run):
    config = new_run("restorer", "vae")
    path = train_restorer(config)
    restorer = load_restorer(path)
    restored = restorer(torch.zeros(1, 3, config.resolution, config.resolution))
    assert restored.shape == (1, 3, 2 * config.resolution, 2 * config.resolution)
    assert train_restorer(config) == path  # finished: not trained again
