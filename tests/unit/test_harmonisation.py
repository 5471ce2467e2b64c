"""Faces fitted to what is around them: gain along the edge, bands, membrane, and what is left as it was."""

import cv2
import numpy as np
import pytest

from benchmarks.pictures import seam_score
from latentsync.errors import OptionError
from latentsync.faces.blend import BlendRegion
from latentsync.faces.edge import BLEND_METHODS, Harmoniser, MultiBand, Poisson, shape_of_mask
from latentsync.model.masks import generation_mask
from latentsync.options import SETTINGS

SIDE = 256
SHAPE = shape_of_mask(generation_mask(SIDE), 0.5)
ALPHA = SHAPE.alpha(SIDE)[..., None]


def skin(seed: int = 0, level: float = 150.0) -> np.ndarray:
    """(S, S, 3) float32: shading and a grain."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    shading = level * (0.8 + 0.3 * y - 0.2 * x * x)
    grain = np.random.default_rng(seed).normal(0, 2, (SIDE, SIDE, 3))
    return (shading[..., None] * [1.0, 0.8, 0.7] + grain).astype(np.float32)


def pasted(frame: np.ndarray, face: np.ndarray, source: np.ndarray | None = None, **settings) -> np.ndarray:
    levels, share = Harmoniser(SHAPE, SIDE, **settings)(face, frame if source is None else source)
    share = cv2.resize(share, (SIDE, SIDE))[..., None]
    return ALPHA * (levels + share * frame) + (1 - ALPHA) * frame


@pytest.mark.parametrize("method", ["feather", "multiband"])
def test_gain_along_the_edge_is_taken_back(method):
    frame = skin()
    face = frame * [0.9, 0.95, 1.1] + 6 + np.random.default_rng(9).normal(0, 12, frame.shape)
    settings = {"method": method, "edge_match": True}
    fitted = pasted(frame, face.astype(np.float32), **settings)
    as_it_is = pasted(frame, face.astype(np.float32), **{**settings, "edge_match": False})
    inner = ALPHA[..., 0] > 0.99
    off, left = (np.abs((result - frame)[inner].mean(0)).max() for result in (as_it_is, fitted))
    assert off > 8
    assert left < 1.5


def test_a_background_that_was_lost_does_not_tint_the_skin_along_the_edge():
    """The mask's edge runs through both; the generated face has the skin right and the background not."""
    frame, half = skin(), SIDE // 2
    frame[:, :half] = (60, 160, 100)
    face = frame.copy()
    face[:, :half] = (90, 125, 130)
    fitted = Harmoniser(SHAPE, SIDE, edge_match=True)._edge_matched(face, frame)
    beside = np.abs(fitted - frame)[:, half + 2 : half + 24][ALPHA[:, half + 2 : half + 24, 0] > 0.02]
    assert beside.mean() < 1.5
    assert np.quantile(beside, 0.99) < 6


def test_a_membrane_takes_back_what_is_smooth():
    """A difference that is linear solves the Laplace equation: nothing of it is left."""
    frame = skin()
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    face = frame + (30 * x - 50 * y + 20).astype(np.float32)[..., None]
    poisson = Poisson(SHAPE, SIDE)
    left = (face - frame) - poisson._membrane(face - frame)
    inside = SHAPE.ramp > 0
    assert np.abs((face - frame)[inside]).max() > 25
    assert np.abs(left[inside]).max() < 0.6
    off = {
        method: np.abs(pasted(frame, face, method=method, edge_match=False) - frame)[ALPHA[..., 0] > 0.99].mean()
        for method in ("feather", "poisson")
    }
    assert off["feather"] > 5
    assert off["poisson"] < 1
    spot = np.zeros((SIDE, SIDE, 3), np.float32)
    cv2.circle(spot, (128, 180), 12, (60, 60, 60), -1)
    assert np.array_equal(spot[180, 128] - poisson._membrane(spot)[180, 128], [60, 60, 60])


