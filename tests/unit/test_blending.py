"""Paste-back: what changes, what must not, and how far the blend reaches."""

import cv2
import numpy as np
import pytest
import torch

from latentsync.errors import OptionError
from latentsync.faces.align import fit_matrices, square_to_canvas, warp_faces
from latentsync.faces.blend import FaceBlender
from latentsync.faces.edge import FEATHER_WIDTH, shape_of_mask
from latentsync.model.masks import generation_mask

SHAPE = (480, 640, 3)
POINTS = np.array([[260.0, 150], [340, 160], [297, 201]])


def natural_frame(seed=0, shape=SHAPE):
    """Random picture without detail finer than a few px."""
    noise = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 6).astype(np.float32)
    return np.clip((smooth - smooth.mean()) * 8 + 128, 0, 255).astype(np.uint8)


def matrix_of(points=POINTS, resolution=256):
    return fit_matrices(points[None], resolution, "none")[0]


def paste_face(frame, face, matrix, *, protect=None, **settings):
    return FaceBlender(face.shape[-1], **settings).paste(frame, face, matrix, protect)


def blend_region(frame_shape, matrix, resolution, **settings):
    return FaceBlender(resolution, **settings).region(frame_shape, matrix)


def feathered_hole(mask, feather):
    return shape_of_mask(mask, feather).alpha(len(mask))


