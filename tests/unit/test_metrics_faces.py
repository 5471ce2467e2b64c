"""Measures of mouths, looks and what should have stayed: hand-made cases, and the right direction on known damage."""

from itertools import pairwise

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latentsync.errors import DamagedCheckpointError
from latentsync.faces.align import canvas_size, fit_matrices, warp_faces
from latentsync.faces.detect import EYE_CORNERS
from latentsync.faces.detect import INNER_LIPS as MIDDLE_OF_LIPS
from latentsync.faces.finder import FaceTracker
from latentsync.faces.place import PlacedFace
from latentsync.metrics.clip_pair import PairFrame, to_square
from latentsync.metrics.faces import (
    LEFT_CORNER,
    LEFT_EYE,
    LIPS,
    NOSE_TIP,
    RIGHT_CORNER,
    RIGHT_EYE,
    TEMPLATE,
    ArcFace,
    Flicker,
    Identity,
    LandmarkDistance,
    Leakage,
    MouthSharpness,
    OutsidePSNR,
    arcface_crop,
    gradient,
    lip_distance,
)
from latentsync.metrics.pictures import Measured, block_interval, clip_interval
from latentsync.model.masks import generation_mask
from latentsync.synthetic.clips import AvatarClip

SIDE = 96
HOLE = generation_mask(SIDE, "mask").numpy() < 0.5


def landmarks(opening: float = 0.1, seed: int = 0) -> np.ndarray:
    """(468, 2) px with a mouth `opening` eye distances open."""
    points = np.random.default_rng(seed).uniform(20, 76, (468, 2))
    points[EYE_CORNERS[0]], points[EYE_CORNERS[1]] = (20, 40), (76, 40)
    points[MIDDLE_OF_LIPS[0]], points[MIDDLE_OF_LIPS[1]] = (48, 70), (48, 70 + 56 * opening)
    return points


def pair(
    face=None, reference=None, marks=None, true_marks=None, *, restart=False, points=None, true_points=None, placed=None
) -> PairFrame:
    nothing = np.zeros((SIDE, SIDE, 3), np.uint8)
    face = nothing if face is None else face
    reference = nothing if reference is None else reference
    return PairFrame(face, reference, face, reference, marks, true_marks, points, true_points, placed, restart)


def fed(measure, frames):
    for frame in frames:
        measure.add(frame)
    return measure.result()


def test_lip_distance_by_hand():
    """Wherever the mouth is; what moves all 40 points apart from each other counts by its mean."""
    marks = landmarks()
    assert lip_distance(marks, marks + np.array([5, -3])) == pytest.approx(0, abs=1e-12)
    moved = marks.copy()
    moved[LIPS[0]] += [8, 0]  # its mean moves by 0.2: one point is 7.8 off, 39 are 0.2 off
    assert lip_distance(moved, marks) == pytest.approx((7.8 + 39 * 0.2) / 40)
    moved[LIPS[0]] += [-8, 0]
    others = np.setdiff1d(np.arange(468), LIPS)
    moved[others] += 9
    assert lip_distance(moved, marks) == pytest.approx(0, abs=1e-12)
    assert len(set(LIPS)) == 40


def test_landmark_distance_is_in_px_of_256_and_grows():
    marks = landmarks()
    stretched = [fed(LandmarkDistance(), [pair(marks=marks * k, true_marks=marks)]).score for k in (1, 1.1, 1.3)]
    assert stretched[0] == 0
    assert stretched[2] == pytest.approx(3 * stretched[1])
    assert stretched[1] == pytest.approx(lip_distance(1.1 * marks, marks) * 256 / SIDE)
    assert np.isnan(fed(LandmarkDistance(), [pair(marks=marks)]).score)  # no mesh in the reference


def test_leakage_is_pearsons_of_the_openings():
    rng = np.random.default_rng(1)
    source = rng.uniform(0, 0.4, 60)
    noise = rng.uniform(0, 0.4, 60)
    found = []
    for share in (0, 0.5, 1):
        result = share * source + (1 - share) * noise
        frames = [pair(marks=landmarks(a), true_marks=landmarks(b)) for a, b in zip(result, source, strict=True)]
        found.append(fed(Leakage(), frames).score)
        assert found[-1] == pytest.approx(np.corrcoef(result, source)[0, 1])
    assert abs(found[0]) < 0.3 < found[1] < found[2] == pytest.approx(1)


@pytest.fixture(scope="module")
def people():
    """Frames of three avatars with their alignment points: two of the same person, one of another."""
    tracker, out = FaceTracker(), []
    for identity, index in ((1_000_003, 0), (1_000_003, 6), (1_000_009, 0)):
        frame = AvatarClip(identity, 5, 1.0).frame(index, 192, 192)
        out.append((frame, tracker(frame).points))
    return out


