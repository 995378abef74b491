"""A mixture of Gaussians over whitened latents: what a class of objects looks like before any light has come.

The latents of real images do not fill a Gaussian. For MNIST a mixture of eight components a digit is 12.6 nats nearer
to unseen digits than the Gaussian of the same covariance: as much as a handful of photons tell. Its components carry
the label of their class, so that a posterior over latents is one over classes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SHARED = 6.0
"""Images that the covariance of all latents counts for in each component's, so that small components stay regular."""
ITERATIONS = 40
"""Of expectation maximisation, at most."""
TOLERANCE = 1e-3
"""Gain of the mean log-likelihood, in nats an image, below which it stops."""
LEAST_IMAGES = 60
"""Images per component that a class must have; fewer components are taken otherwise."""
CHUNK = 4096
"""Latents that are compared with all components at a time."""


@dataclass(frozen=True)
class Mixture:
    """Weighted normal distributions of whitened latents zeta.

    Attributes:
        weights: (k,) sum one.
        means: (k, d).
        factors: (k, d, d) lower triangular Cholesky factors of the covariances.
        labels: (k,) int64 class of each component; all zero where the source had none.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor
    labels: Tensor

    @classmethod
    def normal(cls, size: int) -> Mixture:
        """The unit normal distribution in `size` dimensions: the prior of a decoder that has no mixture."""
        return cls(torch.ones(1), torch.zeros(1, size), torch.eye(size)[None], torch.zeros(1, dtype=torch.int64))

    @property
    def size(self) -> int:
        """Dimensions d."""
        return self.means.shape[1]

    @property
    def classes(self) -> list[int]:
        """Labels that occur, ascending."""
        return sorted(set(self.labels.tolist()))

    def to(self, device: torch.device | str) -> Mixture:
        """A copy on `device`."""
        return Mixture(*(t.to(device) for t in (self.weights, self.means, self.factors, self.labels)))

    @cached_property
    def inverses(self) -> Tensor:
        """(k, d, d) lower triangular inverses of the factors, made once: a product is quicker than a solve."""
        unit = torch.eye(self.size, dtype=torch.float64, device=self.factors.device)
        return torch.linalg.solve_triangular(self.factors.double(), unit, upper=False).to(self.factors.dtype)

    @cached_property
    def precisions(self) -> Tensor:
        """(k, d, d) inverse covariances."""
        return self.inverses.mT @ self.inverses

    @cached_property
    def _origins(self) -> Tensor:
        """(k, d) the components' means, in their own units."""
        return (self.inverses @ self.means[:, :, None])[:, :, 0]

    @cached_property
    def _constants(self) -> Tensor:
        """(k,) log of weight times density of each component at its mean."""
        spread = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        return self.weights.log() - spread - 0.5 * self.size * math.log(2 * math.pi)

    def whitened(self, zeta: Tensor) -> Tensor:
        """(n, k, d) L^-1 (zeta - mean) of latents (n, d)."""
        stacked = self.inverses.flatten(0, 1)
        return torch.addmm(-self._origins.flatten(), zeta, stacked.T).view(len(zeta), -1, self.size)

    def joint(self, zeta: Tensor) -> Tensor:
        """(n, k) log of weight times density of each component at latents (n, d)."""
        return self._constants - 0.5 * self.whitened(zeta).square().sum(2)

    def log_density(self, zeta: Tensor) -> Tensor:
        """(n,) log density at latents (n, d)."""
        return torch.logsumexp(self.joint(zeta), 1)

    def terms(self, zeta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log density (n,), its gradient (n, d), and the components' mean precision (n, d, d), positive definite."""
        whitened = self.whitened(zeta)
        joint = self._constants - 0.5 * whitened.square().sum(2)
        total = torch.logsumexp(joint, 1)
        share = _shares(joint - total[:, None])
        gradient = -(share[:, :, None] * whitened).flatten(1) @ self.inverses.flatten(0, 1)
        return total, gradient, (share @ self.precisions.flatten(1)).view(-1, self.size, self.size)

    def classified(self, zeta: Tensor) -> Tensor:
        """(n, c) probabilities of the `classes` for latents (n, d)."""
        joint = self.joint(zeta)
        each = [torch.logsumexp(joint[:, self.labels == label], 1) for label in self.classes]
        return torch.stack(each, 1).softmax(1)

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, d) draws, the same for the same seed on every device."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights.cpu(), count, True, generator=generator)
        normal = torch.randn(count, self.size, generator=generator).to(self.factors.dtype)
        draws, factors = self.means.cpu()[which], self.factors.cpu()
        for k in which.unique().tolist():  # a factor for each draw would take d^2 numbers for each
            rows = which == k
            draws[rows] += normal[rows] @ factors[k].T
        return draws.to(self.means.device)

    def of_class(self, label: int) -> Mixture:
        """The components of one class, weights renormalised; raises `ValueError` when there are none."""
        chosen = self.labels == label
        if not bool(chosen.any()):
            raise ValueError(f"class {label} is not in this prior; it has {', '.join(map(str, self.classes))}")
        weights = self.weights[chosen]
        return Mixture(weights / weights.sum(), self.means[chosen], self.factors[chosen], self.labels[chosen])


