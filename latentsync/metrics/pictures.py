"""How alike two pictures are: PSNR and SSIM."""

import numpy as np
from scipy.ndimage import correlate1d

from ..errors import OptionError

WINDOW, SIGMA = 11, 1.5  # px, of SSIM's Gaussian window (Wang et al., 2004)
STABILISERS = (0.01, 0.03)  # of luminance and contrast, in units of the range of values


def region_psnr(picture: np.ndarray, truth: np.ndarray, region: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB inside a boolean region (H, W) of two (H, W, 3) uint8 pictures."""
    return psnr_of(float(((picture[region].astype(np.float64) - truth[region]) ** 2).mean()))


def psnr_of(mean_squared_error: float) -> float:
    """PSNR in dB of a mean squared error in grey levels of 255."""
    return float("inf") if mean_squared_error == 0 else float(10 * np.log10(255**2 / mean_squared_error))


def squared_error(picture: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared error of two uint8 pictures of one shape, in squared grey levels."""
    _check(picture, truth)
    return float(((picture.astype(np.float64) - truth) ** 2).mean())


def ssim(picture: np.ndarray, truth: np.ndarray) -> float:
    """Structural similarity of two (H, W, 3) uint8 pictures, 1 for equal ones.

    The standard one: Gaussian window of 11 x 11 px and sigma 1.5, K 0.01 and 0.03, variances divided by N, each channel
    by itself, averaged over channels and over the windows that lie inside the picture. That is scikit-image's with
    `gaussian_weights` and `use_sample_covariance=False`; torchmetrics' differs by also averaging over the border, where
    it mirrors the picture. Raises OptionError for pictures of other shapes or smaller than the window.
    """
    _check(picture, truth)
    if min(picture.shape[:2]) < WINDOW:
        raise OptionError(f"a picture of {picture.shape[1]} x {picture.shape[0]}; SSIM needs {WINDOW} x {WINDOW} px")
    first, second = picture.astype(np.float64), truth.astype(np.float64)
    mean, other = _blurred(first), _blurred(second)
    variance = _blurred(first**2) - mean**2
    other_variance = _blurred(second**2) - other**2
    covariance = _blurred(first * second) - mean * other
    luminance, contrast = ((k * 255) ** 2 for k in STABILISERS)
    likeness = (2 * mean * other + luminance) * (2 * covariance + contrast)
    likeness /= (mean**2 + other**2 + luminance) * (variance + other_variance + contrast)
    return float(likeness.mean())


def _blurred(picture: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H - 10, W - 10, C): where the whole window lies inside."""
    reach = WINDOW // 2
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SIGMA) ** 2)
    kernel /= kernel.sum()
    rows = correlate1d(picture, kernel, axis=0)[reach:-reach]
    return correlate1d(rows, kernel, axis=1)[:, reach:-reach]


def _check(picture: np.ndarray, truth: np.ndarray) -> None:
    if picture.shape != truth.shape or picture.dtype != np.uint8 or truth.dtype != np.uint8:
        raise OptionError(
            f"pictures of {picture.shape} {picture.dtype} and {truth.shape} {truth.dtype}; expected two uint8 pictures "
            "of one shape"
        )
