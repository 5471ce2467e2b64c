"""What every way of blending promises: nothing outside its region, nothing where the face is the source's own."""

from itertools import product

import cv2
import numpy as np
import pytest
import torch

from latentsync.errors import OptionError
from latentsync.faces.align import fit_matrices, warp_faces
from latentsync.faces.blend import FacePaster
from latentsync.options import SETTINGS, LipSyncOptions

SHAPE = (480, 640)
POINTS = np.array([[260.0, 150], [340, 160], [297, 201]])
CONTOUR = np.array([[240.0, 190], [250, 250], [295, 275], [345, 255], [362, 195], [298, 205]])
METHODS = SETTINGS["blend_method"].choices
WAYS = list(product(METHODS, SETTINGS["mask_shape"].choices, (True, False)))


def noise(seed: int, *shape: int) -> np.ndarray:
    """Full of detail that no face's square can hold."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def as_face(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


def matrix_of(resolution: int, scale: float = 1.0) -> np.ndarray:
    points = (POINTS - POINTS.mean(0)) * scale + POINTS.mean(0)
    return fit_matrices(points[None], resolution, "none")[0]


def options(method="feather", shape="drawn", match=True, smooth=0.5) -> LipSyncOptions:
    return LipSyncOptions(blend_method=method, mask_shape=shape, edge_match=match, mask_smooth=smooth)


@pytest.mark.parametrize(("method", "shape", "match"), WAYS)
@pytest.mark.parametrize("smooth", [0.0, 0.3, 1.0])
def test_outside_the_region_every_bit_is_the_source_s(method, shape, match, smooth):
    frame, matrix = noise(1, *SHAPE, 3), matrix_of(128)
    paster = FacePaster(128, options(method, shape, match, smooth))
    protect = np.zeros(SHAPE, np.float32)
    protect[:, :280] = 1
    region = paster.blender.region(frame.shape, matrix, CONTOUR if shape == "landmarks" else None)
    inside = np.zeros(SHAPE, bool)
    inside[region.slices] = region.alpha > 0
    assert 0.02 < inside.mean() < 0.2
    for pixels in (frame, frame.astype(np.float32) / 255):
        face, aligned = as_face(noise(2, 128, 128, 3)), noise(3, 128, 128, 3)
        pasted = paster(pixels, face, aligned, matrix, protect, contour=CONTOUR, weight=0.7)
        changed = (pasted != pixels).any(-1)
        assert not changed[~inside].any()
        assert not changed[:, :280].any()
        assert changed[inside & (protect == 0)].mean() > 0.5
        assert pasted.dtype == pixels.dtype


@pytest.mark.parametrize(("method", "shape", "match"), WAYS)
@pytest.mark.parametrize(("resolution", "scale"), [(64, 1.0), (128, 2.0), (256, 0.5), (256, 1.0)])
def test_the_source_s_own_face_leaves_the_frame_as_it_is(method, shape, match, resolution, scale):
    """Also in detail which the square lost, for faces that are larger and smaller than it."""
    frame, matrix = noise(4, *SHAPE, 3), matrix_of(resolution, scale)
    aligned = warp_faces([frame], matrix[None], resolution)[0]
    paster = FacePaster(resolution, options(method, shape, match))
    pasted = paster(frame, as_face(aligned), aligned, matrix, contour=CONTOUR)
    error = np.abs(pasted.astype(int) - frame).max()
    print(f"{method} {shape} {match} {resolution} x {scale}: {error} levels at most")
    assert error <= 1
    floats = frame.astype(np.float32) / 255
    assert np.abs(paster(floats, as_face(aligned), aligned, matrix, contour=CONTOUR) - floats).max() <= 1 / 255


def test_an_enlarged_face_is_compared_at_its_own_side():
    frame, matrix = noise(5, *SHAPE, 3), matrix_of(64)
    aligned = cv2.resize(warp_faces([frame], matrix[None], 64)[0], (128, 128))
    pasted = FacePaster(64, LipSyncOptions(), side=128)(frame, as_face(aligned), aligned, matrix)
    assert np.array_equal(pasted, frame)


@pytest.mark.parametrize("method", METHODS)
def test_the_weight_of_the_face_goes_from_the_frame_to_the_face(method):
    frame, matrix = noise(6, *SHAPE, 3), matrix_of(128)
    aligned, face = warp_faces([frame], matrix[None], 128)[0], as_face(noise(7, 128, 128, 3))
    paster = FacePaster(128, options(method))
    none, half, whole = (paster(frame, face, aligned, matrix, weight=weight).astype(int) for weight in (0, 0.5, 1))
    assert np.array_equal(none, frame)
    assert np.abs(2 * half - none - whole).max() <= 2
    with pytest.raises(OptionError, match="weight"):
        paster(frame, face, aligned, matrix, weight=1.2)


def test_the_reference_s_paste_uses_none_of_it():
    frame, matrix, face = noise(8, *SHAPE, 3), matrix_of(128), as_face(noise(9, 128, 128, 3))
    aligned = warp_faces([frame], matrix[None], 128)[0]
    reference = LipSyncOptions(blend="reference")
    pasted = FacePaster(128, reference)(frame, face, aligned, matrix)
    others = LipSyncOptions(blend="reference", blend_method="poisson", edge_match=False, mask_shape="landmarks")
    assert np.array_equal(FacePaster(128, others)(frame, face, aligned, matrix, contour=CONTOUR), pasted)
    assert (pasted != frame).any()
