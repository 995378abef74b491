"""Draws from the posterior around its modes: a Laplace mixture, weights, and chains in which the decoder decides.

A stand-in, the sketch mended where the posterior lies, proposes and walks, because it draws fast; the decoder itself
accepts or refuses what a chain has come to, so that what comes out is its posterior and not the stand-in's. Where
drawing is cheap beside the likelihood, the decoder is its own stand-in. After more data the draws before are weighed
anew and walk on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recon.latent import CHUNK, LatentSettings, Modes
from recon.mended import Mended
from recon.observation import Observation
from recon.scene import Scene

FREEDOM = 6
"""Degrees of freedom of the proposals' Student distributions: heavier tails than the posterior's."""
LEAP, LONGEST = 0.5, 1.57
"""First length of a leap, and the longest way of one move, in standard deviations: a quarter of a period."""
WANTED = 0.75
"""Share of the stand-in's moves that should be accepted."""
LEAST_LEFT = 0.2
"""Effective share of the draws before, below which a search anew is due."""


@dataclass(frozen=True)
class Sample:
    """Draws from the posterior, equally weighted.

    Attributes:
        theta: (n, size).
        images: (n, s, s) drawn by the decoder itself, as it draws them: out of their pose, unlit.
        log_posterior: (n,) unnormalised, as the decoder draws.
        mode: (n,) the mode that each began at.
        step: length of the chains' moves, over the standard deviations of their mode.
        log_evidence: of the data under the stand-in, by importance sampling.
        efficiency: effective share of the proposals: near one where the Laplace mixture is the posterior.
        accepted: share of the decoder's own decisions that accepted: low where the stand-in is poor, one where the
            decoder walks itself.
        moved: share of all moves that were accepted, by the stand-in and then by the decoder.
    """

    theta: Tensor
    images: Tensor
    log_posterior: Tensor
    mode: Tensor
    step: float
    log_evidence: float
    efficiency: float
    accepted: float
    moved: float


def effective(logits: Tensor) -> float:
    """Number of draws that weights exp(logits) (n,) leave."""
    return float(1 / logits.double().softmax(0).square().sum())


def log_posterior(observation: Observation, scene: Scene, theta: Tensor) -> Tensor:
    """(n,) log-likelihood plus log prior, as the scene draws it."""
    return torch.cat([_seen(observation, scene, part)[1] for part in theta.split(CHUNK)])


