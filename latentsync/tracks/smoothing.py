"""A filter over time that looks both ways: it removes the trembling of a still head without lagging behind a moving
one."""

import numpy as np

LONGEST, SHORTEST = 0.30, 0.08  # s, standard deviation of the window over a still head and over a very quick one
SPEED_GAIN = 8.0  # s per face width: how fast the window narrows with the speed of the head
SPEED_WINDOW = 0.08  # s, of the estimate of the speed
REACH = 3.0  # standard deviations at which the window ends


def smooth_points(points: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(n, K, 2) px of one unbroken stretch at times (n,) s, ascending -> the same, smoothed.

    Each frame's points are the value of a parabola fitted to those around it (local regression; Cleveland, 1979) in a
    Gaussian window whose width in seconds falls with the speed of the head. A movement of constant speed or constant
    acceleration passes unchanged, whatever the width. All points share one window, so their shape is not distorted.
    Speeds are in units of the distance of the first two points: the frame's resolution does not matter.
    """
    if len(points) < 4:
        return points
    face = max(float(np.median(np.linalg.norm(points[:, 1] - points[:, 0], axis=1))), 1e-6)
    flat = points.reshape(len(points), -1)
    slopes = _local_fits(flat, times, np.full(len(times), SPEED_WINDOW), degree=1)[1]
    speed = np.linalg.norm(slopes.reshape(points.shape).mean(1), axis=1) / face
    widths = SHORTEST + (LONGEST - SHORTEST) / (1 + SPEED_GAIN * speed) ** 2
    return _local_fits(flat, times, widths, degree=2)[0].reshape(points.shape)


def _local_fits(values: np.ndarray, times: np.ndarray, widths: np.ndarray, degree: int) -> np.ndarray:
    """Value and slope per s, (2, n, D), at every time of a polynomial fitted to values (n, D) in a window around it."""
    fits = np.empty((2, *values.shape))
    first = np.searchsorted(times, times - REACH * widths)
    last = np.searchsorted(times, times + REACH * widths, "right")
    need = degree // 2 + 1  # frames on either side, where frames are far apart
    rows = np.arange(len(times))
    first, last = np.minimum(first, np.maximum(rows - need, 0)), np.maximum(last, rows + need + 1)
    for row, low, high, width in zip(rows.tolist(), first.tolist(), last.tolist(), widths.tolist(), strict=True):
        offset = (times[low:high] - times[row]) / width
        weight = np.exp(-0.25 * offset**2)[:, None]  # the root of the window: both sides of the equations get it
        powers = offset[:, None] ** np.arange(degree + 1)
        solution = np.linalg.lstsq(powers * weight, values[low:high] * weight, rcond=None)[0]
        fits[:, row] = solution[0], solution[1] / width
    return fits
