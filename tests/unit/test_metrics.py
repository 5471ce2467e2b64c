"""Measures of lip-sync quality."""

import numpy as np
import pytest

from latentsync.metrics.faces import correlation, opening_track
from latentsync.metrics.pictures import psnr_of, region_psnr


def test_correlation_is_pearsons_over_what_is_known():
    rng = np.random.default_rng(0)
    truth, noise = rng.standard_normal(50), rng.standard_normal(50)
    measured = 0.3 * truth + 0.1 * noise + 5
    expected = np.corrcoef(measured, truth)[0, 1]
    assert correlation(measured, truth) == pytest.approx(expected)
    assert correlation(-measured, truth) == pytest.approx(-expected)
    gap = np.array([*measured, np.nan, 3.0])
    assert correlation(gap, np.array([*truth, 9.0, np.nan])) == pytest.approx(expected)


@pytest.mark.parametrize("measured", [[1.0, 2.0, np.nan], [1.0, 1.0, 1.0], [np.nan] * 3])
def test_correlation_of_too_little_is_nan(measured):
    assert np.isnan(correlation(np.array(measured), np.array([1.0, 2.0, 3.0])))


def test_region_psnr_counts_only_the_region():
    truth = np.full((8, 8, 3), 100, np.uint8)
    picture, region = truth.copy(), np.zeros((8, 8), bool)
    picture[:4] = 110
    picture[4:] = 0
    region[:4] = True
    assert region_psnr(picture, truth, region) == pytest.approx(10 * np.log10(255**2 / 100))
    assert region_psnr(truth, picture, region) == region_psnr(picture, truth, region)  # unsigned bytes do not wrap
    assert region_psnr(truth, truth, region) == np.inf
    assert psnr_of(255.0**2) == 0


def test_opening_track_marks_frames_without_a_face(avatar_frames):
    blank = np.full_like(avatar_frames[0], 90)
    track = opening_track([avatar_frames[0], blank, *avatar_frames[1:4]])
    assert track.shape == (5,)
    assert np.isnan(track).tolist() == [False, True, False, False, False]
    assert (track[[0, 2, 3, 4]] >= 0).all()
    assert track[np.isfinite(track)].max() < 1
