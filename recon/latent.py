"""The latent estimator: from a few photons to a posterior over objects of a class.

1. A bank of images from the prior is scored by likelihood, all at once.
2. The best of them are refined together by damped Gauss-Newton steps on the log posterior, on a part of the data that
   is enough to tell basins apart, and where they end on all of it; no learning rate.
3. Each distinct mode gets its Laplace approximation; together they propose samples, weighted by the posterior.
4. Short Metropolis chains from those samples mend what the approximation missed.

All of this draws with a sketch of the decoder; the decoder itself refines the best modes once more and decides which
moves of the chains are accepted, so that what comes out is its posterior and not the sketch's.

Everything is a function of the frames as a set and of a fixed seed: neither the order of the frames nor that of the
starts changes the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recon.observation import Observation
from recon.scene import Scene

FINAL_STEPS = 12
"""Gauss-Newton steps on all of the data, from where those on a part of it have ended."""
CHUNK = 128
"""Images whose light is computed at a time."""
ALIKE = 0.3
"""Starts whose mean square distance per dimension is below this, in variances of the better one, are one mode."""
PRECISION = 2e-7
"""Relative rounding of a log posterior, which is a sum of many terms in single precision."""
FORLORN = 30.0
"""Nats below the best at which a refined mode has no share in anything."""
LAG = 10.0
"""Nats behind the best at which a start is given up, late in the search; nine times that at its beginning."""


@dataclass(frozen=True)
class LatentSettings:
    """How hard to search and how well to sample.

    Attributes:
        starts: best of the bank that are refined.
        iterations: of Gauss-Newton, at most.
        tolerance: nats that are left to gain, by the quadratic model, when a start has converged.
        modes: distinct modes that are kept.
        exact_modes: best modes that the decoder itself refines at the end.
        mended: draws from the Laplace mixture at which the sketch is mended.
        proposals: draws from it that are weighed.
        chains: those that go on as chains.
        settling: first moves of each chain, which find their length and leave the proposals behind. Two are too few:
            at 300 photons the truth's area of strokes then had a mean rank of 0.56 among the draws, after four 0.50.
        decisions: how often the decoder accepts or refuses what a chain has come to, before its state is kept for the
            result, and again before it is kept a second time.
        leaps: gradients of the stand-in between two decisions.
        seed: of proposals and chains.
    """

    starts: int = 24
    iterations: int = 30
    tolerance: float = 0.05
    modes: int = 8
    exact_modes: int = 4
    mended: int = 192
    proposals: int = 768
    chains: int = 128
    settling: int = 4
    decisions: int = 2
    leaps: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Bank:
    """Draws from the prior, with their images.

    Attributes:
        theta: (n, size).
        images: (n, s, s) float16, lit.
    """

    theta: Tensor
    images: Tensor

    @classmethod
    def draw(cls, scene: Scene, count: int, seed: int = 0) -> Bank:
        """`count` draws; the nominal pose and flux first for the better half of them where they are free."""
        theta = scene.sample(count, seed)
        return cls(theta, torch.cat([scene.images(part).half() for part in theta.split(CHUNK)]))

    def scores(self, observation: Observation, known: Tensor | None = None) -> Tensor:
        """(n,) log-likelihood of each; `known` (n,) is what of it was known before the frames came, if anything."""
        parts = self.images.split(CHUNK)
        if known is None:
            return torch.cat([observation.value(part.float()) for part in parts])
        return known + torch.cat([observation.photons(part.float()) for part in parts])


@dataclass(frozen=True)
class Modes:
    """Maxima of the posterior, the highest first.

    Attributes:
        theta: (m, size).
        log_posterior: (m,) log-likelihood plus log prior.
        factors: (m, size, size) Cholesky factors of the covariance of their Laplace approximations.
        log_evidence: (m,) of each mode, Laplace.
        converged: (m,) whether the last step was below the tolerance.
        iterations: Gauss-Newton steps taken.
    """

    theta: Tensor
    log_posterior: Tensor
    factors: Tensor
    log_evidence: Tensor
    converged: Tensor
    iterations: int

    def select(self, chosen: Tensor) -> Modes:
        """Some of them."""
        return Modes(
            self.theta[chosen],
            self.log_posterior[chosen],
            self.factors[chosen],
            self.log_evidence[chosen],
            self.converged[chosen],
            self.iterations,
        )


def search(
    observation: Observation,
    scene: Scene,
    bank: Bank,
    settings: LatentSettings,
    starts: Sequence[Tensor] = (),
    scores: Tensor | None = None,
) -> Modes:
    """The modes of the posterior; `starts` (n, size) are refined beside the bank's best.

    `scores` (n,) are the bank's log-likelihoods, where they are known; a part of the data is enough for them.
    """
    quick = observation.quick()
    if scores is None:
        scores = bank.scores(quick)
    best = scores.topk(min(settings.starts, len(scores))).indices
    rough = refine(quick, scene, torch.cat((*starts, bank.theta[best])), settings)
    return refine(observation, scene, rough.theta, replace(settings, iterations=FINAL_STEPS))


def refine(observation: Observation, scene: Scene, theta: Tensor, settings: LatentSettings) -> Modes:
    """Climbs from all starts (n, size) at once, giving up hopeless and duplicate ones; the modes they end in."""
    climbed = _climb(observation, scene, theta, settings, thinning=True)
    chosen = _distinct(climbed, settings.modes)
    return climbed.modes(chosen)


def settle(observation: Observation, scene: Scene, modes: Modes, settings: LatentSettings) -> Modes:
    """The same modes, each where it is after more data has come, in the same order."""
    climbed = _climb(observation, scene, modes.theta, settings, thinning=False)
    return climbed.modes(list(range(len(modes.theta))))


@dataclass(frozen=True)
class _Climbed:
    """Where starts have come to; see `Modes`."""

    theta: Tensor
    value: Tensor
    precision: Tensor
    converged: Tensor
    taken: int

    def modes(self, chosen: list[int]) -> Modes:
        """Laplace approximations of some of them."""
        index = torch.tensor(chosen, device=self.theta.device)
        # In double: much light makes some directions ten million times as certain as others.
        upper = torch.linalg.cholesky(self.precision[index].double())
        covariance = torch.cholesky_inverse(upper)
        size = self.theta.shape[1]
        spread = 0.5 * size * math.log(2 * math.pi) - upper.diagonal(dim1=1, dim2=2).log().sum(1).to(self.value)
        value = self.value[index]
        return Modes(
            self.theta[index],
            value,
            torch.linalg.cholesky(covariance).to(self.theta),
            value + spread,
            self.converged[index],
            self.taken,
        )


def _climb(
    observation: Observation, scene: Scene, theta: Tensor, settings: LatentSettings, *, thinning: bool
) -> _Climbed:
    """Damped Gauss-Newton (Levenberg-Marquardt) of starts (n, size); `thinning` gives up those that lag behind."""

    def looked(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        images, jacobian = scene.drawn(at)
        seen = observation.terms(images, jacobian)
        value, gradient, precision = scene.prior_terms(at)
        return seen.value + value, seen.gradient + gradient, seen.information + precision

    theta = theta.clone()
    value, gradient, precision = looked(theta)
    damping = torch.full_like(value, 0.1)
    converged = torch.zeros_like(value, dtype=torch.bool)
    dropped = torch.zeros_like(converged)
    taken = 0
    for taken in range(1, settings.iterations + 1):
        going = (~(converged | dropped)).nonzero()[:, 0]
        diagonal = precision[going].diagonal(dim1=1, dim2=2)
        factor = torch.linalg.cholesky(precision[going] + torch.diag_embed(damping[going, None] * diagonal))
        step = torch.cholesky_solve(gradient[going, :, None], factor)[:, :, 0]
        tried = theta[going] + step
        new_value, new_gradient, new_precision = looked(tried)
        # Single precision holds a log posterior of a million nats to a tenth.
        grain = PRECISION * value[going].abs()
        better = new_value >= value[going] - grain
        # What the quadratic model promises: nothing left to gain is what convergence means.
        promised = 0.5 * (step * gradient[going]).sum(1)
        converged[going] = promised < settings.tolerance + grain
        damping[going] = torch.where(better, damping[going] * 0.2, damping[going] * 5).clamp(1e-6, 1e6)
        kept = going[better]
        theta[kept], value[kept] = tried[better], new_value[better]
        gradient[kept], precision[kept] = new_gradient[better], new_precision[better]
        if thinning and taken >= 3:
            dropped |= _hopeless(theta, value, precision, converged | dropped, taken)
        if bool((converged | dropped).all()):
            break
    left = ~dropped
    return _Climbed(theta[left], value[left], precision[left], converged[left], taken)


def _hopeless(theta: Tensor, value: Tensor, precision: Tensor, settled: Tensor, taken: int) -> Tensor:
    """(n,) which starts lag too far behind the best, or run to where a better one is already."""
    lag = value < value.max() - LAG * (1 + 8 / taken)
    order = value.argsort(descending=True)
    whitened = torch.linalg.cholesky(precision).transpose(1, 2)
    apart = (whitened[:, None] @ (theta[None] - theta[:, None])[..., None])[..., 0].square().sum(2)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    ahead = rank[:, None] < rank[None, :]
    same = ((apart < ALIKE * theta.shape[1]) & ahead).any(0)
    return (lag | same) & ~settled


def _distinct(climbed: _Climbed, most: int) -> list[int]:
    """Indices of the highest that lie apart, the highest first."""
    theta, value, precision = climbed.theta, climbed.value, climbed.precision
    chosen: list[int] = []
    for k in value.argsort(descending=True).tolist():
        if len(chosen) == most or value[k] < value.max() - FORLORN:
            break
        near = False
        for other in chosen:
            apart = theta[k] - theta[other]
            near |= float(apart @ precision[other] @ apart) < ALIKE * theta.shape[1]
        if not near:
            chosen.append(k)
    return chosen