def test_finer_bands_change_over_less():
    frame = np.full((SIDE, SIDE, 3), 128, np.float32)
    weights = [weight[..., 0] * ALPHA[..., 0] for weight in MultiBand(SHAPE, SIDE)._weights]
    soft = [int(((weight > 0.02) & (weight < 0.98)).sum()) for weight in weights]
    assert soft[0] < 0.4 * soft[2]
    assert soft == sorted(soft)
    face = frame + 40
    result = pasted(frame, face, method="multiband", edge_match=False)
    assert np.abs(result - (frame + 40 * ALPHA)).max() < 0.5  # nothing fine: the widest ramp alone
    inner = cv2.erode((ALPHA[..., 0] > 0.999).astype(np.uint8), np.ones((41, 41))) > 0
    fine = face + np.random.default_rng(0).normal(0, 20, face.shape).astype(np.float32)
    assert np.abs(pasted(frame, fine, method="multiband", edge_match=False) - fine)[inner].max() < 0.5


def test_the_frame_s_grain_stays_where_the_face_is_alike_and_goes_where_it_is_not():
    frame = skin()
    smooth = cv2.GaussianBlur(frame, (0, 0), 3)
    face = smooth.copy()
    cv2.ellipse(face, (128, 172), (50, 20), 0, 0, 360, (60, 20, 20), -1)  # another mouth
    result = pasted(frame, face, source=smooth)
    lips = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(lips, (128, 172), (44, 14), 0, 0, 360, 1, -1)
    assert np.abs(result - face)[lips > 0].max() < 1
    cheek = (ALPHA[..., 0] > 0.99) & (cv2.dilate(lips, np.ones((61, 61))) == 0)
    assert np.abs(result - frame)[cheek].max() < 0.5


@pytest.mark.parametrize("level", [40.0, 90.0, 180.0])
def test_lips_of_little_contrast_are_still_the_new_ones(level):
    """On dark skin a fifth of the brightness is few levels."""
    frame = skin(level=level)
    face = frame.copy()
    cv2.ellipse(face, (128, 172), (40, 14), 0, 0, 360, tuple(0.8 * frame[172, 128].astype(float)), -1)
    changed = np.abs(pasted(frame, face, edge_match=False) - frame)[168:176, 110:146].mean()
    assert changed > 0.8 * np.abs(face - frame)[168:176, 110:146].mean()


def test_less_of_the_frames_detail_stays_on_lips_that_move_a_little_than_on_a_cheek():
    """A difference of two hundredths of the brightness, where the frame has a grain that its face lacks."""
    frame = skin()
    smooth = cv2.GaussianBlur(frame, (0, 0), 3)
    kept = {}
    for name, centre in (("lips", (128, 172)), ("cheek", (60, 120))):
        face, inside = smooth.copy(), np.zeros((SIDE, SIDE), np.uint8)
        cv2.circle(inside, centre, 12, 1, -1)
        face[inside > 0] *= 0.98
        left = (pasted(frame, face, smooth, edge_match=False) - face)[inside > 0]
        kept[name] = left.std() / (frame - smooth)[inside > 0].std()
    assert 0.3 < kept["lips"] < 0.7
    assert kept["cheek"] > 0.95


def test_an_unknown_method_is_refused():
    with pytest.raises(OptionError, match="laplace"):
        Harmoniser(SHAPE, SIDE, "laplace")


def test_every_method_is_offered():
    assert tuple(BLEND_METHODS) == SETTINGS["blend_method"].choices


def test_the_measure_of_seams_sees_a_seam():
    frame = np.rint(skin()).astype(np.uint8)
    region = BlendRegion((0, 0, SIDE, SIDE), SHAPE.alpha(SIDE))
    assert seam_score(frame, frame, region, SIDE).ratio == pytest.approx(1, abs=1e-4)
    scores = []
    for step in (3, 8, 20):
        darker = np.where(ALPHA >= 0.5, frame.astype(int) - step, frame).astype(np.uint8)
        scores.append(seam_score(frame, darker, region, SIDE).ratio)
    assert scores[0] > 1.5
    assert scores == sorted(scores)
    blended = np.rint(ALPHA * (frame - 8.0) + (1 - ALPHA) * frame).astype(np.uint8)
    assert seam_score(frame, blended, region, SIDE).ratio < scores[1]
