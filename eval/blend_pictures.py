"""Pictures of mask_smooth and of the ways of blending, for the documentation.

    python -m eval.blend_pictures --output docs

A drawn avatar is given another speech by the bundled model. So that the edge can be seen at all, the generated face is
made a fifth brighter in both pictures; and in the one of mask_smooth it is pasted without a look at the source.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from latentsync.contact_sheet import labelled_sheet
from latentsync.faces.blend import FacePaster
from latentsync.given_paths import given_path
from latentsync.model.loading import find_model, load_model
from latentsync.options import LipSyncOptions

from .seams import Clip, avatar_clips, square_side

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
FRAMES = (2, 7, 12)
BRIGHTER = 1.2
REACH = 0.36  # sides of the face's square around the middle of what is pasted
TILE = 240  # px
MARK = np.array([255, 60, 60])  # colour of the generated part


def close_up(picture: np.ndarray, clip: Clip, index: int, paster: FacePaster) -> np.ndarray:
    """(TILE, TILE, 3) uint8 around the mouth."""
    matrix, side = clip.matrices[index], square_side(clip.matrices[index], paster.blender.resolution)
    box = paster.blender.region(picture.shape, matrix).box
    reach = REACH * side
    corner = np.array([box[0] + box[2], box[1] + box[3]]) / 2 - reach
    view = np.hstack([np.eye(2) * (2 * reach / TILE), corner[:, None]])
    return cv2.warpAffine(picture, view, (TILE, TILE), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)


def brighter(face: torch.Tensor) -> torch.Tensor:
    return (face + 1) * BRIGHTER - 1


def marked(frame: np.ndarray, paster: FacePaster, matrix: np.ndarray) -> np.ndarray:
    """The frame with the weight of the generated face in red."""
    region = paster.blender.region(frame.shape, matrix)
    picture, alpha = frame.copy(), 0.6 * region.alpha[..., None]
    picture[region.slices] = np.rint(picture[region.slices] * (1 - alpha) + MARK * alpha)
    return picture


def smoothness(clip: Clip, resolution: int, blend_mask: str) -> np.ndarray:
    """A column a step of mask_smooth: its weights, and a face that does not fit."""
    index = FRAMES[1]
    frame, matrix = clip.frames[index], clip.matrices[index]
    weights, pasted = [], []
    for step in STEPS:
        paster = FacePaster(resolution, LipSyncOptions(mask_smooth=step), blend_mask)
        result = paster.blender.paste(frame, brighter(clip.generated[index]), matrix)
        weights.append(close_up(marked(frame, paster, matrix), clip, index, paster))
        pasted.append(close_up(result, clip, index, paster))
    label = "mask_smooth\n" + ", ".join(f"{step:g}" for step in STEPS[:3]) + ",\n" + ", ".join(map(str, STEPS[3:]))
    return labelled_sheet({label: weights, "a face that\ndoes not fit,\nas it is": pasted}, side=TILE)


def methods(clip: Clip, resolution: int, blend_mask: str) -> np.ndarray:
    """A row a way of blending."""
    default = LipSyncOptions()
    ways = {
        "feather\n(default)": default,
        "feather, no\nedge match": replace(default, edge_match=False),
        "multiband": replace(default, blend_method="multiband"),
        "poisson": replace(default, blend_method="poisson"),
        "landmarks": replace(default, mask_shape="landmarks"),
    }
    plain = FacePaster(resolution, replace(default, mask_smooth=0.0), blend_mask)
    rows: dict[str, list[np.ndarray]] = {"source": [], "hard edge,\nas it is": [], **{label: [] for label in ways}}
    for index in FRAMES:
        frame, matrix, face = clip.frames[index], clip.matrices[index], brighter(clip.generated[index])
        rows["source"].append(close_up(frame, clip, index, plain))
        rows["hard edge,\nas it is"].append(close_up(plain.blender.paste(frame, face, matrix), clip, index, plain))
        for label, options in ways.items():
            paster = FacePaster(resolution, options, blend_mask)
            result = paster(frame, face, clip.aligned[index], matrix, contour=clip.contours[index])
            rows[label].append(close_up(result, clip, index, plain))
    return labelled_sheet(rows, side=TILE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=given_path, default=Path("docs"), help="folder (default: docs)")
    parser.add_argument("--checkpoints", type=given_path, default=Path("checkpoints"))
    arguments = parser.parse_args()
    model, options = load_model(find_model("tiny", arguments.checkpoints)), LipSyncOptions()
    with torch.inference_mode():
        *_, clip = avatar_clips(model, options, [3])
    arguments.output.mkdir(parents=True, exist_ok=True)
    mask = model.blend_mask or "mask"
    for name, picture in (("mask_smooth", smoothness), ("blending", methods)):
        sheet = Image.fromarray(picture(clip, model.resolution, mask))
        sheet.save(arguments.output / f"{name}.jpg", quality=82)


if __name__ == "__main__":
    main()
