"""The learning rate over a run."""

import pytest

from training_scripts.training_run import learning_rate, one_cycle

TOTAL, PEAK, WARMUP = 200, 4e-4, 0.1


def rates(total=TOTAL):
    return [one_cycle(step, total, PEAK, WARMUP) for step in range(total)]


def test_it_rises_linearly_to_the_peak():
    start = rates()[:20]
    assert start == pytest.approx([PEAK * (step + 1) / 20 for step in range(20)])
    assert max(rates()) == start[-1] == PEAK


def test_it_falls_to_nearly_nothing_and_never_below():
    falling = rates()[20:]
    assert falling == sorted(falling, reverse=True)
    assert falling[90] == pytest.approx(PEAK / 2)  # a cosine is half way down in the middle
    assert 0 < falling[-1] < 0.005 * PEAK
    assert one_cycle(10 * TOTAL, TOTAL, PEAK, WARMUP) == pytest.approx(1e-3 * PEAK)  # beyond the end, too


def test_a_constant_rate_may_be_warmed_up():
    assert [learning_rate("constant", step, TOTAL, PEAK, 0.01) for step in range(4)] == [PEAK / 2, PEAK, PEAK, PEAK]
    assert learning_rate("constant", 0, TOTAL, PEAK, 0.0) == PEAK
    assert learning_rate("one_cycle", 7, TOTAL, PEAK, WARMUP) == one_cycle(7, TOTAL, PEAK, WARMUP)


@pytest.mark.parametrize("total", [1, 2, 5])
def test_very_short_runs_have_usable_rates(total):
    assert all(0 < rate <= PEAK for rate in rates(total))
    assert rates(total)[0] == PEAK
