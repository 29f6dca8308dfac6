"""Confidence intervals of shares, and of means whose values come in clusters.

wilson(3, 300)                                      # (0.0034, 0.0289)
clustered([1, 1, 0, 0], ["a", "a", "b", "b"])       # (0.5, -0.19, 1.19): two cards, not four
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

Z95 = 1.959963984540054  # of a two-sided interval of 95%


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927, equation 5), (0, 1) where there is nothing to count."""
    if not n:
        return 0.0, 1.0
    z = Z95
    share, scale = hits / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, float, float]:
    """Return the mean of values and the two ends of its interval, where values of one cluster are alike.

    The standard error is that of Miller 2024 ("Adding error bars to evals", arXiv:2411.00640, equation 4): the root of
    the sum over clusters of their squared summed residuals, divided by the number of values. For the difference of two
    systems give the differences value by value (section 4.2). Of one cluster the interval has no width and means
    nothing. Raises `ValueError` for no values.
    """
    if not values:
        raise ValueError("an interval of no values")
    mean = math.fsum(values) / len(values)
    residuals: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] = residuals.get(cluster, 0.0) + value - mean
    half = Z95 * math.sqrt(math.fsum(total * total for total in residuals.values())) / len(values)
    return mean, mean - half, mean + half
