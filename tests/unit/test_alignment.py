"""Alignment of real transforms and pictures, smoothing over time, and the edges of the frame."""

import cv2
import numpy as np
import pytest

from latentsync.errors import OptionError
from latentsync.faces.align import (
    FILL,
    Aligner,
    PointFilter,
    canvas_size,
    fit_matrices,
    square_to_canvas,
    template_points,
    warp_faces,
    warp_to_canvas,
)


def similarity(scale, degrees, shift):
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([turn, np.array(shift, float)[:, None]], 1)


def ramp_frame(height=300, width=400):
    """Smooth picture whose red and green tell the position."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 90)], -1).astype(np.uint8)


def test_exact_similarity_is_recovered():
    to_frame = similarity(1.7, 20, (140, -30))
    points = template_points(256) @ to_frame[:, :2].T + to_frame[:, 2]
    matrix = fit_matrices(points[None], 256, "none")[0]
    round_trip = points @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(round_trip, template_points(256), atol=2e-4)


def test_a_large_frame_costs_no_precision():
    """Matrices in float16 move the crop by up to a pixel at this size, differently in each frame."""
    to_frame = similarity(2.9, -8, (1311.3, 1583.7))
    points = template_points(256) @ to_frame[:, :2].T + to_frame[:, 2]
    matrix = fit_matrices(points[None], 256, "none")[0]
    assert matrix.dtype == np.float32
    error = points @ matrix[:, :2].astype(np.float64).T + matrix[:, 2] - template_points(256)
    assert np.abs(error).max() < 0.005
    halved = matrix.astype(np.float16).astype(np.float64)
    assert np.abs(points @ halved[:, :2].T + halved[:, 2] - template_points(256)).max() > 0.1


def test_mirrored_points_are_turned_and_not_reflected():
    points = template_points(256)[[1, 0, 2]]
    assert np.linalg.det(fit_matrices(points[None], 256, "none")[0][:, :2]) > 0


def test_reference_bias_on_an_upright_face_is_below_a_pixel():
    points = np.array([[200.0, 200], [300, 204], [251, 262]])
    plain, biased = (fit_matrices(points[None], 512, s)[0] for s in ("none", "p_bias"))
    assert np.array_equal(plain[:, :2], biased[:, :2])
    assert 0 < np.abs(plain - biased).max() < 1


@pytest.mark.parametrize("points", [np.ones((3, 2)), np.full((3, 2), np.nan), np.ones((4, 2))])
def test_unusable_points_are_refused(points):
    with pytest.raises(ValueError, match="points"):
        Aligner(256)(points)


def test_unknown_options_are_refused():
    with pytest.raises(OptionError, match="laplacian"):
        Aligner(256, "laplacian")
    with pytest.raises(OptionError, match="nearest"):
        warp_faces([ramp_frame()], [similarity(1, 0, (0, 0))], 64, "nearest")


@pytest.mark.parametrize("resolution", [64, 256, 512])
def test_square_shows_the_part_of_the_frame_the_matrix_says(resolution):
    frame = ramp_frame()
    matrix = similarity(resolution / 256, 10, (-100 * resolution / 256, -60 * resolution / 256))
    face = warp_faces([frame], [matrix], resolution)[0]
    to_frame = np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ square_to_canvas(resolution)
    for u, v in [(0.25, 0.25), (0.5, 0.6), (0.75, 0.4)]:
        column, row = int(u * resolution), int(v * resolution)
        x, y = (to_frame @ [column, row, 1])[:2]
        np.testing.assert_allclose(face[row, column], [x * 255 / 400, y * 255 / 300, 90], atol=1.5)


def test_outside_of_the_frame_is_grey():
    frame = np.zeros((60, 80, 3), np.uint8)
    canvas = warp_to_canvas(frame, similarity(1, 0, (0, 0)), 256)
    assert (canvas[:60, :80] == 0).all()
    assert (canvas[61:] == FILL).all()
    assert (canvas[:, 81:] == FILL).all()
    assert (warp_to_canvas(frame, similarity(1, 0, (5000, 0)), 256) == FILL).all()


def test_region_of_interest_equals_the_whole_frame():
    """Reading only what the canvas covers gives the pixels a warp of the whole frame gives."""
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.integers(0, 256, (500, 700, 3), dtype=np.uint8), (0, 0), 3)
    matrix = similarity(0.9, -25, (-150, 60))
    width, height = canvas_size(256)
    whole = cv2.warpAffine(frame, matrix, (width, height), borderValue=(FILL,) * 3).astype(int)
    assert np.abs(warp_to_canvas(frame, matrix, 256) - whole).max() <= 2


def test_quality_sampling_averages_a_large_face_and_the_reference_aliases():
    frame = np.zeros((2000, 2000, 3), np.uint8)
    frame[::2] = 254  # lines far finer than the canvas shows
    matrix = similarity(0.15, 0, (0, 0))
    quality, reference = (warp_to_canvas(frame, matrix, 256, s)[20:260, 20:190] for s in ("quality", "reference"))
    assert quality.std() < 20 < reference.std()
    assert quality.mean() == pytest.approx(127, abs=1)


def test_rounding_removes_the_darkening_of_truncation():
    rng = np.random.default_rng(1)
    frame = cv2.GaussianBlur(rng.integers(0, 256, (400, 400, 3), dtype=np.uint8), (0, 0), 2)
    matrix = similarity(1, 7, (-60, -40))
    rounded, truncated = (warp_to_canvas(frame, matrix, 256, s).astype(float) for s in ("quality", "reference"))
    assert (rounded - truncated).mean() == pytest.approx(0.5, abs=0.05)


def test_temporal_filter_stills_noise_without_shifting_the_mean():
    rng = np.random.default_rng(2)
    still = np.array([[200.0, 200], [300, 204], [251, 262]])
    noisy = still + rng.normal(0, 1, (200, 3, 2))
    smooth = PointFilter(25)
    filtered = np.stack([smooth(points) for points in noisy])[25:]
    assert filtered.std(0).mean() < 0.5 * noisy[25:].std(0).mean()
    np.testing.assert_allclose(filtered.mean(0), still, atol=0.3)


def test_temporal_filter_follows_a_moving_head():
    still = np.array([[200.0, 200], [300, 204], [251, 262]])
    moving = still + np.arange(50)[:, None, None] * np.array([6.0, 0])  # 1.5 face widths a second
    smooth = PointFilter(25)
    lag = moving[-1] - [smooth(points) for points in moving][-1]
    assert np.abs(lag).max() < 6  # less than one frame behind


def test_temporal_filter_is_independent_of_the_frame_size():
    rng = np.random.default_rng(3)
    points = np.array([[200.0, 200], [300, 204], [251, 262]]) + rng.normal(0, 2, (30, 3, 2)).cumsum(0)
    small, large = PointFilter(25), PointFilter(25)
    for frame_points in points:
        np.testing.assert_allclose(small(frame_points) * 4, large(frame_points * 4), rtol=1e-9)


@pytest.mark.parametrize("how", ["jump", "reset"])
def test_temporal_filter_starts_anew(how):
    first = np.array([[200.0, 200], [300, 204], [251, 262]])
    second = first + (90 if how == "jump" else 5)
    aligner = Aligner(256)
    for _ in range(5):
        aligner(first)
    if how == "reset":
        aligner.reset()
    assert np.array_equal(aligner(second), Aligner(256)(second))
