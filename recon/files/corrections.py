"""What frames are corrected by: darks in electrons, per pixel as far as pixels differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HOT_SIGMAS = 8.0
"""A pixel whose mean dark lies this many robust standard deviations above the median is hot."""
NOISY_RATIO = 16.0
"""A pixel whose dark variance exceeds the pooled one by this factor is noisy (telegraph noise, hot)."""
DEAD_MIN_DARKS = 16
"""From so many darks on, a pixel that never changed although the others did is dead."""
QUANTISATION_ADU2 = 1.0 / 12.0
"""Variance of rounding to integers: the least that a variance can be."""


@dataclass(frozen=True)
class Dark:
    """What the darks of one exposure say, in electrons.

    Attributes:
        mean_adu: (H, W) float64 raw digital numbers to subtract: per pixel as far as pixels differ beyond the
            scatter of their means, the pooled mean as far as they do not (James-Stein).
        variance: (H, W) float32 electrons squared of one dark-subtracted frame, the mean's own error included,
            shrunk in the same way.
        good: (H, W) bool, false for hot, noisy and dead pixels.
        count: dark frames.
        histogram, edges_adu: pooled residuals about each pixel's mean; (B,) counts and (B + 1,) edges.
    """

    mean_adu: NDArray[np.float64]
    variance: NDArray[np.float32]
    good: NDArray[np.bool_]
    count: int
    histogram: NDArray[np.int64]
    edges_adu: NDArray[np.float64]


def summarise_darks(
    mean: NDArray, variance: NDArray, count: int, gain: float
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    """(H, W) sample mean and variance of `count` darks to (mean to subtract, variance in electrons^2, good pixels).

    300 darks give a variance per pixel that scatters by 8 %, and every frame shares the error of the mean: both are
    shrunk towards their pooled values by the share of the pixels' scatter that sampling explains.
    """
    mean, variance = mean.astype(np.float64), variance.astype(np.float64)
    middle = np.median(mean)
    spread = 1.4826 * np.median(np.abs(mean - middle))
    typical = max(float(np.median(variance)), QUANTISATION_ADU2)
    spread = max(float(spread), float(np.sqrt(typical / count)))
    good = (mean - middle <= HOT_SIGMAS * spread) & (variance <= NOISY_RATIO * typical)
    if count >= DEAD_MIN_DARKS and typical > QUANTISATION_ADU2:
        good &= variance > 0
    if not good.any():
        good = np.ones_like(good)
    pooled = max(float(variance[good].mean()), QUANTISATION_ADU2)
    share_mean = _real_share(float(mean[good].var()), pooled / count)
    share_variance = _real_share(float(variance[good].var()), 2.0 * pooled**2 / (count - 1))
    centre = float(mean[good].mean())
    subtract = np.where(good, centre + share_mean * (mean - centre), mean)
    shrunk = np.maximum(pooled + share_variance * (variance - pooled), QUANTISATION_ADU2)
    shrunk = np.where(good, shrunk, np.maximum(variance, pooled)) * (1.0 + share_mean / count)
    return subtract, (shrunk * gain**2).astype(np.float32), good


def _real_share(observed: float, sampling: float) -> float:
    return 0.0 if observed <= sampling else 1.0 - sampling / observed