def _shares(logarithms: Tensor) -> Tensor:
    """Exponentials; nothing instead of numbers so small that processors multiply them a hundred times slower."""
    return torch.where(logarithms > -60, logarithms.exp(), 0)


def fit_mixture(
    latents: Tensor,
    labels: Tensor,
    components: int,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> Mixture:
    """A mixture of up to `components` normals for each class of whitened latents (n, d), by expectation maximisation.

    Each covariance is drawn towards that of its whole class as if `SHARED` of its images had it. It works where the
    latents are: products in their precision, covariances and their factors in double precision.

    Args:
        labels: (n,) int64 classes.
        report: told (classes done, classes) after each.
    """
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    labels = labels.to(latents.device)
    names = labels.unique().tolist()
    for done, label in enumerate(names):
        members = latents[labels == label]
        count = max(1, min(components, len(members) // LEAST_IMAGES))
        part = maximised(members, count, seed)
        named = torch.full((count,), label, device=latents.device)
        parts.append((part.weights * (len(members) / len(latents)), part.means, part.factors, named))
        report(done + 1, len(names))
    weights, means, factors, marks = (torch.cat(column) for column in zip(*parts, strict=True))
    return Mixture(weights, means, factors, marks)


def maximised(members: Tensor, count: int, seed: int, iterations: int = ITERATIONS) -> Mixture:
    """`count` normals for latents (n, d) of one class, from `seed`'s choice of them as first means.

    Scatters are summed in each component's own units, where nothing cancels, and carried back with its factor.
    """
    size, device, dtype = members.shape[1], members.device, members.dtype
    generator = torch.Generator().manual_seed(seed)
    centred = members - members.mean(0)
    # A class of one image, or of images all alike along an axis, has no spread of its own.
    common = (centred.T @ centred).double() / len(members) + 1e-6 * torch.eye(size, device=device).double()
    first = torch.randperm(len(members), generator=generator)[:count]
    means = members[first.to(device)].double()
    factors = torch.linalg.cholesky(common).repeat(count, 1, 1)
    weights = torch.full((count,), 1 / count, device=device).double()
    labels = torch.zeros(count, dtype=torch.int64, device=device)
    mixture = Mixture(weights.to(dtype), means.to(dtype), factors.to(dtype), labels)
    reached = -math.inf
    for _ in range(iterations if count > 1 else 1):
        held, drift, scatter, likelihood = _expected(mixture, members)
        some = held.clamp_min(1e-9)
        drift, scatter = drift / some[:, None], scatter / some[:, None, None]
        means = means + (factors @ drift[:, :, None])[:, :, 0]
        own = factors @ (scatter - drift[:, :, None] * drift[:, None]) @ factors.mT
        factors = torch.linalg.cholesky((held[:, None, None] * own + SHARED * common) / (held + SHARED)[:, None, None])
        weights = (held / held.sum()).clamp_min(1e-9)
        mixture = Mixture((weights / weights.sum()).to(dtype), means.to(dtype), factors.to(dtype), labels)
        if likelihood - reached < TOLERANCE:
            break
        reached = likelihood
    return mixture


def _expected(mixture: Mixture, members: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
    """Sums over the latents (n, d) of their shares in each component, and the mean log density.

    Shares (k,), shares times whitened latents (k, d), and times their outer products (k, d, d).
    """
    count, size = mixture.means.shape
    held = torch.zeros(count, dtype=torch.float64, device=members.device)
    drift = torch.zeros(count, size, dtype=torch.float64, device=members.device)
    scatter = torch.zeros(count, size, size, dtype=torch.float64, device=members.device)
    likelihood = torch.zeros((), dtype=torch.float64, device=members.device)
    for part in members.split(CHUNK):
        whitened = mixture.whitened(part).transpose(0, 1).contiguous()
        joint = mixture._constants[:, None] - 0.5 * whitened.square().sum(2)
        total = torch.logsumexp(joint, 0)
        share = _shares(joint - total)
        shared = share[:, :, None] * whitened
        held += share.sum(1)
        drift += shared.sum(1)
        scatter += shared.mT @ whitened
        likelihood += total.sum()
    return held, drift, scatter, float(likelihood) / len(members)
