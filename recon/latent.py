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
FREEDOM = 6
"""Degrees of freedom of the proposals' Student distributions: heavier tails than the posterior's."""
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
        proposals: draws from the Laplace mixture.
        chains: samples that go on as Metropolis chains, and that the result is made of.
        settling: first moves of each chain, which find their length.
        decisions: how often the decoder accepts or refuses what a chain has come to.
        moves: of the stand-in between two decisions.
        seed: of proposals and chains.
    """

    starts: int = 24
    iterations: int = 30
    tolerance: float = 0.05
    modes: int = 8
    exact_modes: int = 4
    proposals: int = 768
    chains: int = 128
    settling: int = 4
    decisions: int = 4
    moves: int = 2
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

    def scores(self, observation: Observation) -> Tensor:
        """(n,) log-likelihood of each."""
        return torch.cat([observation.value(part.float()) for part in self.images.split(CHUNK)])


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


def search(
    observation: Observation, scene: Scene, bank: Bank, settings: LatentSettings, starts: Sequence[Tensor] = ()
) -> Modes:
    """The modes of the posterior; `starts` (n, size) are refined beside the bank's best."""
    quick = observation.quick()
    scores = bank.scores(quick)
    best = scores.topk(min(settings.starts, len(scores))).indices
    rough = refine(quick, scene, torch.cat((*starts, bank.theta[best])), settings)
    return refine(observation, scene, rough.theta, replace(settings, iterations=FINAL_STEPS))


def refine(observation: Observation, scene: Scene, theta: Tensor, settings: LatentSettings) -> Modes:
    """Damped Gauss-Newton (Levenberg-Marquardt) of all starts (n, size) at once, and the modes they end in."""

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
        if taken >= 3:
            dropped |= _hopeless(theta, value, precision, converged | dropped, taken)
        if bool((converged | dropped).all()):
            break
    left = ~dropped
    return _distinct(theta[left], value[left], precision[left], converged[left], taken, settings.modes)


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


def _distinct(theta: Tensor, value: Tensor, precision: Tensor, converged: Tensor, taken: int, most: int) -> Modes:
    order = value.argsort(descending=True)
    chosen: list[int] = []
    for k in order.tolist():
        if len(chosen) == most or value[k] < value.max() - FORLORN:
            break
        near = False
        for other in chosen:
            apart = theta[k] - theta[other]
            near |= float(apart @ precision[other] @ apart) < ALIKE * theta.shape[1]
        if not near:
            chosen.append(k)
    index = torch.tensor(chosen, device=theta.device)
    upper = torch.linalg.cholesky(precision[index])
    covariance = torch.cholesky_inverse(upper)
    size = theta.shape[1]
    evidence = value[index] + 0.5 * size * math.log(2 * math.pi) - upper.diagonal(dim1=1, dim2=2).log().sum(1)
    return Modes(theta[index], value[index], torch.linalg.cholesky(covariance), evidence, converged[index], taken)


@dataclass(frozen=True)
class Sample:
    """Draws from the posterior, equally weighted.

    Attributes:
        theta: (n, size).
        log_posterior: (n,) unnormalised, drawn by the decoder itself.
        mode: (n,) the mode that each began at.
        log_evidence: of the data under the stand-in, by importance sampling.
        efficiency: effective share of the proposals: near one where the Laplace mixture is the posterior.
        accepted: share of the decoder's own decisions that accepted; low where the stand-in is poor.
    """

    theta: Tensor
    log_posterior: Tensor
    mode: Tensor
    log_evidence: float
    efficiency: float
    accepted: float


def log_posterior(observation: Observation, scene: Scene, theta: Tensor) -> Tensor:
    """(n,) log-likelihood plus log prior, as the scene draws it."""
    parts = [observation.value(scene.images(part)) + scene.log_prior(part) for part in theta.split(CHUNK)]
    return torch.cat(parts)