def test_identity_tells_people_apart(people):
    first, again, other = people

    def distance(one, two) -> float:
        frame = PairFrame(one[0], two[0], *[None] * 4, one[1], two[1], None, False)
        return fed(Identity(), [frame]).score

    assert distance(first, first) == 0
    assert distance(first, again) < 0.15
    assert distance(first, other) > 2 * distance(first, again)
    tints = [np.clip(first[0].astype(int) + np.array([k, 0, -k]), 0, 255).astype(np.uint8) for k in (0, 10, 25, 50)]
    apart = [distance((tint, first[1]), first) for tint in tints]
    assert all(before < after for before, after in pairwise(apart)), apart


def test_gradient_by_hand():
    ramp = np.broadcast_to(np.arange(0, 200, 10)[None, :, None], (20, 20, 3)) + np.array([0, 30, 60])
    assert gradient(ramp.astype(np.float64)) == pytest.approx(10)


@pytest.fixture(scope="module")
def texture():
    noise = np.random.default_rng(2).integers(0, 256, (SIDE, SIDE, 3)).astype(np.float32)
    return np.clip(128 + 3 * (cv2.GaussianBlur(noise, (0, 0), 1) - 128), 0, 255).astype(np.uint8)


def test_sharpness_falls_with_blur_and_looks_at_the_mouth_alone(texture):
    blurred = [cv2.GaussianBlur(texture, (0, 0), sigma) if sigma else texture for sigma in (0, 0.7, 1.5, 4)]
    scores = [fed(MouthSharpness(), [pair(one, texture)]).score for one in blurred]
    assert scores[0] == 1
    assert all(before > after for before, after in pairwise(scores))
    assert scores[-1] < 0.2
    elsewhere = np.where(cv2.erode((~HOLE).astype(np.uint8), np.ones((5, 5)))[..., None] > 0, blurred[3], texture)
    assert fed(MouthSharpness(), [pair(elsewhere, texture)]).score == pytest.approx(1)
    flat = np.full_like(texture, 90)
    assert np.isnan(fed(MouthSharpness(), [pair(texture, flat)]).score)


