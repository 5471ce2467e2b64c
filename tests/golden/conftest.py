"""Where the golden data lie: a small set beside the tests, a fuller one that a checkout may have next to it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

MINI = Path(__file__).parent / "mini"
FULL = Path(os.environ.get("LATENTSYNC_GOLDEN", Path(__file__).parents[3] / "shared" / "golden" / "full"))


@pytest.fixture(params=["mini", "full"])
def golden(request) -> Path:
    """Each golden folder in turn; the fuller set is skipped where it is absent."""
    if request.param == "mini":
        return MINI
    if not FULL.is_dir():
        pytest.skip("the fuller golden set is not part of the repository (set LATENTSYNC_GOLDEN to its folder)")
    return FULL


@pytest.fixture
def largest_error():
    """`largest_error(what, got, expected)`: the largest absolute difference; prints it, its place and the mean."""

    def compare(what: str, got: torch.Tensor, expected: torch.Tensor) -> float:
        assert got.shape == expected.shape, (what, got.shape, expected.shape)
        difference = (got - expected).abs().reshape(expected.shape or (1,))
        place = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
        print(f"{what}: max {difference.max():.3g} at {place}, mean {difference.mean():.3g}")
        return float(difference.max())

    return compare


@pytest.fixture
def assert_images_close():
    """`assert_images_close(name, actual, expected)`: 99.9 % of values within one grey level, none beyond three."""

    def compare(name: str, actual: np.ndarray, expected: np.ndarray) -> None:
        error = np.abs(actual.astype(int) - expected.astype(int))
        worst = np.unravel_index(error.argmax(), error.shape)
        within = (error <= 1).mean()
        print(f"{name}: mean {error.mean():.5f}, max {error.max()} at {tuple(map(int, worst))}, {within:.5%} within 1")
        assert within >= 0.999, name
        assert error.max() <= 3, name

    return compare
