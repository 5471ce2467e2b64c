"""Paste-back against the reference, alone and at the end of a whole run."""

import numpy as np
import pytest
import torch

from latentsync.faces.align import fit_matrices
from latentsync.faces.blend import FaceBlender, keep_surroundings
from latentsync.faces.insightface import points_of_106
from latentsync.model.masks import generation_mask


@pytest.mark.parametrize("resolution", [256, 512])
@pytest.mark.parametrize("index", [0, 4])
def test_restored_frames(golden, resolution, index, assert_images_close):
    with np.load(golden / "align_restore.npz") as file:
        arrays = dict(file)
    if f"restored_{resolution}_{index}" not in arrays:
        pytest.skip(f"this golden set has nothing at {resolution}")
    face = arrays["face32"].repeat(resolution // 32, axis=1).repeat(resolution // 32, axis=2)
    matrix = arrays[f"matrices_{resolution}_smooth"][index]
    pasted = FaceBlender(resolution, mode="reference").paste(arrays["frame"], face, matrix)
    assert_images_close(f"{resolution} frame {index}", pasted, arrays[f"restored_{resolution}_{index}"])
    assert (pasted != arrays["frame"]).any()


@pytest.mark.parametrize("name", ["e2e", "e2e_pingpong"])
def test_output_frames_of_a_whole_run(golden, name, assert_images_close):
    with np.load(golden / f"{name}.npz") as file:
        arrays = dict(file)
    video, faces, expected = arrays["video"], torch.from_numpy(arrays["faces"]), arrays["output_frames"]
    resolution = faces.shape[-1]
    points = [points_of_106(np.round(landmarks)) for landmarks in arrays["landmarks106"]]
    matrices = fit_matrices(points, resolution, "p_bias")
    aligned = faces.float() / 127.5 - 1
    decoded = torch.from_numpy(arrays["decoded"]).float()
    generated = keep_surroundings(decoded, aligned, generation_mask(resolution))
    blender = FaceBlender(resolution, mode="reference")
    forward = list(range(len(video)))
    order = ((forward + forward[::-1]) * len(faces))[: len(faces)]
    pasted = np.stack([blender.paste(video[i], face, matrices[i]) for i, face in zip(order, generated, strict=True)])
    assert_images_close(name, pasted, expected)
