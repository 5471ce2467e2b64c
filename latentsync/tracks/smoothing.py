"""A filter over time that looks both ways: it removes the trembling of a still head without lagging behind a moving
one."""

import numpy as np

LONGEST, SHORTEST = 0.30, 0.03  # s, standard deviation of the window over a still head and over a very quick one
SPEED_GAIN = 8.0  # s per face width: how fast the window narrows with the speed of the head
SPEED_WINDOW = 0.08  # s, of the estimate of the speed
REACH = 3.0  # standard deviations at which the window ends


def smooth_points(points: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(n, K, 2) px of one unbroken stretch at times (n,) s, ascending -> the same, smoothed.

    Each frame's points are the value of a straight line fitted to those around it (local linear regression; Cleveland,
    1979) in a Gaussian window whose width in seconds falls with the speed of the head. A movement at constant speed
    passes unchanged whatever the width; all points share one window, so their shape is not distorted. Speeds are in
    units of the distance of the first two points: the frame's resolution does not matter.
    """
    if len(points) < 3:
        return points
    face = max(float(np.median(np.linalg.norm(points[:, 1] - points[:, 0], axis=1))), 1e-6)
    flat = points.reshape(len(points), -1)
    _, slopes = _local_lines(flat, times, np.full(len(times), SPEED_WINDOW))
    speed = np.linalg.norm(slopes.reshape(points.shape).mean(1), axis=1) / face
    width = SHORTEST + (LONGEST - SHORTEST) / (1 + SPEED_GAIN * speed) ** 2
    smooth, _ = _local_lines(flat, times, width)
    return smooth.reshape(points.shape)


def _local_lines(values: np.ndarray, times: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value (n, D) and slope (n, D) per s at every time of a line fitted in a Gaussian window around it."""
    fitted, slopes = values.copy(), np.zeros_like(values)
    first = np.searchsorted(times, times - REACH * widths)
    last = np.searchsorted(times, times + REACH * widths, "right")
    for index, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        if high - low < 3:
            low, high = max(index - 1, 0), min(index + 2, len(times))
        offset = times[low:high] - times[index]
        weight = np.exp(-0.5 * (offset / widths[index]) ** 2)
        weight /= weight.sum()
        centre = weight @ offset
        mean = weight @ values[low:high]
        spread = weight @ (offset - centre) ** 2
        slope = (weight * (offset - centre)) @ (values[low:high] - mean) / spread if spread > 0 else 0 * mean
        fitted[index], slopes[index] = mean - slope * centre, slope
    return fitted, slopes
