"""Losses between expected intensities and measured electrons, one class each.

`expected` (..., H, W) >= 0 and `measured` (..., H, W), which may be negative, are in electrons; `variance` (H, W) is
the dark variance in electrons squared; `weight` broadcasts and is zero where a pixel does not count. Each returns the
*sum* over all pixels, a scalar that carries gradients to `expected`.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor


class Loss(Protocol):
    """What a reconstruction minimises."""

    name: str

    def __call__(self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor) -> Tensor: ...


class SlopedLoss(Loss, Protocol):
    """A loss that also gives its slope in the expected intensity, for gradients written by hand."""

    def sloped(
        self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The sum, a scalar, and d(sum)/d(expected), of the shape of `expected`; weight None counts every pixel."""
        ...

    def information(self, expected: Tensor, variance: Tensor) -> Tensor:
        """Half the expected curvature of a pixel's loss in its expected electrons."""
        ...


class MixedGaussian:
    """Eq. 1 of the paper: ln(I + s^2) + (X - I)^2/(I + s^2), twice the negative log-likelihood of a Gaussian."""

    name = "mixed"

    def __call__(self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
        total = expected + variance
        return (weight * (total.log() + (measured - expected).square() / total)).sum()

    def sloped(
        self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        total = expected + variance
        # r = (X - I)/total: the term is ln(total) + r^2 total, its slope (1 - 2 r total - r^2 total)/total.
        ratio = (measured - expected).div_(total)
        slope = (ratio + 2.0).mul_(ratio).neg_().add_(total.reciprocal())
        value = ratio.square_().mul_(total).add_(total.log_())
        if weight is not None:
            value, slope = value.mul_(weight), slope.mul_(weight)
        return value.sum(), slope

    def information(self, expected: Tensor, variance: Tensor) -> Tensor:
        """1/T + 1/(2 T^2), T = I + s^2."""
        inverse = 1 / (expected + variance)
        return inverse + 0.5 * inverse.square()


class PaperPoisson:
    """The paper's Poisson-only loss (section 3.3): (sqrt X - sqrt I)^2, with X taken as 0 where it is negative.

    `floor` (electrons) smooths the square root at I = 0, where its slope has no limit.
    """

    name = "poisson"

    def __init__(self, floor: float = 1e-4):
        self.floor = floor

    def __call__(self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
        root = (expected + self.floor).sqrt()
        return (weight * (measured.clamp_min(0).sqrt() - root).square()).sum()


class StabilisedAmplitude:
    """4 (sqrt(X + s^2 + 3/8) - sqrt(I + s^2 + 3/8))^2: unit variance at every intensity (Anscombe 1948; Murtagh 1995).

    Not efficient in the dark, but nearly quadratic in the field: the loss to start a calibration with.
    """

    name = "amplitude"

    def __call__(self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
        offset = variance + 0.375
        difference = (measured + offset).clamp_min(0).sqrt() - (expected + offset).sqrt()
        return (4 * weight * difference.square()).sum()

    def sloped(
        self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        offset = variance + 0.375
        root = (expected + offset).sqrt_()
        difference = root - (measured + offset).clamp_min_(0).sqrt_()
        weighted = difference if weight is None else difference * weight
        value = 4 * torch.dot(difference.flatten(), weighted.flatten())
        return value, weighted.div_(root).mul_(4)

    def information(self, expected: Tensor, variance: Tensor) -> Tensor:
        """1/(I + s^2 + 3/8)."""
        return 1 / (expected + variance + 0.375)


class ExactMixed:
    """Twice the negative log of the exact Poisson-Gaussian likelihood, for sensors that resolve photons.

    p(X | I) = e^-I sum_n I^n/n! N(X; n, s^2). Given X and s the sum is a polynomial in I, so its coefficients cost one
    exponential each and the rest is Horner's rule. `X`-dependent constants are left out. Counts beyond `most_electrons`
    raise ValueError: there Eq. 1 is as good.
    """

    name = "exact"

    def __init__(self, most_electrons: int = 24):
        self.most_electrons = most_electrons

    def __call__(self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
        counts = torch.where(weight > 0, measured, 0.0)
        reach = 5.0 * float(variance.median().sqrt())
        terms = math.ceil(float(counts.max()) + reach) + 3
        if terms > self.most_electrons:
            raise ValueError(
                f"exact likelihood: a pixel holds {float(counts.max()):.0f} electrons, it takes at most "
                f"{self.most_electrons - 3 - reach:.0f}; use the loss 'mixed'"
            )
        return (2 * weight * (expected - _LogSum.apply(expected, counts, variance, terms))).sum()


class _LogSum(torch.autograd.Function):
    """ln sum_n I^n/n! N(X; n, s^2) up to a constant of X: value and slope in I in one pass of Horner's rule."""

    @staticmethod
    def forward(ctx: Any, expected: Tensor, counts: Tensor, variance: Tensor, terms: int) -> Tensor:
        nearest = counts.round().clamp(0, terms - 1)
        # Relative to the nearest whole number of electrons nothing overflows, and at least one term is of order one.
        reference = (counts - nearest).square()
        half = 0.5 / variance
        total = torch.zeros_like(expected)
        slope = torch.zeros_like(expected)
        for n in range(terms - 1, -1, -1):
            slope.mul_(expected).add_(total)
            exponent = (reference - (counts - n).square()).mul_(half).sub_(math.lgamma(n + 1))
            # e^-60 is nothing beside the term of order one, and keeps subnormal numbers, which are slow, out of it.
            total.mul_(expected).add_(exponent.clamp_min_(-60.0).exp_())
        total.clamp_min_(1e-30)
        ctx.save_for_backward(slope.div_(total))
        return total.log()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return grad * slope, None, None, None


LOSSES: dict[str, type[Loss]] = {
    "mixed": MixedGaussian,
    "poisson": PaperPoisson,
    "amplitude": StabilisedAmplitude,
    "exact": ExactMixed,
}


def loss_named(name: str) -> Loss:
    """The loss of that name; raises ValueError naming the known ones."""
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    return LOSSES[name]()


def pixel_weights(mask: Tensor, saturated: Tensor | None) -> Tensor:
    """Weights from the (H, W) mask of good pixels and the (B, H, W) mask of clipped ones."""
    good = mask.to(torch.float32)
    return good if saturated is None else good * (~saturated).to(torch.float32)
