"""Free pixels under total variation: an accelerated proximal method whose steps follow from the light, not by hand.

Objective: twice the negative log-likelihood + strength x TV(O), O complex, or real in 0..1. The likelihood's curvature
is bounded pixel by pixel: propagation keeps energy and the variance-stabilised loss curves at most 8 in the field, so
D = 8 sum_j |P_j|^2 bounds it in the object (the majoriser of alternating projections). Steps are taken in the metric D
(FISTA: Beck & Teboulle 2009a, restarted: O'Donoghue & Candes 2015); where a likelihood bends more the metric is scaled
up until it bounds. The proximal map of TV and the bounds is exact up to its own iterations, on the dual (Beck &
Teboulle 2009b), the dual kept from step to step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recon.counting import Prepared
from recon.knownlight import KnownLight

CURVATURE = 8.0
"""Largest second derivative in the field of twice a negative log-likelihood of unit-variance amplitudes."""
FLOOR = 0.2
"""Least metric over its largest: pixels that no light reached follow their neighbours."""
INNER = (10, 60)
"""Dual steps per proximal map: between two looks at its change, and at most."""
EXACTNESS = 0.1
"""A proximal map ends when ten dual steps change it by less than this share of the step it is part of: less exact
ones make the accelerated method diverge under strong regularisation."""


def as_channels(obj: Tensor, real: bool) -> Tensor:
    """(c, M, M) real: the real part alone, or both."""
    return obj.real[None].clone() if real else torch.stack((obj.real, obj.imag))


def as_field(channels: Tensor) -> Tensor:
    """The inverse of `as_channels`: (M, M) complex64."""
    imaginary = torch.zeros_like(channels[0]) if len(channels) == 1 else channels[1]
    return torch.complex(channels[0].contiguous(), imaginary.contiguous())


def slopes(x: Tensor) -> Tensor:
    """Forward differences (2, c, M, M), zero across the border."""
    out = x.new_zeros(2, *x.shape)
    torch.sub(x[:, 1:], x[:, :-1], out=out[0, :, :-1])
    torch.sub(x[:, :, 1:], x[:, :, :-1], out=out[1, :, :, :-1])
    return out


def divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of `slopes`: (c, M, M)."""
    out = p[0] + p[1]
    out[:, 1:] -= p[0, :, :-1]
    out[:, :, 1:] -= p[1, :, :, :-1]
    return out


def total_variation(x: Tensor) -> Tensor:
    """Isotropic total variation of channels (c, M, M): the sum over pixels of the length of all differences."""
    return slopes(x).square().sum((0, 1)).sqrt().sum()


class Proximal:
    """argmin_x sum D |x - v|^2 / 2 + strength TV(x), within 0..1 if `bounded`.

    Args:
        metric: (M, M) D.
    """

    def __init__(self, metric: Tensor, strength: float, bounded: bool, channels: int):
        self.metric, self.strength, self.bounded = metric, strength, bounded
        self.inverse = strength / metric
        # Each difference shares its two pixels with three others each: row sums of |grad D^-1 div|.
        own = self.inverse
        down, right = own.clone(), own.clone()
        down[:-1] += own[1:]
        right[:, :-1] += own[:, 1:]
        self.step = (4 * torch.maximum(down, right)).clamp_min_(1e-30).reciprocal_()
        self.dual = metric.new_zeros(2, channels, *metric.shape)

    def primal(self, v: Tensor, dual: Tensor, scale: float) -> Tensor:
        x = divergence(dual).mul_(self.inverse / scale).add_(v)
        return x.clamp_(0, 1) if self.bounded else x

    def __call__(self, v: Tensor, origin: Tensor, scale: float = 1.0) -> Tensor:
        """The map of v (c, M, M) in the metric `scale` x D, as exact as the step from `origin` asks for."""
        if self.strength == 0:
            return v.clamp(0, 1) if self.bounded else v
        p, ahead, t = self.dual, self.dual, 1.0
        step = self.step * scale
        before = None
        for number in range(INNER[1]):
            q = slopes(self.primal(v, ahead, scale)).mul_(step).add_(ahead)
            q.div_(q.square().sum((0, 1)).sqrt_().clamp_min_(1.0))
            t_next = 0.5 * (1 + math.sqrt(1 + 4 * t * t))
            ahead = torch.lerp(p, q, 1 + (t - 1) / t_next)
            p, t = q, t_next
            if number % INNER[0] == INNER[0] - 1:
                x = self.primal(v, p, scale)
                if before is not None:
                    rest, whole = (float(((x - y).square() * self.metric).sum()) for y in (before, origin))
                    if rest <= EXACTNESS**2 * whole:
                        break
                before = x
        self.dual = p
        return x


