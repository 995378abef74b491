"""The read noise as it is: the probability of each code around an electron's place, Gaussian or measured from darks.

A code is a rounded number, so what a pixel without light shows is H(r) = integral of the noise's density over one
digital number around r, r = code - the pixel's dark mean. Residuals of darks are samples of H, at the fractions that
the dark means happen to have; a photon shifts r by 1/gain, to fractions that no dark has shown. So the density beneath
is fitted as a mixture of normal components of many widths and places, which H at any r follows from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from scipy.optimize import nnls
from scipy.special import ndtr

FLOOR = 1e-15
"""Least probability of a code: a reading that nothing explains says nothing."""
ITERATIONS = 60
LEAST_WIDTH_ADU = 0.05
"""Narrower noise rounds to the same code anyway."""
_PLACES = (0.75, 1.5, 2.5, 4.0, 6.0)
_WIDTHS = (0.5, 0.75, 1.0, 1.5, 2.5, 5.0)


@dataclass(frozen=True)
class ReadKernel:
    """Noise before rounding as a mixture of normal components of zero mean together.

    Attributes:
        electrons_per_adu: conversion gain.
        weights: (M,) sum to one.
        centres_adu, widths_adu: (M,) digital numbers.
    """

    electrons_per_adu: float
    weights: NDArray[np.float64]
    centres_adu: NDArray[np.float64]
    widths_adu: NDArray[np.float64]

    @property
    def variance_e2(self) -> float:
        """Variance of a reading without light, electrons squared, rounding included."""
        adu2 = float((self.weights * (self.widths_adu**2 + self.centres_adu**2)).sum()) + 1 / 12
        return adu2 * self.electrons_per_adu**2

    @property
    def reach_e(self) -> float:
        """Electrons from zero beyond which a reading has less than `FLOOR`."""
        far = np.arange(0.0, 4096.0, 0.25)
        alive = np.maximum(self.probability(far), self.probability(-far)) > FLOOR
        return (float(far[alive].max(initial=0.0)) + 0.25) * self.electrons_per_adu

    def probability(self, residual_adu: ArrayLike) -> NDArray[np.float64]:
        """H(r) of residuals in digital numbers; sums to one over r = r0 + whole numbers, for any r0."""
        r = np.asarray(residual_adu, np.float64)[..., None]
        return (self.weights * _boxes(r - self.centres_adu, self.widths_adu)).sum(-1)

    def log_table(self) -> tuple[float, float, NDArray[np.float64]]:
        """(first residual, spacing) in electrons and ln max(H, FLOOR) there; linear between is good to 1e-4."""
        spacing = float(self.widths_adu[self.weights > 1e-9].min()) / 64
        half = math.ceil(self.reach_e / self.electrons_per_adu / spacing)
        r = spacing * np.arange(-half, half + 1)
        chances = np.concatenate([self.probability(part) for part in np.array_split(r, 64)])
        return (
            float(r[0]) * self.electrons_per_adu,
            spacing * self.electrons_per_adu,
            np.log(np.maximum(chances, FLOOR)),
        )


def gaussian_kernel(dark_noise_e: float, electrons_per_adu: float) -> ReadKernel:
    """Of normal read noise; `dark_noise_e` is that of codes in the dark, rounding included.

    Raises:
        ValueError: less noise than rounding alone makes.
    """
    adu2 = (dark_noise_e / electrons_per_adu) ** 2 - 1 / 12
    if not adu2 > 0:
        raise ValueError(
            f"read noise: {dark_noise_e:.3g} e- rms is less than what rounding to {electrons_per_adu:.3g} e- a digital "
            f"number makes, {electrons_per_adu / math.sqrt(12):.3g} e-; check the gain"
        )
    one = np.ones(1)
    return ReadKernel(electrons_per_adu, one, 0 * one, np.maximum(math.sqrt(adu2), LEAST_WIDTH_ADU) * one)


def measured_kernel(histogram: NDArray, edges_adu: NDArray, electrons_per_adu: float) -> ReadKernel:
    """Of a histogram (B,) of residuals of darks with its edges (B + 1,), by maximum likelihood.

    Whatever fractions the dark means have, the probabilities of a residual's codes sum to one, so the histogram's own
    filling by fraction does not matter. Histograms of files pool all pixels, hot ones too, whose tails look like
    photons to a sensor of 0.3 e-: `good_residuals` leaves them out.

    Raises:
        ValueError: fewer than 1000 residuals.
    """
    filled = np.flatnonzero(histogram)
    total = int(histogram.sum())
    if total < 1000:
        raise ValueError(f"read noise: {total} residuals of darks, it takes at least 1000; record more darks")
    counts = histogram[filled].astype(np.float64)
    left, right = edges_adu[filled], edges_adu[filled + 1]
    middle = 0.5 * (left + right)
    middle = middle - float((counts * middle).sum() / total)
    core = _core(middle, counts)
    shapes = [(0.0, w * core) for w in _WIDTHS]
    shapes += [(sign * place * core, w * core) for place in _PLACES for w in (0.75, 1.0) for sign in (-1, 1)]
    centres, widths = (np.array(part) for part in zip(*shapes, strict=True))
    widths = np.maximum(widths, LEAST_WIDTH_ADU)
    # The mean of H over a bin, by three points.
    inside = [_boxes((middle + part * (right - left))[:, None] - centres, widths) for part in (-1 / 3, 0, 1 / 3)]
    likelihood = sum(inside) / 3 + 1e-300
    weights = _mixed(np.asarray(likelihood), counts)
    keep = weights > 1e-12
    weights = weights[keep] / weights[keep].sum()
    centres, widths = centres[keep], widths[keep]
    return ReadKernel(electrons_per_adu, weights, centres - float((weights * centres).sum()), widths)


def _core(middle: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    """Width before rounding that explains residuals best as normal with a few percent of tails, digital numbers."""
    widths = LEAST_WIDTH_ADU * 1.03 ** np.arange(300)

    def fit(width: float) -> float:
        both = 0.98 * _boxes(middle, np.array(width)) + 0.02 * _boxes(middle, np.array(4 * width))
        return float(counts @ np.log(both + 1e-12))

    return max((float(width) for width in widths), key=fit)


def _mixed(likelihood: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (M,) >= 0 that maximise sum of counts ln(likelihood (B, M) weights) - total sum of weights.

    Newton's steps, each a least squares of weights that may not be negative; expectation maximisation takes tens of
    thousands. It starts at one normal, and stays where the residuals cannot tell.
    """
    total = counts.sum()
    weights = np.full(likelihood.shape[1], 0.01 / likelihood.shape[1])
    weights[_WIDTHS.index(1.0)] += 0.99

    def gain(trial: NDArray[np.float64]) -> float:
        return float(counts @ np.log(likelihood @ trial) - total * trial.sum())

    value = gain(weights)
    for _ in range(ITERATIONS):
        ratio = likelihood / (likelihood @ weights)[:, None]
        bend = (counts[:, None] * ratio).T @ ratio + 1e-9 * total * np.eye(len(weights))
        root = np.linalg.cholesky(bend).T
        target, _ = nnls(root, solve_triangular(root, 2 * (counts @ ratio) - total, trans="T"))
        part = 1.0
        while (new := gain(weights + part * (target - weights))) < value and part > 1e-6:
            part /= 2
        if new - value < 1e-3:
            break
        weights, value = weights + part * (target - weights), new
    return weights


def good_residuals(raw: NDArray, mean_adu: NDArray, good: NDArray, edges_adu: NDArray) -> NDArray[np.int64]:
    """Histogram (B,) of the residuals of raw darks (k, H, W) about the pixels' means, bad pixels left out."""
    counts, _ = np.histogram((raw - mean_adu)[:, good], bins=edges_adu)
    return counts.astype(np.int64)


def _boxes(r: NDArray[np.float64], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integral of a normal density over r - 1/2 .. r + 1/2; on the lower tail, where it does not cancel."""
    r = -np.abs(r)
    return ndtr((r + 0.5) / width) - ndtr((r - 0.5) / width)
