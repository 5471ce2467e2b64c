"""From a path to what is generated: weights, fades, gaps, smoothing. Paths are written down here, their truth known."""

from dataclasses import replace

import numpy as np
import pytest

from latentsync.faces.align import fit_matrices
from latentsync.faces.people import ClipFaces, FacePath, covering
from latentsync.faces.place import MAX_COVERING, cover_notice, place, smooth_points
from latentsync.options import LipSyncOptions

FPS = 25.0
FACE = np.array([[100.0, 100.0], [150.0, 100.0], [125.0, 125.0]])


def path_of(rows, points=None, **columns):
    rows = np.asarray(rows)
    count = len(rows)
    points = np.asarray(np.tile(FACE, (count, 1, 1)) if points is None else points, np.float32)
    columns = {
        "rows": rows,
        "points": points,
        "nose": points[:, 2],
        "confidence": np.ones(count, np.float32),
        "opening": np.linspace(0, 0.2, count, dtype=np.float32),
        "yaw": np.zeros(count, np.float32),
        "side": np.full(count, 120, np.float32),
        "region": np.tile(np.float32([125, 120, 180, 0.1]), (count, 1)),
        "contour": np.zeros((count, 26, 2), np.float32),
        "box": np.tile(np.float32([65, 60, 185, 180]), (count, 1)),
        "covering": np.zeros(count, np.float32),
        "look": np.zeros(4, np.float32),
    } | columns
    return FacePath(**columns)


def clip_of(path, num_frames, shots=None, times=None):
    times = np.arange(num_frames) / FPS if times is None else np.asarray(times)
    return ClipFaces(times, np.zeros(num_frames, int) if shots is None else np.asarray(shots), (240, 320), (path,))


def weights_of(path, num_frames, shots=None, **options):
    return place(path, clip_of(path, num_frames, shots), 64, LipSyncOptions(**options)).weights


def test_a_face_seen_throughout_is_whole_from_the_first_frame_to_the_last():
    path = path_of(range(20))
    placement = place(path, clip_of(path, 20), 64, LipSyncOptions())
    assert (placement.weights == 1).all()
    assert [placement.at(row).restart for row in range(20)] == [True] + [False] * 19
    face = placement.at(5)
    assert face.matrix.shape == (2, 3)
    assert face.matrix.dtype == np.float32
    assert (face.confidence, face.yaw) == (1.0, 0.0)
    assert face.opening == pytest.approx(0.2 * 5 / 19)
    assert (face.region.side, face.region.angle) == (180.0, pytest.approx(0.1))
    assert placement.at(20) is None


def test_towards_a_loss_the_weight_falls_inside_the_stretch_and_returns():
    path = path_of([*range(20), *range(30, 50)])
    placement = place(path, clip_of(path, 50), 64, LipSyncOptions(fade=0.16))
    weights = placement.weights
    assert (weights[20:30] == 0).all()
    assert (weights[:16] == 1).all()
    assert (np.diff(weights[16:21]) < 0).all()
    np.testing.assert_allclose(weights[30:50], weights[19::-1], atol=1e-9)
    assert all(placement.at(row) is None for row in range(20, 30))
    assert placement.at(30).restart
    assert not placement.at(31).restart
    assert placement.at(30).weight == pytest.approx(weights[30])


def test_without_a_fade_the_weight_is_all_or_nothing():
    weights = weights_of(path_of([*range(20), *range(30, 50)]), 50, fade=0.0)
    assert set(weights.tolist()) == {0.0, 1.0}
    assert weights.sum() == 40


def test_nothing_fades_at_a_cut():
    path = path_of(range(20))
    weights = weights_of(path, 40, shots=[0] * 20 + [1] * 20)
    assert (weights[:20] == 1).all()
    assert (weights[20:] == 0).all()
    both = place(path_of(range(40)), clip_of(path_of(range(40)), 40, [0] * 20 + [1] * 20), 64, LipSyncOptions())
    assert [row for row in range(40) if both.at(row).restart] == [0, 20]


@pytest.mark.parametrize(
    ("column", "value"), [("yaw", 70.0), ("yaw", -70.0), ("confidence", 0.55), ("side", 20.0), ("covering", 0.6)]
)
def test_what_cannot_be_generated_fades_to_the_source(column, value):
    usual = getattr(path_of(range(60)), column).copy()
    usual[20:40] = value
    weights = weights_of(path_of(range(60), **{column: usual}), 60)
    assert (weights[20:40] == 0).all()
    assert (weights[[10, 50]] == 1).all()
    assert 0 < weights[19] < weights[18] < 1
    assert 0 < weights[40] < weights[41] < 1