def as_face(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def allowed_region(matrix, resolution, feather, shape=SHAPE):
    """The hole dilated by the feather's whole width, and two px of sampling, drawn into the frame another way."""
    width = feather * FEATHER_WIDTH * resolution
    hole = (generation_mask(resolution).numpy() < 0.5).astype(np.uint8)
    reach = int(np.ceil(width)) + 2
    hole = cv2.dilate(hole, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    to_frame = (np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ square_to_canvas(resolution))[:2]
    drawn = cv2.warpAffine(hole.astype(np.float32), to_frame, (shape[1], shape[0]))
    return cv2.dilate((drawn > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


@pytest.mark.parametrize("resolution", [128, 256, 512])
@pytest.mark.parametrize("feather", [0.0, 0.5, 1.0])
def test_only_the_feathered_hole_changes(resolution, feather):
    frame, matrix = natural_frame(), matrix_of(resolution=resolution)
    white = torch.full((3, resolution, resolution), 1.0)
    pasted = paste_face(frame, white, matrix, feather=feather)
    region = blend_region(frame.shape, matrix, resolution, feather=feather)
    changed = (pasted != frame).any(-1)
    allowed = allowed_region(matrix, resolution, feather)
    assert not (changed & ~allowed).any()
    inside = np.zeros(SHAPE[:2], bool)
    inside[region.slices] = region.alpha > 0
    assert not (changed & ~inside).any()
    assert (pasted[region.slices][region.alpha == 1] == 255).all()
    # the hole's area in the frame, 40.7 % of the 3:4 rectangle, is what the weights sum to
    to_frame = np.linalg.inv(np.vstack([matrix, [0, 0, 1]])) @ square_to_canvas(resolution)
    hole = float((1 - generation_mask(resolution)).sum()) * np.linalg.det(to_frame[:2, :2])
    assert float(region.alpha.sum()) == pytest.approx(hole, rel=0.03)


def test_feather_zero_is_hard_and_more_is_softer():
    matrix = matrix_of()
    areas = []
    for feather in (0.0, 0.25, 0.5, 1.0):
        alpha = blend_region(SHAPE, matrix, 256, feather=feather).alpha
        areas.append(int(((alpha > 0) & (alpha < 1)).sum()))
    assert areas[0] == 0
    assert areas == sorted(set(areas))


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_feather_is_a_fraction_of_the_side(resolution):
    alpha = feathered_hole(generation_mask(resolution), 0.5)
    column = alpha[:, resolution // 2]  # from the kept nose into the mouth
    ramp = ((column > 0.01) & (column < 0.99))[: resolution * 3 // 4].sum()
    assert ramp / resolution == pytest.approx(0.5 * FEATHER_WIDTH, abs=0.012)
    assert alpha[0].max() == alpha[-1].max() == alpha[:, 0].max() == alpha[:, -1].max() == 0


def test_mask_without_kept_border_leaves_no_seam():
    alpha = feathered_hole(torch.zeros(256, 256), 0.5)
    assert alpha[128, 128] == 1
    assert alpha[0].max() == alpha[:, -1].max() == 0


def test_empty_hole_changes_nothing():
    frame = natural_frame()
    pasted = paste_face(frame, torch.ones(3, 256, 256), matrix_of(), mask=torch.ones(256, 256))
    assert np.array_equal(pasted, frame)
    assert pasted is not frame


@pytest.mark.parametrize("mode", ["mask", "reference"])
def test_inputs_stay_as_they_are(mode):
    frame, face, matrix = natural_frame(), torch.rand(3, 256, 256) * 2 - 1, matrix_of()
    copies = frame.copy(), face.clone(), matrix.copy()
    frame.setflags(write=False)
    paste_face(frame, face, matrix, mode=mode, protect=np.zeros(SHAPE[:2], np.float32))
    assert np.array_equal(frame, copies[0])
    assert torch.equal(face, copies[1])
    assert np.array_equal(matrix, copies[2])


@pytest.mark.parametrize("mode", ["mask", "reference"])
@pytest.mark.parametrize("spread", [0.5, 1.0, 3.0])
def test_unchanged_face_gives_nearly_the_source(mode, spread):
    """Through the square and back: faces shrunk on the way in, about as large, and enlarged."""
    shape = (int(480 * max(spread, 1)), int(640 * max(spread, 1)), 3)
    frame, points = natural_frame(3, shape), POINTS * spread
    frame = cv2.GaussianBlur(frame, (0, 0), 3 * spread)
    matrix = matrix_of(points)
    face = as_face(warp_faces([frame], [matrix], 256)[0])
    error = np.abs(paste_face(frame, face, matrix, mode=mode).astype(int) - frame)
    region = blend_region(frame.shape, matrix, 256, mode=mode)
    print(f"{mode} {spread}: mean {error[region.slices][region.alpha > 0].mean():.2f}, max {error.max()}")
    assert error[region.slices][region.alpha > 0].mean() < 1
    assert error.max() <= 8


def test_rounding_does_not_darken():
    frame, matrix = natural_frame(), matrix_of()
    face = as_face(warp_faces([frame], [matrix], 256)[0])
    region = blend_region(frame.shape, matrix, 256)
    difference = (paste_face(frame, face, matrix).astype(float) - frame)[region.slices][region.alpha > 0.9]
    assert abs(difference.mean()) < 0.1


@pytest.mark.parametrize("mode", ["mask", "reference"])
@pytest.mark.parametrize("shift", [(-300, -160), (330, 260), (-260, 250), (0, -150)])
def test_face_partly_outside_equals_the_paste_in_a_larger_frame(mode, shift):
    margin = 400
    frame = natural_frame(5)
    larger = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    points = POINTS + shift
    face = torch.from_numpy(np.random.default_rng(1).uniform(-1, 1, (3, 16, 16))).float()
    face = face.repeat_interleave(16, 1).repeat_interleave(16, 2)
    pasted = paste_face(frame, face, matrix_of(points), mode=mode)
    assert pasted.shape == frame.shape
    assert (pasted != frame).any()
    if mode == "mask":  # the reference's widths follow from the area inside the frame, so there the two differ
        whole = paste_face(larger, face, matrix_of(points + margin))[margin:-margin, margin:-margin]
        # OpenCV rounds sampling positions to 1/32 px: block edges may differ a little
        assert (np.abs(pasted.astype(int) - whole) > 8).mean() < 1e-3


@pytest.mark.parametrize("mode", ["mask", "reference"])
def test_face_wholly_outside_changes_nothing(mode):
    frame = natural_frame()
    matrix = matrix_of(POINTS + 5000)
    assert np.array_equal(paste_face(frame, torch.ones(3, 256, 256), matrix, mode=mode), frame)
    assert blend_region(frame.shape, matrix, 256, mode=mode).alpha.size == 0


@pytest.mark.parametrize("shape", [(3, 5, 3), (1, 1, 3), (31, 641, 3)])
@pytest.mark.parametrize("mode", ["mask", "reference"])
def test_tiny_and_odd_frames(shape, mode):
    frame = np.full(shape, 40, np.uint8)
    centre = np.array([shape[1] / 2, shape[0] / 2 - 20])
    points = np.array([[-20.0, -10], [20, -10], [0, 10]]) + centre
    pasted = paste_face(frame, torch.ones(3, 64, 64), matrix_of(points, 64), mode=mode)
    assert pasted.shape == shape


def test_protected_pixels_are_kept():
    frame, matrix = natural_frame(), matrix_of()
    protect = np.zeros(SHAPE[:2], np.float32)
    protect[:, 300:] = 1
    pasted = paste_face(frame, torch.ones(3, 256, 256), matrix, protect=protect)
    assert np.array_equal(pasted[:, 300:], frame[:, 300:])
    assert (pasted[:, :300] != frame[:, :300]).any()


def test_no_halo_around_a_flat_face():
    """A face of the frame's own colour leaves no trace, whatever the interpolation does at the square's border."""
    frame = np.full(SHAPE, 100, np.uint8)
    flat = torch.full((3, 256, 256), 100 / 127.5 - 1)
    for points in (POINTS, POINTS * [0.3, 0.3] + 100, (POINTS - POINTS.mean(0)) * 4 + [320, 240]):
        assert np.array_equal(paste_face(frame, flat, matrix_of(points)), frame)


def test_small_face_in_the_frame_is_averaged_not_aliased():
    fine = torch.ones(3, 512, 512)
    fine[:, ::2] = -1
    frame = np.full(SHAPE, 127, np.uint8)
    points = (POINTS - POINTS.mean(0)) * 0.4 + [320, 240]
    matrix = matrix_of(points, 512)
    region = blend_region(SHAPE, matrix, 512)
    pasted = paste_face(frame, fine, matrix)[region.slices][region.alpha == 1]
    assert pasted.std() < 12
    assert pasted.mean() == pytest.approx(127.5, abs=2)


def test_one_blender_for_many_frames_equals_single_calls():
    frame, blender = natural_frame(), FaceBlender(256, feather=0.3)
    for shift in (0, 7.3):
        face, matrix = torch.rand(3, 256, 256) * 2 - 1, matrix_of(POINTS + shift)
        assert np.array_equal(blender.paste(frame, face, matrix), paste_face(frame, face, matrix, feather=0.3))


def test_bad_arguments_are_refused():
    frame, face, matrix = natural_frame(), torch.zeros(3, 256, 256), matrix_of()
    with pytest.raises(OptionError, match="feather"):
        paste_face(frame, face, matrix, feather=1.5)
    with pytest.raises(OptionError, match="poisson"):
        paste_face(frame, face, matrix, mode="poisson")
    with pytest.raises(ValueError, match="mask"):
        paste_face(frame, face, matrix, mask=torch.ones(64, 32))
    with pytest.raises(ValueError, match="uint8"):
        paste_face(frame.astype(np.float64), face, matrix)
    with pytest.raises(ValueError, match="invertible"):
        paste_face(frame, face, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="protect"):
        paste_face(frame, face, matrix, protect=np.zeros((3, 3)))
