"""The exact likelihood of electrons behind Gaussian read noise, at every brightness: X = Poisson(I) + Normal(0, s^2).

p(X | I) = e^-I sum_n I^n/n! N(X; n, s^2). The terms are log-concave in n with a curvature of at least 1/s^2, so that
all that count lie within a few s of the largest: a window of 2 ceil(REACH s) + 1 terms about it gives the sum to single
precision from the first photon to full well, with no seam between a series and an expansion. Terms are relative to the
largest, so nothing overflows; the largest itself is Loader's saddle-point form of a Poisson probability (2000), which
does not cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recon.information import fisher_table

REACH = 5.5
"""Standard deviations of read noise on either side of the largest term that the sum takes in."""
PIECE = 2**15
"""Pixels that a CPU takes at a time."""
LEAST_E = 1e-9
"""Electrons: expectations below count as this, so that logarithms and scores at I = 0 stay finite."""


class ExactMixed:
    """The exact Poisson-Gaussian likelihood, for sensors that resolve photons.

    `value` is complete, -ln p(X | I) of a density per electron. Called, it is the loss of `recon.noise`: *twice* the
    value, up to a constant of X, summed; that form takes few electrons only and raises ValueError beyond
    `most_electrons`.

    Args:
        most_electrons: terms that the summed form may take.
        read_noise_e: (least, most) read noise of any pixel, electrons rms. Given, no call waits for the device; None
            reads it off `variance` at each call, pixels that do not count included.
    """

    name = "exact"

    def __init__(self, most_electrons: int = 24, read_noise_e: tuple[float, float] | None = None):
        self.most_electrons = most_electrons
        self.read_noise_e = read_noise_e

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

    def evaluate(self, expected: Tensor, measured: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`value`, `score` and `curvature` at the price of one."""
        most = self._range(variance)[1]
        return _window(expected, measured, variance, math.ceil(REACH * most))

    def value(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """-ln p(X | I), complete; carries gradients to `expected`."""
        return _Value.apply(expected, measured, variance, math.ceil(REACH * self._range(variance)[1]))

    def score(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """d(-ln p)/dI = 1 - E[n | X, I]/I."""
        return self.evaluate(expected, measured, variance)[1]

    def curvature(self, expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
        """d2(-ln p)/dI2 = (E[n | X, I] - Var[n | X, I])/I^2, never negative: -ln p is convex in I."""
        return self.evaluate(expected, measured, variance)[2]

    def fisher(self, expected: Tensor, variance: Tensor) -> Tensor:
        """E[score^2], from a table made once by quadrature (`recon.information`)."""
        return fisher_table(*self._range(variance)).look_up(expected, variance)

    def series(self, measured: Tensor, variance: Tensor, terms: int) -> Tensor:
        """ln r_n, (terms, ...) for n = 1 .. terms, of p(X | I)/p(X | 0) = e^-I (1 + r_1 I + r_2 I^2 + ...).

        r_n = exp((2 n X - n^2)/(2 s^2))/n!. Enough terms: `series_terms`.
        """
        half = 0.5 / variance
        return torch.stack([(2 * measured - n).mul(n * half) - math.lgamma(n + 1) for n in range(1, terms + 1)])

    def _range(self, variance: Tensor) -> tuple[float, float]:
        if self.read_noise_e is not None:
            return self.read_noise_e
        low, high = torch.aminmax(variance)
        return math.sqrt(float(low)), math.sqrt(float(high))


def series_terms(brightest_e: float, measured_e: float, read_noise_e: float) -> int:
    """Terms of `series` that hold its error below 1e-6 for expectations up to `brightest_e` and such readings.

    The largest term lies below both max(X, I) and where the Poisson and the read noise meet; the rest fall off as a
    Gaussian of width `read_noise_e` and faster than a Poisson tail.
    """
    by_reading = max(measured_e, 0.0) + REACH * read_noise_e + read_noise_e**2 * max(math.log(max(brightest_e, 1.0)), 0)
    return max(2, math.ceil(by_reading) + 1)


def mode(expected: Tensor, measured: Tensor, variance: Tensor) -> Tensor:
    """The whole number of electrons n that maximises I^n/n! N(X; n, s^2), as a floating tensor.

    n + s^2 ln n = X + s^2 ln I, solved in y = ln n by Newton's rule from above, where it converges monotonically, and
    two steps to the better neighbour.
    """
    log_light = expected.log()
    c = measured + variance * log_light
    y = torch.minimum(c / variance, c.clamp_min(1.0).log())
    for _ in range(5):
        n = y.exp()
        y = y - (n + variance * y - c) / (n + variance)
    m = y.exp().round()
    for _ in range(2):
        up = log_light - (m + 1).log() + (measured - m - 0.5) / variance > 0
        down = (m > 0) & (m.clamp_min(1.0).log() - log_light - (measured - m + 0.5) / variance > 0)
        m = m + up.to(m.dtype) - down.to(m.dtype)
    return m


def poisson_log(n: Tensor, expected: Tensor) -> Tensor:
    """-ln Poisson(n; I) of whole n >= 0 in a form that does not cancel: Loader's deviance and Stirling's remainder."""
    u = (n - expected) / expected
    near = u.abs() < 0.05
    small = torch.where(near, u, 0.0)
    # (1 + u) ln(1 + u) - u; its series, as far as single precision goes, where the difference would cancel.
    power = small * small * (0.5 + small * (-1 / 6 + small * (1 / 12 + small * (-1 / 20 + small / 30))))
    # n = 0 is I; a quotient near one has lost the digits that log1p of the difference still has.
    log = torch.where(u > -0.5, torch.log1p(u.clamp_min(-0.5)), (n.clamp_min(1.0) / expected).log())
    far = n * log - (n - expected)
    deviance = torch.where(near, expected * power, far)
    clamped = n.clamp_min(1.0)
    unit = clamped.reciprocal()
    square = unit * unit
    stirling = unit * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680))))
    # Stirling's series is good to 1e-4 at n = 1: the exact remainder there, 1 - ln sqrt(2 pi).
    stirling = torch.where(n < 1.5, 1 - 0.5 * math.log(2 * math.pi), stirling)
    full = 0.5 * (2 * math.pi * clamped).log() + stirling
    return deviance + torch.where(n < 0.5, 0.0, full)


