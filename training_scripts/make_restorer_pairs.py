"""Pairs for the small restorer: an aligned face as the small model's VAE leaves it, and the same face drawn sharp.

Writes into ``run_dir/restorer``: soft.npy (N, V, S, S, 3) and sharp.npy (N, 2S, 2S, 3), both uint8. The sharp one is
no enlarged picture: the avatar is drawn anew in the aligned square. A finished set is not made again.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from latentsync.faces.align import fit_matrices, square_to_canvas, warp_faces
from latentsync.faces.finder import FaceTracker
from latentsync.model.vae import Autoencoder, decode, encode, load_vae, to_pixels
from latentsync.synthetic.clips import AvatarClip

from .config import TrainingConfig, parse_settings
from .make_synthetic_dataset import training_clip

log = logging.getLogger(__name__)
SCALE = 2  # side of the sharp face in sides of the soft one
FRAMES_AT_ONCE = 16


def square_in_frame(matrix: np.ndarray, resolution: int, side: int) -> np.ndarray:
    """(2, 3): px of the aligned square, drawn `side` px large -> px of the frame.

    matrix: (2, 3), frame px to canvas px, of an alignment at `resolution`.
    """
    scale = resolution / side
    resized = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
    to_frame = np.linalg.inv(np.vstack([matrix.astype(np.float64), [0, 0, 1]]))
    return (to_frame @ square_to_canvas(resolution) @ resized)[:2]


def drawn_square(clip: AvatarClip, index: int, matrix: np.ndarray, frame_size: int, resolution: int, side: int):
    """The aligned square of a frame as it would look at `side` px, drawn rather than enlarged: (side, side, 3) uint8.

    frame_size: px of the square frame that `matrix` was fitted to.
    """
    view = square_in_frame(matrix, resolution, side)
    view[:, 2] += 0.5  # pixel centres at whole numbers, positions in units of the frame's height
    return clip.view(index, view / frame_size, side, side)


def draw_pairs(clip: AvatarClip, config: TrainingConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    """Aligned face (S, S, 3) and sharp one (2S, 2S, 3) of some frames; those without a face are left out."""
    tracker, size = FaceTracker(), config.data.frame_size
    pairs = []
    for index in np.linspace(0, clip.num_frames - 1, config.restorer.frames_per_clip).astype(int):
        frame = clip.frame(index, size, size)
        if (observation := tracker(frame)) is None:
            continue
        matrices = fit_matrices(observation.framed(config.framing)[None], config.resolution, "none")
        aligned = warp_faces([frame], matrices, config.resolution)[0]
        sharp = drawn_square(clip, index, matrices[0], size, config.resolution, SCALE * config.resolution)
        pairs.append((aligned, sharp))
    return pairs


@torch.inference_mode()
def soften(faces: np.ndarray, vae: Autoencoder, config: TrainingConfig, generator: torch.Generator) -> np.ndarray:
    """(N, S, S, 3) -> (N, V, S, S, 3) uint8: through the VAE, with noise in its latents as the U-Net leaves it."""
    softened = []
    for part in np.array_split(faces, max(1, len(faces) // FRAMES_AT_ONCE)):
        latents = encode(vae, to_pixels(torch.from_numpy(part)), sample=False)
        latents = latents.repeat_interleave(config.restorer.variants, 0)
        noise = torch.randn(latents.shape, generator=generator)
        strength = config.restorer.latent_noise * torch.rand((len(latents), 1, 1, 1), generator=generator)
        decoded = decode(vae, latents + strength * noise)
        levels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        softened.append(rearrange(levels, "(n v) c h w -> n v h w c", v=config.restorer.variants).numpy())
    return np.concatenate(softened)


def make_pairs(config: TrainingConfig) -> Path:
    """Make what is missing of the pairs; returns their folder."""
    folder = Path(config.run_dir) / "restorer"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "sharp.npy").exists():
        pairs = []
        for index in range(config.restorer.num_clips):
            pairs += draw_pairs(training_clip(index, config), config)
            if (index + 1) % 50 == 0:
                log.info("drew %d of %d avatars", index + 1, config.restorer.num_clips)
        _save(folder / "aligned.npy", np.stack([aligned for aligned, _ in pairs]))
        _save(folder / "sharp.npy", np.stack([sharp for _, sharp in pairs]))
    if not (folder / "soft.npy").exists():
        vae = load_vae(Path(config.run_dir) / "vae")
        generator = torch.Generator().manual_seed(config.seed)
        _save(folder / "soft.npy", soften(np.load(folder / "aligned.npy"), vae, config, generator))
    return folder


def _save(path: Path, array: np.ndarray) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.save(file, array)
    part.replace(path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    make_pairs(parse_settings(TrainingConfig, __doc__))
