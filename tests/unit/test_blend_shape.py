"""The edge of what is pasted: its width, alike at every resolution, and its course along landmarks."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from latentsync.faces.align import fit_matrices, square_to_canvas
from latentsync.faces.blend import FacePaster
from latentsync.faces.detect import INNER_LIPS, LOWER_FACE, NOSES, alignment_points
from latentsync.faces.edge import CONTOUR_MARGIN, FEATHER_WIDTH, shape_of_mask, signed_distance
from latentsync.faces.finder import FaceTracker
from latentsync.model.masks import MASK_NAMES, generation_mask
from latentsync.options import LipSyncOptions
from latentsync.synthetic.clips import AvatarClip

POINTS = np.array([[260.0, 150], [340, 160], [297, 201]])


def matrix_of(resolution: int, scale: int) -> np.ndarray:
    """Of one square for all resolutions: fitted to each, it would lie up to half a px of the canvas elsewhere."""
    at_128 = np.vstack([fit_matrices(POINTS[None] * scale, 128, "none")[0], [0, 0, 1]])
    ratio = resolution / 128
    larger = np.array([[ratio, 0, (ratio - 1) / 2], [0, ratio, (ratio - 1) / 2], [0, 0, 1]])
    return (square_to_canvas(resolution) @ larger @ np.linalg.inv(square_to_canvas(128)) @ at_128)[:2]


def alpha_in_frame(resolution: int, smooth: float, name: str = "mask", scale: int = 1) -> np.ndarray:
    matrix = matrix_of(resolution, scale)
    paster = FacePaster(resolution, LipSyncOptions(blend_mask=name, mask_smooth=smooth))
    region = paster.blender.region((480 * scale, 640 * scale), matrix)
    alpha = np.zeros((480 * scale, 640 * scale), np.float32)
    alpha[region.slices] = region.alpha
    return alpha


@pytest.mark.parametrize("name", MASK_NAMES)
def test_mask_smooth_only_ever_softens(name):
    """The ramp grows with every step; the share of what is generated stays the same."""
    steps = [alpha_in_frame(256, smooth, name, scale=2) for smooth in (0, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 1)]
    soft = [int(((alpha > 0) & (alpha < 1)).sum()) for alpha in steps]
    assert soft[0] == 0
    assert all(wider > 1.15 * narrower for narrower, wider in pairwise(soft[1:]))
    steepest = [np.abs(np.diff(alpha, axis=0)).max() for alpha in steps]
    assert steepest == sorted(steepest, reverse=True)
    for alpha in steps:
        assert alpha.sum() == pytest.approx(steps[0].sum(), rel=0.04)
        core = cv2.erode((steps[0] > 0).astype(np.uint8), np.ones((61, 61))) > 0
        assert (alpha[core] == 1).all()


@pytest.mark.parametrize("smooth", [0.05, 0.3, 1.0])
def test_the_edge_does_not_know_the_resolution(smooth):
    edges = [alpha_in_frame(resolution, smooth) for resolution in (128, 256, 512)]  # whose canvases are alike
    for other in edges[1:]:
        difference = np.abs(other - edges[0])
        print(f"{smooth}: at most {difference.max():.4f}")
        assert difference.max() < 0.01
    large = cv2.resize(alpha_in_frame(256, smooth, scale=3), (640, 480), interpolation=cv2.INTER_AREA)
    assert np.abs(large - edges[1]).mean() < 0.003


def test_the_ramp_is_as_wide_as_documented():
    alpha = shape_of_mask(np.tile(np.arange(500) < 250, (500, 1)), 0.6).alpha(500)[250]
    ramp = np.flatnonzero((alpha > 0) & (alpha < 1))
    ramp = ramp[ramp < 400]  # the other one is the square's border
    assert len(ramp) == pytest.approx(0.6 * FEATHER_WIDTH * 500, abs=2)
    assert ramp.mean() == pytest.approx(249.5, abs=0.6)


def test_distances_are_those_of_a_circle():
    side, radius = 400, 100
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    true = (radius - np.hypot(x, y)) / side
    assert np.abs(signed_distance((true > 0).astype(np.uint8)) - true).max() < 1.0 / side


def test_a_shape_of_landmarks_lies_around_them_inside_the_mask():
    shape = shape_of_mask(generation_mask(256), 0.0)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    centre, radius = np.array([127.5, 180.0]), 40.0
    within = shape.within(centre + radius * np.stack([np.cos(angle), np.sin(angle)], 1))
    area = (within.ramp >= 0.5).sum()
    assert area == pytest.approx(np.pi * (radius + CONTOUR_MARGIN * 256) ** 2, rel=0.03)
    assert not ((within.ramp >= 0.5) & (shape.ramp < 0.5)).any()
    beyond = shape.within(centre + 200 * np.stack([np.cos(angle), np.sin(angle)], 1))
    assert np.allclose(beyond.distance, shape.distance)


def test_unknown_landmarks_leave_the_drawn_mask():
    matrix = fit_matrices(POINTS[None], 128, "none")[0]
    rng = np.random.default_rng(0)
    frame, aligned = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((480, 640, 3), (128, 128, 3)))
    face, paster = torch.rand(3, 128, 128) * 2 - 1, FacePaster(128, LipSyncOptions(mask_shape="landmarks"))
    drawn = FacePaster(128, LipSyncOptions())(frame, face, aligned, matrix)
    contour = np.array([[260.0, 190], [298, 270], [340, 195]])
    assert np.array_equal(paster(frame, face, aligned, matrix), drawn)
    assert np.array_equal(paster(frame, face, aligned, matrix, contour=np.full((26, 2), np.nan)), drawn)
    assert np.array_equal(FacePaster(128, LipSyncOptions())(frame, face, aligned, matrix, contour=contour), drawn)
    assert (paster(frame, face, aligned, matrix, contour=contour) != drawn).any()


@pytest.mark.parametrize("identity", [1_000_000, 1_000_001, 1_000_002])
def test_the_lower_face_holds_the_mouth_and_not_the_nose(identity):
    clip = AvatarClip(identity, 2_000_000, duration=1.0)
    landmarks = FaceTracker()(clip.frame(10)).landmarks
    matrix = fit_matrices(alignment_points(landmarks)[None], 256, "none")[0]
    to_canvas = np.linalg.inv(square_to_canvas(256)) @ np.vstack([matrix, [0, 0, 1]])
    square = landmarks @ to_canvas[:2, :2].T + to_canvas[:2, 2]
    polygon = square[list(LOWER_FACE)].astype(np.float32)
    for point in INNER_LIPS:
        assert cv2.pointPolygonTest(polygon, square[point].tolist(), True) > 10
    assert all(cv2.pointPolygonTest(polygon, square[point].tolist(), False) < 0 for point in NOSES["mesh"])