@dataclass(frozen=True)
class Solution:
    """Where a search ended.

    Attributes:
        channels: (c, M, M) the object.
        losses: objective (likelihood and TV) of every step's extrapolated point.
        outside: loss over the good pixels outside the weight, at the last step.
        change: rms step of amplitude over the lit pixels, of the last step.
        converged: whether that was below the tolerance.
        interrupted: whether it was stopped from outside.
    """

    channels: Tensor
    losses: list[float]
    outside: float
    change: float
    converged: bool
    interrupted: bool


def metric_of(light: KnownLight) -> Tensor:
    """(M, M) D of the module's head, with its floor."""
    metric = CURVATURE * light.electrons()
    return metric.clamp_min_(FLOOR * float(metric.max()))


QUIET = 5
"""Steps in a row that must be small: after a restart the first ones always are."""


@dataclass(frozen=True)
class Anchor:
    """What pixels are expected to be before the light is looked at: independent normal, each with its own width.

    Attributes:
        centre: (c, M, M) where they are expected.
        precision: (M, M) twice the inverse variance: terms of an objective that is twice a negative logarithm.
    """

    centre: Tensor
    precision: Tensor

    def slope(self, x: Tensor) -> Tensor:
        """(c, M, M) gradient at x of `value`."""
        return (x - self.centre) * self.precision

    def value(self, x: Tensor) -> float:
        """Half the sum of precision times squared distance."""
        return 0.5 * float(((x - self.centre).square() * self.precision).sum())


Step = Callable[[int, float], bool]
"""Told the number of the step and its loss; true stops."""


@torch.no_grad()
def solve(
    light: KnownLight,
    likelihood: Prepared,
    weight: Tensor,
    start: Tensor,
    strength: float,
    *,
    bounded: bool,
    tolerance: float,
    steps: int,
    anchor: Anchor | None = None,
    told: Step = lambda *_: False,
) -> Solution:
    """Minimise from `start` (c, M, M).

    Args:
        weight: (1 or N, H, W) pixels to fit.
        tolerance: rms step of amplitude over the lit pixels; the search has converged when `QUIET` steps are smaller.
        steps: at most.
        anchor: what the pixels are expected to be, if anything is.
    """
    metric = metric_of(light)
    lit = metric > 1.01 * metric.min()
    if anchor is not None:
        metric = metric + anchor.precision
    count, quiet = float(lit.sum()), 0
    proximal = Proximal(metric, strength, bounded, len(start))
    x = ahead = start
    t, scale, outside, change = 1.0, 1.0, math.inf, math.inf
    losses: list[float] = []
    last: tuple[Tensor, Tensor] | None = None
    for number in range(steps):
        value, outside, gradient = light.loss(as_field(ahead), likelihood, weight)
        slope = as_channels(gradient, bounded)
        if anchor is not None:
            value, slope = value + anchor.value(ahead), slope + anchor.slope(ahead)
        if last is not None:
            # What the likelihood bent by between the last two points, over what the metric takes for granted.
            moved = ahead - last[0]
            bend = float((moved * (slope - last[1])).sum()) / max(float((moved.square() * metric).sum()), 1e-30)
            if bend > scale:
                scale = 1.2 * bend
            else:
                scale = max(1.0, 0.95 * scale)
        last = (ahead, slope)
        losses.append(value + strength * float(total_variation(ahead)))
        new = proximal(ahead - slope / (scale * metric), x, scale)
        moved = new - x
        # An uphill direction ends the momentum.
        if float(((ahead - new) * moved * metric).sum()) > 0:
            t = 1.0
        t_next = 0.5 * (1 + math.sqrt(1 + 4 * t * t))
        ahead = new + (t - 1) / t_next * moved
        x, t = new, t_next
        change = math.sqrt(float(moved.square()[:, lit].sum()) / count)
        quiet = quiet + 1 if change < tolerance else 0
        if told(number + 1, losses[-1]):
            return Solution(x, losses, outside, change, False, True)
        if quiet >= QUIET:
            return Solution(x, losses, outside, change, True, False)
    return Solution(x, losses, outside, change, False, False)
