"""Which frame is shown when, for every mode, with the rules written out anew."""

from fractions import Fraction
from itertools import islice, pairwise

import pytest

from latentsync.errors import OptionError
from latentsync.media.length_modes import LENGTH_MODES, repeats, shown_at, source_indices, stretched_times

SIZES = [(frames, wanted) for frames in range(1, 9) for wanted in range(1, 31)]


def triangle(k: int, number: int) -> int:
    """0, 1, ..., number - 1, ..., 1, 0, 1, ...: a wave without doubled turns."""
    period = max(1, 2 * number - 2)
    return min(k % period, period - k % period) if number > 1 else 0


RULES = {
    "bounce": triangle,
    "loop": lambda k, number: k % number,
    "hold": lambda k, number: min(k, number - 1),
}


@pytest.mark.parametrize("mode", RULES)
def test_modes_that_fill_the_speech(mode):
    for frames, wanted in SIZES:
        assert source_indices(frames, wanted, mode) == [RULES[mode](k, frames) for k in range(wanted)], (frames, wanted)


def test_bounce_never_shows_a_frame_twice_in_a_row():
    for frames, wanted in SIZES:
        shown = source_indices(frames, wanted)
        assert frames == 1 or all(abs(a - b) == 1 for a, b in pairwise(shown))


def test_trim_ends_with_the_shorter_one():
    for frames, wanted in SIZES:
        assert source_indices(frames, wanted, "trim") == list(range(min(frames, wanted)))


@pytest.mark.parametrize("mode", ["bounce", "loop", "hold"])
def test_a_kept_tail_shows_every_frame(mode):
    for frames, wanted in SIZES:
        shown = source_indices(frames, wanted, mode, "keep")
        assert shown == (list(range(frames)) if frames >= wanted else source_indices(frames, wanted, mode))


def test_speed_spreads_the_frames_evenly():
    for frames, wanted in SIZES:
        shown = source_indices(frames, wanted, "speed")
        assert len(shown) == wanted
        assert shown == [min((2 * k + 1) * frames // (2 * wanted), frames - 1) for k in range(wanted)]
        assert shown == sorted(shown)
        counts = [shown.count(frame) for frame in range(frames)]
        assert max(counts) - min(counts) <= 1  # none is favoured
        assert source_indices(frames, wanted, "speed", "keep") == shown


def test_speed_changes_nothing_where_the_lengths_differ_by_less_than_a_frame():
    for exact in (Fraction(19_999, 200), Fraction(100), Fraction(20_001, 200)):
        shown = source_indices(100, 101 if exact > 100 else 100, "speed", exact=exact)
        assert shown[:100] == list(range(100))
        assert shown[100:] in ([], [99])


@pytest.mark.parametrize("mode", LENGTH_MODES)
def test_equal_lengths_show_every_frame_once(mode):
    for frames in (1, 2, 7):
        assert source_indices(frames, frames, mode) == list(range(frames))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "0 frames beside 5"),
        ((5, 0), "5 frames beside 0"),
        ((5, 5, "mirror"), "length is 'mirror'; expected one of bounce"),
        ((5, 5, "loop", "fade"), "tail is 'fade'"),
        ((5, 9, "trim", "keep"), "trim leaves out"),
    ],
)
def test_impossible_values_are_told(arguments, message):
    with pytest.raises(OptionError, match=message):
        source_indices(*arguments)


def test_repeats_keep_each_frames_own_stay():
    starts, end = [0, 10, 15, 40], 50  # the stays are 10, 5, 25, 10
    stay = {0: 10, 1: 5, 2: 25, 3: 10}
    orders = {"bounce": [2, 1, 0, 1, 2, 3, 2, 1, 0], "loop": [0, 1, 2, 3, 0, 1, 2, 3, 0]}
    for mode, order in orders.items():
        shown = list(islice(repeats(starts, end, 12, mode), 9))
        assert [frame for frame, _ in shown] == order
        time = end
        for frame, at in shown:
            assert at == time
            time += stay[frame]
    doubled = islice(repeats(starts, end, 12, "bounce", doubled_turns=True), 9)
    assert [frame for frame, _ in doubled] == [3, 2, 1, 0, 0, 1, 2, 3, 3]
    assert list(islice(repeats(starts, end, 12, "hold"), 3)) == [(3, 50), (3, 62), (3, 74)]
    assert list(repeats(starts, end, 12, "trim")) == list(repeats(starts, end, 12, "speed")) == []


def test_the_frame_on_the_screen():
    starts = [2, 5, 6, 9]
    assert list(shown_at(range(11), starts, Fraction)) == [2, 2, 2, 2, 2, 5, 6, 6, 6, 9, 9]
    assert list(shown_at(range(3), [], Fraction)) == []
    taken = []
    stream = shown_at(iter(range(100)), (taken.append(start) or start for start in range(100)), Fraction)
    assert list(islice(stream, 3)) == [0, 1, 2]
    assert taken == [0, 1, 2, 3]  # one ahead, no more


def test_stretched_times_of_a_preview_continue_the_whole_runs():
    whole = list(islice(stretched_times(Fraction(25), Fraction(4), Fraction(3)), 75))
    assert whole[0] == Fraction(4, 3) / 50
    assert whole[-1] == 4 - Fraction(4, 3) / 50
    assert list(islice(stretched_times(Fraction(25), Fraction(4), Fraction(3), 30), 45)) == whole[30:]
