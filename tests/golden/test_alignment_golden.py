"""Alignment against the reference: matrices, canvas crops and squared faces."""

import numpy as np
import pytest

from latentsync.faces.align import canvas_size, fit_matrices, template_points, warp_faces, warp_to_canvas
from latentsync.faces.insightface import points_of_106

RESOLUTIONS = (256, 512)
TOLERANCE = 1e-6  # of matrices, of the size of what they hold: float32 has 1.2e-7


@pytest.fixture
def arrays(golden):
    with np.load(golden / "align_restore.npz") as file:
        return dict(file)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_matrices(arrays, resolution):
    if f"template_{resolution}" not in arrays:
        pytest.skip(f"this golden set has nothing at {resolution}")
    np.testing.assert_allclose(template_points(resolution), arrays[f"template_{resolution}"], atol=1e-9)
    assert canvas_size(resolution) == tuple(arrays[f"face_size_wh_{resolution}"])
    for smoothing, name in [("p_bias", "smooth"), ("none", "plain")]:
        matrices = fit_matrices(arrays["landmarks"], resolution, smoothing)
        expected = arrays[f"matrices_{resolution}_{name}"]
        error = np.abs(matrices - expected)
        worst = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
        print(f"{smoothing}: mean {error.mean():.2e}, max {error.max():.2e} at {worst}")
        assert matrices.dtype == np.float32
        for part in (np.s_[..., :2], np.s_[..., 2]):  # turn and scale, and the shift, which is in px of a large frame
            assert error[part].max() <= TOLERANCE * np.abs(expected[part]).max()


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("index", [0, 4])
def test_crops(arrays, resolution, index, assert_images_close):
    if f"crop_{resolution}_{index}" not in arrays:
        pytest.skip(f"this golden set has nothing at {resolution}")
    matrix, frame = arrays[f"matrices_{resolution}_smooth"][index], arrays["frame"]
    canvas = warp_to_canvas(frame, matrix, resolution, "reference")
    assert_images_close("canvas", canvas, arrays[f"crop_{resolution}_{index}"])
    face = warp_faces(frame[None], matrix[None], resolution, "reference")[0]
    assert_images_close("face", face, arrays[f"resized_{resolution}_{index}"])


def test_three_points_of_106_landmarks(arrays):
    assert np.array_equal(points_of_106(np.round(arrays["landmarks106"])), arrays["landmarks106_to_3"])


@pytest.mark.parametrize("name", ["e2e", "e2e_pingpong"])
def test_faces_of_a_whole_run(golden, name, assert_images_close):
    with np.load(golden / f"{name}.npz") as arrays:
        video, landmarks, faces = arrays["video"], arrays["landmarks106"], arrays["faces"].transpose(0, 2, 3, 1)
    points = [points_of_106(np.round(frame_landmarks)) for frame_landmarks in landmarks]
    aligned = warp_faces(video, fit_matrices(points, faces.shape[1], "p_bias"), faces.shape[1], "reference")
    forward = list(range(len(video)))
    order = (forward + forward[::-1]) * len(faces)
    assert_images_close(name, aligned[order[: len(faces)]], faces)
