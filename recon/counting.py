"""Likelihoods made ready for frames that are looked at again and again: value and slope of every pixel.

`Counting` is the exact Poisson-Gaussian likelihood at every brightness, for sensors whose read noise leaves single
electrons apart; what depends on the measured electrons alone is computed once. The same likelihoods for frames that are
looked at once, with curvature and information, are `recon.noise`'s and `recon.exactnoise`'s.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from recon.noise import gaussian_terms

PHOTON_RESOLVING_E = 0.6
"""Read noise below which single electrons can be told apart, so that the exact likelihood gains over Eq. 1."""
REACH = 5.0
"""Standard deviations of read noise beyond which a number of electrons does not explain a reading."""
LEAST_E = 1e-4
"""Electrons: expectations below count as this, so that a slope at a photon in full darkness stays finite."""


class Prepared(Protocol):
    """Twice the negative log-likelihood of given frames."""

    name: str

    def __call__(self, expected: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """Value and slope in the expectation of each pixel (b, H, W), of the frames `rows`."""
        ...


class Counting:
    """2 (I - ln sum_n I^n/n! N(X; n, s^2)) up to a constant of X; only the n near X count, 7 of them at s = 0.6.

    With n = n0 + k and q = I/r, r = max(n0, 1): sum = I^n0/n0! sum_k c_k q^k, c_k = r^k n0!/(n0 + k)! N(X; n0 + k).

    Args:
        frames: (N, H, W) electrons.
        variance: (H, W) electrons squared.
    """

    name = "exact"

    def __init__(self, frames: Tensor, variance: Tensor):
        reach = max(1, math.ceil(REACH * float(variance.median().sqrt())))
        nearest = frames.round().clamp_min_(0)
        self.first = (nearest - reach).clamp_min_(0)
        self.unit = self.first.clamp_min(1).reciprocal_()
        half = 0.5 / variance
        # Relative to the nearest whole number nothing overflows, and at least one term is of order one.
        reference = (frames - nearest).square_()
        offset = torch.lgamma(self.first + 1)
        terms = []
        for k in range(2 * reach + 1):
            n = self.first + k
            log = (reference - (frames - n).square_()).mul_(half)
            log += offset - torch.lgamma(n + 1) - k * self.unit.log()
            # About the peak of the polynomial at q of order one every term is of order one or nothing.
            terms.append(log.clamp_(-60.0, 60.0).exp_())
        self.terms = terms

    def __call__(self, expected: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        light = expected.clamp_min(LEAST_E)
        unit = self.unit[rows]
        q = light * unit
        total = self.terms[-1][rows].clone()
        slope = torch.zeros_like(total)
        for term in reversed(self.terms[:-1]):
            slope.mul_(q).add_(total)
            total.mul_(q).add_(term[rows])
        total.clamp_min_(1e-30)
        first = self.first[rows]
        slope.div_(total).mul_(unit).addcdiv_(first, light)
        value = total.log_().add_(first * light.log()).neg_().add_(expected)
        return value.mul_(2), slope.neg_().add_(1).mul_(2)


class Mixed:
    """Eq. 1 of the paper, ln(I + s^2) + (X - I)^2/(I + s^2)."""

    name = "mixed"

    def __init__(self, frames: Tensor, variance: Tensor):
        self.frames, self.variance = frames, variance

    def __call__(self, expected: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        return gaussian_terms(expected, self.frames[rows], self.variance)


class Amplitude:
    """4 (sqrt(X + s^2 + 3/8) - sqrt(I + s^2 + 3/8))^2, of unit variance: where a cold start begins."""

    name = "amplitude"

    def __init__(self, frames: Tensor, variance: Tensor):
        self.offset = variance + 0.375
        self.root = (frames + self.offset).clamp_min_(0).sqrt_()

    def __call__(self, expected: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        root = (expected + self.offset).sqrt_()
        difference = root - self.root[rows]
        return difference.square().mul_(4), difference.div_(root).mul_(4)


PREPARED: dict[str, type[Counting] | type[Mixed] | type[Amplitude]] = {
    "exact": Counting,
    "mixed": Mixed,
    "amplitude": Amplitude,
}