def test_flicker_is_of_second_differences(texture):
    """What grows evenly is none; what jumps up and down is."""
    steady = [(texture // 2 + index).astype(np.uint8) for index in range(10)]
    rng = np.random.default_rng(3)
    shaky = [texture // 2 + rng.integers(0, 3, texture.shape, np.uint8) for _ in range(10)]
    assert np.isnan(fed(Flicker(), [pair(one, one) for one in steady]).score)  # 0 over 0
    assert fed(Flicker(), [pair(one, one) for one in shaky]).score == 1
    scores = []
    for amount in (0, 2, 8):
        noisy = [np.clip(one + rng.integers(0, amount + 1, one.shape), 0, 255).astype(np.uint8) for one in shaky]
        scores.append(fed(Flicker(), [pair(*both) for both in zip(noisy, shaky, strict=True)]).score)
    assert scores[0] == 1
    assert scores[0] < scores[1] < scores[2]
    blinking = [np.full_like(texture, 100 + 10 * (index % 2)) for index in range(6)]
    slow = [np.full_like(texture, 100 + 10 * (index // 2 % 2)) for index in range(6)]
    assert fed(Flicker(), [pair(*both) for both in zip(blinking, slow, strict=True)]).score == pytest.approx(2)


def test_flicker_begins_anew_after_a_cut():
    dark, light = (np.full((SIDE, SIDE, 3), level, np.uint8) for level in (20, 200))
    wavering = [np.clip(level.astype(int) + index % 2, 0, 255).astype(np.uint8) for level in (dark, light)
                for index in range(3)]  # fmt: skip
    found = fed(Flicker(), [pair(one, one, restart=index in (0, 3)) for index, one in enumerate(wavering)])
    assert found.values == pytest.approx(np.full((2, 2), 2.0))


def test_outside_psnr_counts_what_is_outside_alone():
    """The face fills the frame's middle; damage inside the widest edge is none, outside it is known."""
    rng = np.random.default_rng(4)
    size = 160
    frame = rng.integers(50, 200, (size, size, 3), np.uint8)
    width, height = canvas_size(SIDE)
    matrix = np.array([[0.9 * width / size, 0, 0], [0, 0.9 * height / size, 0]], np.float32)
    placed = PlacedFace(matrix, 1.0, 1.0)
    face = np.zeros((SIDE, SIDE, 3), np.uint8)

    def score(output, placed=placed) -> float:
        return fed(OutsidePSNR(), [PairFrame(output, frame, face, face, *[None] * 4, placed, False)]).score

    assert score(frame) == np.inf
    everywhere = frame + 10
    assert score(everywhere) == pytest.approx(10 * np.log10(255**2 / 100))
    assert score(everywhere, placed=None) == pytest.approx(10 * np.log10(255**2 / 100))
    hole = frame.copy()
    ys, xs = np.nonzero(warp_hole(matrix, size))
    hole[ys, xs] = 0
    assert len(ys) > 1000
    assert score(hole) == np.inf


def warp_hole(matrix: np.ndarray, size: int) -> np.ndarray:
    """(size, size) bool: px of the frame whose place in the aligned square is generated."""
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).reshape(-1, 2).astype(np.float64)
    places = np.rint(to_square(grid, matrix, SIDE)).astype(int)
    inside = ((places >= 0) & (places < SIDE)).all(1)
    out = np.zeros(size * size, bool)
    out[inside] = HOLE[places[inside, 1], places[inside, 0]]
    return out.reshape(size, size)


def test_points_go_to_the_square_where_the_pixels_go(people):
    """A dot of the frame is found at its place in the aligned face."""
    frame, points = people[0]
    matrix = fit_matrices(points[None], 128)[0]
    dot = points[2].round()  # about the nose
    marked = np.zeros_like(frame)
    cv2.circle(marked, dot.astype(int).tolist(), 3, (255, 255, 255), -1)
    square = warp_faces([marked], matrix[None], 128)[0].mean(2)
    ys, xs = np.nonzero(square > 100)
    assert to_square(dot[None], matrix, 128)[0] == pytest.approx([xs.mean(), ys.mean()], abs=0.6)


@pytest.fixture(scope="module")
def arcface_file(tmp_path_factory):
    """The mean colour of the picture as an embedding: what a cosine is of can be computed by hand."""
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["input", "axes"], ["out"], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 3])],
        [axes],
    )
    path = tmp_path_factory.mktemp("arcface") / "w600k_r50.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def test_arcface_is_the_cosine_of_rgb_in_minus_one_to_one(arcface_file):
    points = landmarks()
    red, grey = (np.empty((SIDE, SIDE, 3), np.uint8) for _ in range(2))
    red[:], grey[:] = (255, 0, 0), (255, 255, 255)
    network = ArcFace(arcface_file)
    whole = landmarks()
    for part, place in zip((LEFT_EYE, RIGHT_EYE, NOSE_TIP, LEFT_CORNER, RIGHT_CORNER), TEMPLATE, strict=True):
        whole[list(part)] = place * 96 / 112  # so that the crop is the whole picture
    found = fed(network, [pair(red, red, whole, whole), pair(red, grey, whole, whole), pair(red, red, points, None)])
    assert found.values == pytest.approx([1, -1 / 3], abs=0.02)
    assert len(fed(network, []).values) == 0  # nothing is left over for the next clip


def test_arcface_crops_put_eyes_nose_and_mouth_in_their_places():
    turned = cv2.getRotationMatrix2D((80, 80), 20, 1.5)
    marks = np.full((468, 2), 80.0)
    for part, place in zip((LEFT_EYE, RIGHT_EYE, NOSE_TIP, LEFT_CORNER, RIGHT_CORNER), TEMPLATE, strict=True):
        marks[list(part)] = turned[:, :2] @ place + turned[:, 2]
    picture = np.zeros((200, 260, 3), np.uint8)
    for index in (NOSE_TIP[0], LEFT_CORNER[0]):
        cv2.circle(picture, marks[index].round().astype(int).tolist(), 4, (255, 255, 255), -1)
    crop = arcface_crop(picture, marks)
    for place in (TEMPLATE[2], TEMPLATE[3]):
        x, y = place.round().astype(int)
        assert crop[y, x].min() > 200
    assert (crop > 100).mean() < 0.02


def test_arcface_says_what_is_no_network(tmp_path):
    (tmp_path / "w600k_r50.onnx").write_bytes(b"no network")
    with pytest.raises(DamagedCheckpointError, match="no ONNX network"):
        ArcFace(tmp_path / "w600k_r50.onnx")


def test_intervals_are_those_of_scipy():
    from scipy.stats import bootstrap

    values = np.random.default_rng(5).normal(3, 1, 40)
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(6))
    assert clip_interval(values) == pytest.approx(tuple(theirs.confidence_interval), abs=0.06)
    assert clip_interval(values) == clip_interval(values)
    assert clip_interval(values[:3]) is None


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(60):
        low, high = clip_interval(rng.normal(0, 1, 30))
        held += low < 0 < high
    assert held >= 50  # of 60: 57 expected, less as percentiles of 30 values are a little narrow


def test_frames_that_resemble_their_neighbours_count_less():
    """Blocks: an interval over slowly changing values is wider than one that takes them for independent."""
    rng = np.random.default_rng(8)
    slow = np.repeat(rng.normal(0, 1, 20), 25)
    width = [np.diff(block_interval(slow, block=block))[0] for block in (1, 25)]
    assert width[1] > 2 * width[0]
    assert block_interval(slow[:99]) is None  # fewer than four blocks
    assert Measured(slow).interval() == block_interval(slow)
    assert np.isnan(Measured(np.array([])).score)