def _seen(observation: Observation, scene: Scene, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Images (n, s, s) as the scene's drawer draws them, and the log posterior (n,)."""
    images = scene.drawer.images(scene.zeta(theta))
    return images, observation.value(scene.lit(images, theta)) + scene.log_prior(theta)


def sample(
    observation: Observation, scene: Scene, exact: Scene, modes: Modes, settings: LatentSettings, wide: float = 0.0
) -> Sample:
    """Draws from the posterior around its modes.

    Args:
        scene: draws by a sketch of the decoder, or as `exact` does.
        exact: draws by the decoder itself.
        wide: share of the proposals that are draws from the prior: where little is known, a few modes are not all.
    """
    device = modes.theta.device
    generator = torch.Generator().manual_seed(settings.seed + 5)
    size = modes.theta.shape[1]
    share = (modes.log_evidence - modes.log_evidence.max()).softmax(0)
    # No mode is left without draws: its evidence is an approximation.
    share = 0.9 * share + 0.1 / len(share)

    def drawn(count: int) -> tuple[Tensor, Tensor]:
        which = _systematic(share, count, generator)
        normal = torch.randn(count, size, generator=generator).to(device)
        return which, _times(modes.factors[which], normal)

    def far_draws(count: int, stream: int) -> Tensor:
        return scene.sample(count, settings.seed + stream) if count else modes.theta[:0]

    far = round(wide * settings.mended)
    which, offset = drawn(settings.mended - far)
    near = torch.cat((modes.theta[which] + offset, far_draws(far, 6)))
    if scene.drawer is not exact.drawer:
        zeta = exact.zeta(near)
        scene = replace(scene, drawer=Mended.fitted(scene.drawer, zeta, exact.drawer.images(zeta)))
    far = round(wide * settings.proposals)
    count = settings.proposals - far
    which, offset = drawn(count)
    # Chi-square with an even number of degrees of freedom is a sum of exponentials.
    uniform = torch.rand(count, FREEDOM // 2, generator=generator).clamp_min(1e-12)
    stretch = (FREEDOM / (-2 * uniform.log().sum(1))).sqrt().to(device)
    theta = torch.cat((modes.theta[which] + stretch[:, None] * offset, far_draws(far, 7)))
    terms = _student_terms(theta, modes, share)
    # The chains of the prior's draws walk as those of the modes that would have proposed them.
    which = torch.cat((which, terms[:, count:].argmax(0)))
    density = torch.logsumexp(terms, 0) + math.log(count / settings.proposals)
    if far:
        density = torch.logaddexp(density, scene.log_prior(theta) + math.log(far / settings.proposals))
    logits = log_posterior(observation, scene, theta) - density
    log_evidence = float(torch.logsumexp(logits, 0)) - math.log(settings.proposals)
    efficiency = effective(logits) / settings.proposals
    # Truncated weights for the chains' starts: one lucky draw must not be all of them (Ionides 2008).
    clipped = logits.clamp_max(float(torch.logsumexp(logits, 0)) - 0.5 * math.log(settings.proposals))
    start = _systematic(clipped.softmax(0), settings.chains, generator)
    walk = _Walk(observation, scene, exact, modes, which[start], generator)
    return walk.run(theta[start], settings, log_evidence, efficiency)


@dataclass(frozen=True)
class Walked:
    """Where chains are.

    Attributes:
        theta: (n, size).
        target: (n,) log posterior, as the stand-in draws.
        pull: (n, size) its gradient.
        images: (n, s, s) drawn by the decoder itself, out of their pose.
        true: (n,) log posterior, as the decoder draws.
    """

    theta: Tensor
    target: Tensor
    pull: Tensor
    images: Tensor
    true: Tensor

    def where(self, chosen: Tensor, other: Walked) -> Walked:
        """There where `chosen` (n,) says, here elsewhere."""
        return Walked(
            torch.where(chosen[:, None], other.theta, self.theta),
            torch.where(chosen, other.target, self.target),
            torch.where(chosen[:, None], other.pull, self.pull),
            torch.where(chosen.view(-1, *(1,) * (self.images.ndim - 1)), other.images, self.images),
            torch.where(chosen, other.true, self.true),
        )


def follow(
    observation: Observation,
    scene: Scene,
    exact: Scene,
    modes: Modes,
    drawn: Sample,
    gained: Tensor,
    settings: LatentSettings,
) -> Sample | None:
    """Draws from the posterior after more data, from draws before: sequential Monte Carlo (Chopin 2002).

    Args:
        observation: all of the data.
        scene: draws by a sketch of the decoder, or as `exact` does.
        exact: draws by the decoder itself.
        modes: in the order of the draws' modes, with their new covariances.
        drawn: the draws before.
        gained: (n,) log-likelihood of the new data under each of them.
        settings: how many chains, and their seed.

    Returns:
        None where too few of the draws before are still likely to stand for the posterior.
    """
    efficiency = effective(gained) / len(gained)
    if efficiency < LEAST_LEFT:
        return None
    generator = torch.Generator().manual_seed(settings.seed)
    if scene.drawer is not exact.drawer:
        scene = replace(scene, drawer=Mended.fitted(scene.drawer, scene.zeta(drawn.theta), drawn.images))
    again = _systematic(gained.softmax(0), settings.chains, generator)
    theta, mode = drawn.theta[again], drawn.mode[again]
    target, pull = _sloped(observation, scene, theta)
    at = Walked(theta, target, pull, drawn.images[again], (drawn.log_posterior + gained)[again])
    walk = _Walk(observation, scene, exact, modes, mode, generator)
    at, accepted = walk.decide(at, drawn.step, replace(settings, decisions=1))
    evidence = drawn.log_evidence + float(torch.logsumexp(gained, 0)) - math.log(len(gained))
    return Sample(at.theta, at.images, at.true, mode, drawn.step, evidence, efficiency, accepted, walk.share)


@dataclass
class _Walk:
    """Hamiltonian chains with delayed acceptance (Christen & Fox 2005): the stand-in walks, the decoder decides.

    Each chain keeps the covariance of the mode it came from as its mass, so that its moves are reversible; a move of
    some quarter of a period leaves nothing of where it began where the posterior is normal. The length of its leaps is
    settled on the way, for all chains alike, before the moves that count.
    """

    observation: Observation
    scene: Scene
    exact: Scene
    modes: Modes
    mode: Tensor
    generator: torch.Generator
    moved: list[float] = field(default_factory=list)

    def run(self, theta: Tensor, settings: LatentSettings, log_evidence: float, efficiency: float) -> Sample:
        step = LEAP
        target, pull = _sloped(self.observation, self.scene, theta)
        for _ in range(settings.settling):
            theta, target, pull, tried = self.move(theta, target, pull, step, settings.leaps)
            share = float(tried.float().mean())
            step = min(step * math.exp(share - WANTED), LONGEST / settings.leaps)
        images, true = _seen(self.observation, self.exact, theta)
        # From the stand-in's posterior to the decoder's, truncated as before.
        logits = true - target
        clipped = logits.clamp_max(float(torch.logsumexp(logits, 0)) - 0.5 * math.log(len(logits)))
        again = _systematic(clipped.softmax(0), len(theta), self.generator)
        self.mode = self.mode[again]
        walked = Walked(theta[again], target[again], pull[again], images[again], true[again])
        first, accepted = self.decide(walked, step, settings)
        last, again_accepted = self.decide(first, step, settings)
        return Sample(
            torch.cat((first.theta, last.theta)),
            torch.cat((first.images, last.images)),
            torch.cat((first.true, last.true)),
            self.mode.repeat(2),
            step,
            log_evidence,
            efficiency,
            0.5 * (accepted + again_accepted),
            self.share,
        )

    @property
    def share(self) -> float:
        """Of the moves after settling, those that were accepted by the stand-in and by the decoder."""
        return sum(self.moved) / len(self.moved)

    def decide(self, at: Walked, step: float, settings: LatentSettings) -> tuple[Walked, float]:
        """Where the chains go from there, and the share accepted; the decoder's posterior stays what it was."""
        accepted = 0.0
        for _ in range(settings.decisions):
            moved, value, pull, tried = self.move(at.theta, at.target, at.pull, step, settings.leaps)
            if self.scene.drawer is self.exact.drawer:
                # What the stand-in has decided the decoder has.
                images = self.exact.drawer.images(self.exact.zeta(moved))
                at = Walked(moved, value, pull, images, value)
                accepted += 1 / settings.decisions
                self.moved.append(float(tried.float().mean()))
                continue
            images, said = _seen(self.observation, self.exact, moved)
            better = self._uniform(len(moved), moved.device).log() < (said - at.true) - (value - at.target)
            at = at.where(better, Walked(moved, value, pull, images, said))
            # A chain that the stand-in left where it was asks nothing of the decoder.
            accepted += float((better & tried).sum()) / max(1, int(tried.sum())) / settings.decisions
            self.moved.append(float((better & tried).float().mean()))
        return at, accepted

    def _uniform(self, count: int, device: torch.device) -> Tensor:
        return torch.rand(count, generator=self.generator).to(device)

    def move(
        self, theta: Tensor, target: Tensor, pull: Tensor, step: float, leaps: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Leapfrog under the stand-in: theta, target, its gradient, and which of the moves were accepted (n,)."""
        factors = self.modes.factors[self.mode]
        momentum = torch.randn(*theta.shape, generator=self.generator).to(theta.device)
        before = target - 0.5 * momentum.square().sum(1)
        at, value, slope = theta, target, pull
        for _ in range(leaps):
            momentum = momentum + 0.5 * step * _times(factors.transpose(1, 2), slope)
            at = at + step * _times(factors, momentum)
            value, slope = _sloped(self.observation, self.scene, at)
            momentum = momentum + 0.5 * step * _times(factors.transpose(1, 2), slope)
        gain = value - 0.5 * momentum.square().sum(1) - before
        better = self._uniform(len(theta), theta.device).log() < gain
        return (
            torch.where(better[:, None], at, theta),
            torch.where(better, value, target),
            torch.where(better[:, None], slope, pull),
            better,
        )


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """(n, k) products of matrices (n, k, k) and vectors (n, k)."""
    return (matrices @ vectors[:, :, None])[:, :, 0]


def _sloped(observation: Observation, scene: Scene, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Log posterior (n,) and its gradient (n, size), as the scene draws."""
    values, slopes = [], []
    for part in theta.split(CHUNK):
        at = part.detach().requires_grad_()
        images = scene.images(at)
        said, along = observation.slope(images.detach())
        prior = scene.log_prior(at)
        (slope,) = torch.autograd.grad(prior.sum() + (images * along).sum(), at)
        values.append(said + prior.detach())
        slopes.append(slope)
    return torch.cat(values), torch.cat(slopes)


def _systematic(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count,) indices, each as often as its weight says but for less than one."""
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    points = (torch.arange(count, dtype=torch.float64) + offset) / count
    edges = weights.double().cpu().cumsum(0)
    return torch.searchsorted(edges / edges[-1], points).clamp_max(len(weights) - 1).to(weights.device)


def _student_terms(theta: Tensor, modes: Modes, share: Tensor) -> Tensor:
    """(m, n) log densities of the modes' proposals, with their shares."""
    size = theta.shape[1]
    apart = (theta[None] - modes.theta[:, None]).transpose(1, 2)
    whitened = torch.linalg.solve_triangular(modes.factors, apart, upper=False)
    square = whitened.square().sum(1)
    constant = math.lgamma((FREEDOM + size) / 2) - math.lgamma(FREEDOM / 2) - 0.5 * size * math.log(FREEDOM * math.pi)
    scale = modes.factors.diagonal(dim1=1, dim2=2).log().sum(1)
    each = constant - scale[:, None] - 0.5 * (FREEDOM + size) * torch.log1p(square / FREEDOM)
    return each + share.log()[:, None]