def test_the_limit_of_yaw_is_the_options():
    yaw = np.full(20, 50, np.float32)
    assert (weights_of(path_of(range(20), yaw=yaw), 20, max_yaw=60.0) == 1).all()
    assert (weights_of(path_of(range(20), yaw=yaw), 20, max_yaw=40.0) == 0).all()
    unknown = np.full(20, np.nan, np.float32)
    assert (weights_of(path_of(range(20), yaw=unknown, covering=unknown), 20, max_yaw=10.0) == 1).all()


def test_a_loss_of_an_instant_is_bridged():
    rows = [*range(10), *range(12, 30)]
    points = FACE + np.array([[[row, 0]] for row in rows])
    path = path_of(rows, points)
    placement = place(path, clip_of(path, 30), 64, LipSyncOptions(smoothing="none"))
    assert (placement.weights == 1).all()
    expected = fit_matrices([FACE + np.array([10, 0])], 64, "none")[0]
    np.testing.assert_allclose(placement.at(10).matrix, expected, atol=1e-3)
    assert placement.at(10).confidence == 0
    assert not placement.at(12).restart
    cut = place(path, clip_of(path, 30, [0] * 11 + [1] * 19), 64, LipSyncOptions())
    assert cut.at(10) is None
    assert cut.at(12).restart


def test_a_glance_that_turns_too_far_for_an_instant_is_no_reason_to_fade():
    yaw = np.zeros(30, np.float32)
    yaw[10:12] = 65
    assert (weights_of(path_of(range(30), yaw=yaw), 30) == 1).all()


def test_times_count_and_not_frames():
    """At twice the rate, or with uneven times, the fade lasts as long."""
    rows = [*range(40), *range(60, 100)]
    path = path_of(rows)
    clip = clip_of(path, 100, times=np.arange(100) / 50)
    weights = place(path, clip, 64, LipSyncOptions(fade=0.2)).weights
    assert ((weights > 0) & (weights < 1)).sum() == 2 * 9
    uneven = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.06, 100))
    weights = place(path, clip_of(path, 100, times=uneven), 64, LipSyncOptions(fade=0.2)).weights
    distance = uneven[40] - uneven[:40]
    assert ((weights[:40] < 1) == (distance < 0.2)).all()


@pytest.mark.parametrize("smoothing", ["none", "p_bias"])
def test_other_smoothings_are_the_aligners(smoothing):
    rng = np.random.default_rng(1)
    points = (FACE + rng.normal(0, 1, (20, 3, 2))).astype(np.float32)
    path = path_of(range(20), points)
    placement = place(path, clip_of(path, 20), 64, LipSyncOptions(smoothing=smoothing))
    expected = fit_matrices(points, 64, smoothing)
    assert np.array_equal(np.stack([placement.at(row).matrix for row in range(20)]), expected)


def trembling(count=150, noise=0.5):
    return FACE + np.random.default_rng(2).normal(0, noise, (count, 3, 2))


def test_a_still_head_no_longer_trembles():
    times, points = np.arange(150) / FPS, trembling()
    smooth = smooth_points(points, times)

    def tremor(values):
        return np.sqrt((np.diff(values[5:-5], 2, axis=0) ** 2).mean())

    assert tremor(smooth) < 0.1 * tremor(points)
    assert np.abs(smooth - FACE).mean() < 0.5 * np.abs(points - FACE).mean()


def test_a_moving_head_is_followed_without_delay():
    times = np.arange(150) / FPS
    moving = np.stack([60 * np.sin(2 * np.pi * 0.7 * times), 20 * np.cos(2 * np.pi * 0.4 * times)], 1)
    truth = FACE + moving[:, None]
    smooth = smooth_points(truth + np.random.default_rng(3).normal(0, 0.5, truth.shape), times)
    inner = slice(10, -10)
    errors = [np.abs(np.roll(truth, shift, 0)[inner] - smooth[inner]).mean() for shift in (-1, 0, 1)]
    assert errors[1] < 0.02 * 60
    assert errors[1] < 0.3 * min(errors[0], errors[2])


def test_constant_speed_and_acceleration_pass_unchanged():
    times = np.cumsum(np.random.default_rng(4).uniform(0.01, 0.07, 80))  # at uneven times
    truth = FACE + (40 * times + 9 * times**2)[:, None, None] * [1.0, 0.5]
    np.testing.assert_allclose(smooth_points(truth, times), truth, atol=1e-6)


