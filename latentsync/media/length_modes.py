"""Which frame is shown when: videos that are shorter or longer than the speech. Arithmetic alone, no files."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain, count, islice, repeat
from typing import Literal, TypeVar, get_args

from ..errors import OptionError

# What a video does that is shorter than the speech: go back and forth, begin again, stand still at its last frame, end
# the result, or (shorter and longer ones) run slower or faster so as to last just as long.
LengthMode = Literal["bounce", "loop", "hold", "trim", "speed"]
# What becomes of a video's rest after the speech: it is left out, or kept as it is, in silence.
TailMode = Literal["cut", "keep"]
LENGTH_MODES: tuple[LengthMode, ...] = get_args(LengthMode)
TAIL_MODES: tuple[TailMode, ...] = get_args(TailMode)

Frame = TypeVar("Frame")


def check_modes(length: str, tail: str) -> None:
    """Raises OptionError for unknown modes, and for two that contradict each other."""
    for name, mode, modes in (("length", length, LENGTH_MODES), ("tail", tail, TAIL_MODES)):
        if mode not in modes:
            raise OptionError(f"{name} is {mode!r}; expected one of {', '.join(modes)}")
    if (length, tail) == ("trim", "keep"):
        raise OptionError(
            "length is 'trim' and tail is 'keep', but trim leaves out what the longer one has more and keep shows it. "
            "Take tail 'cut', or another length: bounce, loop or hold"
        )


def repeats(
    starts: Sequence[int], end: int, interval: int, mode: LengthMode, *, doubled_turns: bool = False
) -> Iterator[tuple[int, int]]:
    """(frame, time) of what is shown after all frames were shown once, beginning at ``end``, in order.

    starts    ticks from which each frame is shown, growing; end: when the last one has been shown
    interval  ticks between two frames in general: how often a frame that stands still is given
    mode      bounce: F-2, ..., 1, 0, 1, ..., F-1, F-2, ...; each frame stays as long as it does the first time.
              loop: 0, 1, ..., F-1, 0, ...; hold: F-1, F-1, ...; these never end. trim, speed: nothing
    doubled_turns  bounce as in the reference, where a turning frame comes twice: F-1, F-2, ..., 0, 0, 1, ...
    """
    number = len(starts)
    if mode == "hold":
        yield from zip(repeat(number - 1), count(end, interval))
        return
    if mode == "bounce" and doubled_turns:
        passes = [range(number - 1, -1, -1), range(number)]
    elif mode == "bounce":
        passes = [range(number - 2, 0, -1), range(number)]
    else:
        passes = [range(number)] if mode == "loop" else []
    time = end
    while passes:
        for frame in chain(*passes):
            yield frame, time
            time += (starts[frame + 1] if frame + 1 < number else end) - starts[frame]


def shown_at(times: Iterable[Fraction], frames: Iterable[Frame], start: Callable[[Frame], Fraction]) -> Iterator[Frame]:
    """The frame on the screen at each of ``times``: the last that starts at or before it, else the first.

    ``times`` and the frames' starts grow; frames are taken from their iterator only when their time has come.
    """
    coming = iter(frames)
    current = next(coming, None)
    if current is None:
        return
    following = next(coming, None)
    for time in times:
        while following is not None and start(following) <= time:
            current, following = following, next(coming, None)
        yield current


def stretched_times(fps: Fraction, source_length: Fraction, length: Fraction, first: int = 0) -> Iterator[Fraction]:
    """Times of the source, s, whose frames are shown at k / fps (k = first, first + 1, ...) with mode "speed".

    ``source_length`` s are shown in ``length`` s. Each time is that of the middle of the output frame, so that lengths
    that differ by less than a frame change nothing.
    """
    ratio = Fraction(source_length) / Fraction(length)
    return ((k + Fraction(1, 2)) / fps * ratio for k in count(first))


def source_indices(
    num_frames: int,
    num_wanted: int,
    mode: LengthMode = "bounce",
    tail: TailMode = "cut",
    *,
    exact: Fraction | None = None,
) -> list[int]:
    """Which of a constant-rate video's frames are shown, one after another, beside a speech.

    num_frames  of the video, 1 or more; num_wanted: frames that cover the speech, 1 or more, at the same rate
    mode, tail  see LengthMode and TailMode; tail has no say in "speed"
    exact       length of the speech in frames, a fraction, for "speed"; num_wanted if None

    Raises OptionError where a number or a mode is impossible.
    """
    check_modes(mode, tail)
    if num_frames < 1 or num_wanted < 1:
        raise OptionError(f"{num_frames} frames beside {num_wanted} frames of speech; expected 1 or more of each")
    if mode == "speed":
        times = islice(stretched_times(Fraction(1), Fraction(num_frames), exact or Fraction(num_wanted)), num_wanted)
        return list(shown_at(times, range(num_frames), Fraction))
    if num_frames >= num_wanted:
        return list(range(num_frames if tail == "keep" else num_wanted))
    more = islice(repeats(range(num_frames), num_frames, 1, mode), num_wanted - num_frames)
    return [*range(num_frames), *(frame for frame, _ in more)]