def sample(observation: Observation, scene: Scene, exact: Scene, modes: Modes, settings: LatentSettings) -> Sample:
    """Draws from the posterior around its modes.

    Args:
        scene: draws by a stand-in that is quick and about right near the modes.
        exact: draws by the decoder itself.
    """
    device = modes.theta.device
    generator = torch.Generator().manual_seed(settings.seed + 5)
    size = modes.theta.shape[1]
    share = (modes.log_evidence - modes.log_evidence.max()).softmax(0)
    # No mode is left without draws: its evidence is an approximation.
    share = 0.9 * share + 0.1 / len(share)
    which = _systematic(share, settings.proposals, generator)
    normal = torch.randn(settings.proposals, size, generator=generator).to(device)
    # Chi-square with an even number of degrees of freedom is a sum of exponentials.
    uniform = torch.rand(settings.proposals, int(FREEDOM) // 2, generator=generator).clamp_min(1e-12)
    stretch = (FREEDOM / (-2 * uniform.log().sum(1))).sqrt().to(device)
    theta = modes.theta[which] + stretch[:, None] * (modes.factors[which] @ normal[:, :, None])[:, :, 0]
    target = log_posterior(observation, scene, theta)
    logits = target - _student_mixture(theta, modes, share)
    log_evidence = float(torch.logsumexp(logits, 0)) - math.log(settings.proposals)
    efficiency = float(1 / logits.softmax(0).square().sum()) / settings.proposals
    # Truncated weights for the chains' starts: one lucky draw must not be all of them (Ionides 2008).
    clipped = logits.clamp_max(float(torch.logsumexp(logits, 0)) - 0.5 * math.log(settings.proposals))
    start = _systematic(clipped.softmax(0), settings.chains, generator)
    walk = _Walk(observation, scene, exact, modes, which[start], generator)
    return walk.run(theta[start], target[start], settings, log_evidence, efficiency)


@dataclass
class _Walk:
    """Metropolis chains with delayed acceptance (Christen & Fox 2005): the stand-in walks, the decoder decides.

    Each chain keeps the covariance of the mode it came from, so that its moves are reversible; the length of a step
    is settled on the way, for all chains alike, before the moves that count.
    """

    observation: Observation
    scene: Scene
    exact: Scene
    modes: Modes
    mode: Tensor
    generator: torch.Generator

    def run(
        self, theta: Tensor, target: Tensor, settings: LatentSettings, log_evidence: float, efficiency: float
    ) -> Sample:
        step = 2.38 / math.sqrt(theta.shape[1])
        for _ in range(settings.settling):
            theta, target, share = self._move(theta, target, step)
            step *= math.exp(share - 0.3)
        true = log_posterior(self.observation, self.exact, theta)
        # From the stand-in's posterior to the decoder's, truncated as before.
        logits = true - target
        clipped = logits.clamp_max(float(torch.logsumexp(logits, 0)) - 0.5 * math.log(len(logits)))
        again = _systematic(clipped.softmax(0), len(theta), self.generator)
        theta, target, true, self.mode = theta[again], target[again], true[again], self.mode[again]
        theta, true, accepted = self.decide(theta, target, true, step, settings)
        return Sample(theta, true, self.mode, log_evidence, efficiency, accepted)

    def decide(
        self, theta: Tensor, target: Tensor, true: Tensor, step: float, settings: LatentSettings
    ) -> tuple[Tensor, Tensor, float]:
        """Chains, their decoder's log posterior and the share accepted; the decoder's posterior stays what it was.

        `target` and `true` (n,) are the log posteriors of `theta` (n, size), the stand-in's and the decoder's.
        """
        accepted = 0.0
        for _ in range(settings.decisions):
            moved, value = theta, target
            for _ in range(settings.moves):
                moved, value, _ = self._move(moved, value, step)
            said = log_posterior(self.observation, self.exact, moved)
            better = self._uniform(len(theta), theta.device).log() < (said - true) - (value - target)
            theta = torch.where(better[:, None], moved, theta)
            target, true = torch.where(better, value, target), torch.where(better, said, true)
            accepted += float(better.float().mean()) / settings.decisions
        return theta, true, accepted

    def _uniform(self, count: int, device: torch.device) -> Tensor:
        return torch.rand(count, generator=self.generator).to(device)

    def _move(self, theta: Tensor, target: Tensor, step: float) -> tuple[Tensor, Tensor, float]:
        normal = torch.randn(*theta.shape, generator=self.generator).to(theta.device)
        proposal = theta + step * (self.modes.factors[self.mode] @ normal[:, :, None])[:, :, 0]
        value = log_posterior(self.observation, self.scene, proposal)
        better = self._uniform(len(theta), theta.device).log() < value - target
        return (
            torch.where(better[:, None], proposal, theta),
            torch.where(better, value, target),
            float(better.float().mean()),
        )


def _systematic(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) indices, each as often as its weight says but for less than one."""
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    points = (torch.arange(count, dtype=torch.float64) + offset) / count
    edges = weights.double().cpu().cumsum(0)
    return torch.searchsorted(edges / edges[-1], points).clamp_max(len(weights) - 1).to(weights.device)


def _student_mixture(theta: Tensor, modes: Modes, share: Tensor) -> Tensor:
    """(n,) log density of the proposals."""
    size = theta.shape[1]
    apart = (theta[None] - modes.theta[:, None]).transpose(1, 2)
    whitened = torch.linalg.solve_triangular(modes.factors, apart, upper=False)
    square = whitened.square().sum(1)
    constant = math.lgamma((FREEDOM + size) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * size * math.log(FREEDOM * math.pi)
    scale = modes.factors.diagonal(dim1=1, dim2=2).log().sum(1)
    each = constant - scale[:, None] - 0.5 * (FREEDOM + size) * torch.log1p(square / FREEDOM)
    return torch.logsumexp(each + share.log()[:, None], 0)
