"""Likelihoods of measured electrons, given the expected ones, one class each; and losses, their weighted sums.

`expected` (..., H, W) >= 0 and `measured` (..., H, W), which may be negative, are in electrons; `variance` (H, W) is
the dark variance in electrons squared. They broadcast. As a *likelihood* a class gives numbers of each pixel: `value`
(nats), `score`, `fisher` and `curvature`. As a *loss* it is called with a `weight`, zero where a pixel does not count,
and returns a sum over all pixels that carries gradients to `expected`: twice the value, the paper's own scale, for
`mixed`, `amplitude` and `exact`, half of it for `poisson`; constants of the data are left out.

`exact` is the truth for a sensor with Gaussian read noise (`recon.exactnoise`); which of the others loses how much, and
which to take: `recon.likelihoods` and docs/noise.md.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from recon.exactnoise import LEAST_E, ExactMixed


class Likelihood(Protocol):
    """What one pixel says about its expected electrons, element by element."""

    name: str

    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """-ln p(X | I), nats; the class says which constants of X it leaves out."""
        ...

    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """d(-ln p)/dI."""
        ...

    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor:
        """E[score^2] where the class' own model is the truth."""
        ...

    def curvature(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """A curvature of -ln p in I that is never negative, for Gauss-Newton steps."""
        ...

    def evaluate(self, expected: Tensor, measured: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`value`, `score` and `curvature`, where together they cost less."""
        ...


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


class Elementwise(ABC):
    """What likelihoods share whose curvature is their own Fisher information."""

    @abstractmethod
    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor: ...

    @abstractmethod
    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor: ...

    @abstractmethod
    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor: ...

    def curvature(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        return torch.broadcast_tensors(self.fisher(expected, variance), measured)[0]

    def evaluate(self, expected: Tensor, measured: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        arguments = (expected, measured, variance)
        return self.value(*arguments), self.score(*arguments), self.curvature(*arguments)


class MixedGaussian(Elementwise):
    """Eq. 1 of the paper: ln(I + s^2) + (X - I)^2/(I + s^2), twice the negative log-likelihood of a Gaussian.

    `value` is complete. Consistent where X = Poisson(I) + Normal(0, s^2), not efficient there; what it then really does
    is `sandwich`.
    """

    name = "mixed"

    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        total = expected + variance
        return 0.5 * ((2 * math.pi * total).log() + (measured - expected).square() / total)

    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        total = expected + variance
        ratio = (measured - expected) / total
        return 0.5 * (total.reciprocal() - (ratio + 2.0) * ratio)

    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor:
        unit = (expected + variance).reciprocal()
        return unit + 0.5 * unit * unit

    def sandwich(self, expected: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """(E[d score/dI], Var[score]) where the exact model is the truth; the mean score is zero there.

        One pixel's estimate has the variance spread/slope^2, not 1/slope. From the moments of a Poisson and a normal:
        mu3 = I, mu4 = 3 (I + s^2)^2 + I.
        """
        unit = (expected + variance).reciprocal()
        square = unit * unit
        slope = unit + 0.5 * square
        return slope, slope + expected * square * (unit + 0.25 * square)

    def __call__(self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
        total = expected + variance
        return (weight * (total.log() + (measured - expected).square() / total)).sum()

    def sloped(
        self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        value, slope = gaussian_terms(expected, measured, variance)
        if weight is not None:
            value, slope = value.mul_(weight), slope.mul_(weight)
        return value.sum(), slope

    def information(self, expected: Tensor, variance: Tensor) -> Tensor:
        """1/T + 1/(2 T^2), T = I + s^2."""
        inverse = 1 / (expected + variance)
        return inverse + 0.5 * inverse.square()


def gaussian_terms(expected: Tensor, measured: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """ln(I + s^2) + (X - I)^2/(I + s^2) of each pixel and its slope in I."""
    total = expected + variance
    # r = (X - I)/total: the term is ln(total) + r^2 total, its slope (1 - 2 r total - r^2 total)/total.
    ratio = (measured - expected).div_(total)
    slope = (ratio + 2.0).mul_(ratio).neg_().add_(total.reciprocal())
    return ratio.square_().mul_(total).add_(total.log_()), slope


class PaperPoisson(Elementwise):
    """The paper's Poisson-only loss (section 3.3): (sqrt X - sqrt I)^2, with X taken as 0 where it is negative.

    `floor` (electrons) smooths the square root at I = 0, where its slope has no limit. Its own model is sqrt X of
    variance 1/4, so that the `value` is 2 (sqrt X - sqrt I)^2; ln(2 pi X)/2 of a complete one is left out.
    """

    name = "poisson"

    def __init__(self, floor: float = 1e-4):
        self.floor = floor

    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        root = (expected + self.floor).sqrt()
        value = 2 * (measured.clamp_min(0).sqrt() - root).square()
        return torch.broadcast_tensors(value, variance)[0]

    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        root = (expected + self.floor).sqrt()
        return torch.broadcast_tensors(2 * (root - measured.clamp_min(0).sqrt()) / root, variance)[0]

    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor:
        return torch.broadcast_tensors((expected + self.floor).reciprocal(), variance)[0]

    def __call__(self, expected: Tensor, measured: Tensor, variance: Tensor, weight: Tensor) -> Tensor:
        root = (expected + self.floor).sqrt()
        return (weight * (measured.clamp_min(0).sqrt() - root).square()).sum()


class StabilisedAmplitude(Elementwise):
    """4 (sqrt(X + s^2 + 3/8) - sqrt(I + s^2 + 3/8))^2: unit variance at every intensity (Anscombe 1948; Murtagh 1995).

    Not efficient in the dark, but nearly quadratic in the field: the loss to start a calibration with. The `value` is
    half of it; ln(2 pi (X + s^2 + 3/8))/2 of a complete one is left out.
    """

    name = "amplitude"

    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        offset = variance + 0.375
        return 2 * ((measured + offset).clamp_min(0).sqrt() - (expected + offset).sqrt()).square()

    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        offset = variance + 0.375
        root = (expected + offset).sqrt()
        return 2 * (root - (measured + offset).clamp_min(0).sqrt()) / root

    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor:
        return (expected + (variance + 0.375)).reciprocal()

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


class TruePoisson(Elementwise):
    """Poisson(X; I), of a sensor without read noise; X is taken as 0 where it is negative, and need not be whole.

    `value` is complete, I - X ln I + ln X!.
    """

    name = "true-poisson"

    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        return _poisson_nats(expected.clamp_min(LEAST_E), measured.clamp_min(0))

    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        light = expected.clamp_min(LEAST_E)
        return (light - measured.clamp_min(0)) / light

    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor:
        return torch.broadcast_tensors(expected.clamp_min(LEAST_E).reciprocal(), variance)[0]


class ShiftedPoisson(Elementwise):
    """X + s^2 taken for Poisson(I + s^2), which has the right mean and variance.

    Readings below -s^2, of which a Poisson has none, keep their place in the score, 1 - (X + s^2)/(I + s^2): clipped,
    they would pull dark pixels up. `value` is complete for a continuous X >= -s^2.
    """

    name = "shifted-poisson"

    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        return _poisson_nats((expected + variance).clamp_min(LEAST_E), measured + variance)

    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        return (expected - measured) / (expected + variance).clamp_min(LEAST_E)

    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor:
        return (expected + variance).clamp_min(LEAST_E).reciprocal()

    def sandwich(self, expected: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """(E[d score/dI], Var[score]) where the exact model is the truth; both 1/(I + s^2), so no better than Eq. 1."""
        unit = self.fisher(expected, variance)
        return unit, unit


def _poisson_nats(light: Tensor, counts: Tensor) -> Tensor:
    """I - X ln I + ln Gamma(max(X, 0) + 1), the large terms of bright pixels taken together."""
    bright = counts > 20
    x = torch.where(bright, counts, 20.0)
    # X ln(X/I) - X + I + ln sqrt(2 pi X) + 1/(12 X) - ..., by the relative difference where the two are close.
    u = ((x - light) / light).clamp_min(-0.9)
    close = light * ((1 + u) * torch.log1p(u) - u)
    deviance = torch.where(u > -0.9, close, x * (x / light).log() + light - x)
    unit = x.reciprocal()
    stirling = 0.5 * (2 * math.pi * x).log() + unit * (1 / 12 - unit * unit / 360)
    dim = light - counts * light.log() + torch.lgamma(counts.clamp_min(0) + 1)
    return torch.where(bright, deviance + stirling, dim)


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
