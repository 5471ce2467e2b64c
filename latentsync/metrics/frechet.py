"""The Frechet distance of two clouds of features, which FID and FVD are."""

import numpy as np

from ..errors import OptionError


class FeatureCloud:
    """Mean and covariance of feature vectors that come in batches, in float64 and in constant memory."""

    def __init__(self, width: int):
        self.count = 0
        self._sum, self._products = np.zeros(width), np.zeros((width, width))

    def add(self, features: np.ndarray) -> None:
        """(N, D), any float."""
        features = np.asarray(features, np.float64)
        self.count += len(features)
        self._sum += features.sum(0)
        self._products += features.T @ features

    def __add__(self, other: "FeatureCloud") -> "FeatureCloud":
        """All vectors of both."""
        whole = FeatureCloud(len(self._sum))
        whole.count = self.count + other.count
        whole._sum, whole._products = self._sum + other._sum, self._products + other._products
        return whole

    @property
    def mean(self) -> np.ndarray:
        """(D,)"""
        return self._sum / self.count

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), divided by N - 1."""
        return (self._products - self.count * np.outer(self.mean, self.mean)) / (self.count - 1)


def cloud_of(features: np.ndarray) -> FeatureCloud:
    """Of (N, D) features at once."""
    cloud = FeatureCloud(np.shape(features)[1])
    cloud.add(features)
    return cloud


def frechet_distance(first: FeatureCloud, second: FeatureCloud) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), 0 for equal clouds.

    The trace of the root is the sum of the roots of the eigenvalues of C1 C2, taken of the symmetric S C2 S with
    S = C1^(1/2): no complex parts, and no noise added where there are fewer vectors than dimensions (then the distance
    is defined, but biased: compare only distances of as many vectors). Raises OptionError below two vectors.
    """
    if min(first.count, second.count) < 2:
        raise OptionError(f"{first.count} and {second.count} feature vectors; expected two of each at least")
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ second.covariance @ root)
    difference = first.mean - second.mean
    spread = np.trace(first.covariance) + np.trace(second.covariance) - 2 * np.sqrt(np.clip(shared, 0, None)).sum()
    return float(max(difference @ difference + spread, 0.0))
