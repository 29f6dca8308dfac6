"""Confidence intervals of shares.

wilson(3, 300)      # (0.0034, 0.0289)
"""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # of a two-sided interval of 95%


def wilson(hits: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927, equation 5), (0, 1) where there is nothing to count."""
    if not n:
        return 0.0, 1.0
    share, scale = hits / n, 1 + z * z / n
    middle = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