def test_smoothing_does_not_depend_on_resolution_or_rate():
    times, points = np.arange(100) / FPS, trembling(100)
    np.testing.assert_allclose(smooth_points(points * 4, times), smooth_points(points, times) * 4, atol=1e-6)
    fine = np.arange(200) / (2 * FPS)
    speed = FACE + (30 * np.sin(2 * np.pi * fine))[:, None, None]
    coarse = smooth_points(speed[::2], fine[::2])
    assert np.abs(smooth_points(speed, fine)[::2][5:-5] - coarse[5:-5]).max() < 0.5


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_short_stretches(count):
    points = trembling(count)
    assert np.isfinite(smooth_points(points, np.arange(count) / FPS)).all()
    path = path_of(range(count), points)
    assert place(path, clip_of(path, count), 64, LipSyncOptions()).at(count - 1) is not None


def test_nothing_passes_from_one_shot_to_the_next():
    points = np.concatenate([trembling(30), trembling(30) + 200])
    path = path_of(range(60), points)
    placement = place(path, clip_of(path, 60, [0] * 30 + [1] * 30), 64, LipSyncOptions())
    alone = path_of(range(30), points[:30])
    expected = place(alone, clip_of(alone, 30), 64, LipSyncOptions())
    assert all(np.array_equal(placement.at(row).matrix, expected.at(row).matrix) for row in range(30))


def test_a_path_without_landmarks_has_places_too():
    nothing = replace(path_of(range(9)), opening=np.full(9, np.nan, np.float32), yaw=np.full(9, np.nan, np.float32))
    nothing = replace(nothing, region=np.full((9, 4), np.nan), contour=np.full((9, 26, 2), np.nan))
    face = place(nothing, clip_of(nothing, 9), 64, LipSyncOptions()).at(4)
    assert (face.opening, face.yaw, face.region, face.contour) == (None, None, None, None)


def test_covering_tells_an_object_from_speech():
    rng = np.random.default_rng(5)
    lower = rng.normal(0, 0.05, (100, 36))
    lower[40:60] += 0.7
    lower[90] = np.nan
    unlike = covering(lower)
    assert unlike[40:60].min() > 0.5
    assert np.nanmax(np.delete(unlike, slice(40, 60))) < 0.2
    assert np.isnan(unlike[90])
    assert np.isnan(covering(np.full((3, 36), np.nan))).all()


def skin_and(lips, cheeks, count=20):
    """Colours of the lower face of n frames, (n, 36), relative to the skin above: log of red, green and blue."""
    places = np.zeros((count, 12, 3))
    places += np.asarray(cheeks) + np.random.default_rng(0).normal(0, 0.01, places.shape)
    places[:, 4] += lips
    return places.reshape(count, -1)


RED_LIPS, NONE = (0.1, -0.25, -0.2), (0.0, 0.0, 0.0)
PALE_BLUE, WHITE = (-0.3, 0.2, 0.4), (0.1, 0.25, 0.35)


@pytest.mark.parametrize("colour", [PALE_BLUE, WHITE])
def test_a_mask_worn_all_along_covers_the_mouth(colour):
    assert (covering(skin_and(NONE, colour)) > MAX_COVERING).all()
    partly = np.concatenate([skin_and(NONE, colour, 15), skin_and(RED_LIPS, NONE, 5)])
    unlike = covering(partly)
    assert (unlike[:15] > MAX_COVERING).all()
    assert (unlike[15:] < 0.3).all()  # against the face without it
    path = path_of(range(20), covering=unlike.astype(np.float32))
    assert "covers nose and mouth of face 0 in 15 of 20 frames" in cover_notice(path, 0)
    assert cover_notice(path_of(range(20)), 0) is None


def test_faces_and_light_are_no_mask():
    beard = skin_and(RED_LIPS, NONE).reshape(20, 12, 3)
    beard[:, [3, 5, 6, 7, 8, 9, 10, 11]] += np.array([-1.2, -1.0, -0.8])  # grey, but not beside the nose
    light = skin_and(NONE, NONE).reshape(20, 12, 3)
    light += np.linspace(0, 0.4, 12)[:, None] * np.array([-0.5, 0, 0.5])  # a screen below the face
    made_up = skin_and((0.2, -0.5, -0.5), (0.1, -0.05, -0.05))
    dim = skin_and(RED_LIPS, (-0.8, -0.8, -0.8))
    for lower in (beard.reshape(20, -1), light.reshape(20, -1), made_up, dim):
        assert (covering(lower) < MAX_COVERING).all()