@torch.no_grad()
def in_pieces(
    of: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]], *arguments: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Three tensors of an elementwise function of three that broadcast; on a CPU in pieces that stay in its cache.

    They carry no gradients: slopes are among them.
    """
    together = torch.broadcast_tensors(*arguments)
    like = together[0]
    if like.device.type != "cpu" or like.numel() <= PIECE:
        return of(*together)
    out = [torch.empty(like.shape, dtype=torch.result_type(arguments[0], arguments[1])) for _ in range(3)]
    places = [part.view(-1).split(PIECE) for part in out]
    rows = [part.reshape(-1).split(PIECE) for part in together]
    for number, piece in enumerate(zip(*rows, strict=True)):
        for place, found in zip(places, of(*piece), strict=True):
            place[number].copy_(found)
    return out[0], out[1], out[2]


def _window(expected: Tensor, measured: Tensor, variance: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """-ln p with its first and second derivatives in I."""
    return in_pieces(lambda i, x, v: _window_piece(i, x, v, reach), expected, measured, variance)


def _window_piece(expected: Tensor, x: Tensor, v: Tensor, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    light = expected.clamp_min(LEAST_E)
    m = mode(light, x, v)
    per = v.reciprocal()
    # Terms relative to the largest: t_k+1/t_k = I/(m + k + 1) exp((X - m - k - 1/2)/s^2).
    narrow = (-per).exp()
    zeroth = torch.ones_like(light)
    first = torch.zeros_like(light)
    second = torch.zeros_like(light)
    rise = light * ((x - m - 0.5) * per).clamp(-80.0, 80.0).exp()
    term = torch.ones_like(light)
    for k in range(1, reach + 1):
        term = (term * rise).div_(m + k)
        zeroth += term
        first.add_(term, alpha=k)
        second.add_(term, alpha=k * (k - 1))
        rise.mul_(narrow)
    fall = (-(x - m + 0.5) * per).clamp(-80.0, 80.0).exp() / light
    term = torch.ones_like(light)
    for k in range(1, reach + 1):
        # m - k + 1 is zero at the last electron, and the terms end there.
        term = (term * fall).mul_((m - (k - 1)).clamp_min_(0.0))
        zeroth += term
        first.sub_(term, alpha=k)
        second.add_(term, alpha=k * (k + 1))
        fall.mul_(narrow)
    mean = first / zeroth
    residual = x - m
    value = poisson_log(m, light) + 0.5 * (residual * residual * per + (2 * math.pi * v).log()) - zeroth.log()
    score = ((light - m) - mean) / light
    # E[n] - Var[n] = m - E[k(k - 1)] + E[k]^2 with n = m + k
    return value, score, ((m - second / zeroth + mean * mean) / light / light).clamp_min_(0.0)


class _Value(torch.autograd.Function):
    """-ln p that carries gradients to the expectation."""

    @staticmethod
    def forward(ctx: Any, expected: Tensor, measured: Tensor, variance: Tensor, reach: int) -> Tensor:
        value, score, _ = _window(expected, measured, variance, reach)
        ctx.save_for_backward(score)
        ctx.shape = expected.shape
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (score,) = ctx.saved_tensors
        return (grad * score).sum_to_size(ctx.shape), None, None, None


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
