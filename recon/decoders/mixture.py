"""A mixture of Gaussians over whitened latents: what a class of objects looks like before any light has come.

The latents of real images do not fill a Gaussian. For MNIST a mixture of eight components a digit is 12.6 nats nearer
to unseen digits than the Gaussian of the same covariance: as much as a handful of photons tell. Its components carry
the label of their class, so that a posterior over latents is one over classes too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SHARED = 6.0
"""Images that the covariance of all latents counts for in each component's, so that small components stay regular."""
ITERATIONS = 40
LEAST_IMAGES = 60
"""Images per component that a class must have; fewer components are taken otherwise."""


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

    def whitened(self, zeta: Tensor) -> Tensor:
        """(n, k, d) L^-1 (zeta - mean) of latents (n, d)."""
        difference = (zeta[None] - self.means[:, None]).transpose(1, 2)
        return torch.linalg.solve_triangular(self.factors, difference, upper=False).permute(2, 0, 1)

    def joint(self, zeta: Tensor) -> Tensor:
        """(n, k) log of weight times density of each component at latents (n, d)."""
        spread = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constant = self.weights.log() - spread - 0.5 * self.size * math.log(2 * math.pi)
        return constant - 0.5 * self.whitened(zeta).square().sum(2)

    def log_density(self, zeta: Tensor) -> Tensor:
        """(n,) log density at latents (n, d)."""
        return torch.logsumexp(self.joint(zeta), 1)

    def terms(self, zeta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log density (n,), its gradient (n, d), and the components' mean precision (n, d, d), positive definite."""
        precision = self.precisions
        joint = self.joint(zeta)
        total = torch.logsumexp(joint, 1)
        share = (joint - total[:, None]).exp()
        pull = torch.einsum("kij,nkj->nki", precision, zeta[:, None] - self.means)
        return total, -(share[:, None] @ pull)[:, 0], torch.einsum("nk,kij->nij", share, precision)

    @property
    def precisions(self) -> Tensor:
        """(k, d, d) inverse covariances."""
        return torch.cholesky_inverse(self.factors)

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, d) draws, the same for the same seed on every device."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights.cpu(), count, True, generator=generator)
        normal = torch.randn(count, self.size, generator=generator)
        means, factors = self.means.cpu()[which], self.factors.cpu()[which]
        return (means + (factors @ normal[:, :, None])[:, :, 0]).to(self.means.device)

    def of_class(self, label: int) -> Mixture:
        """The components of one class, weights renormalised; raises `ValueError` when there are none."""
        chosen = self.labels == label
        if not bool(chosen.any()):
            raise ValueError(f"class {label} is not in this prior; it has {', '.join(map(str, self.classes))}")
        weights = self.weights[chosen]
        return Mixture(weights / weights.sum(), self.means[chosen], self.factors[chosen], self.labels[chosen])


def fit_mixture(latents: Tensor, labels: Tensor, components: int, seed: int = 0) -> Mixture:
    """A mixture of up to `components` normals for each class of whitened latents (n, d), by expectation maximisation.

    Each covariance is drawn towards that of its whole class as if `SHARED` of its images had it. Computed in double
    precision on the CPU: the result is the same everywhere.
    """
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    latents, labels = latents.double().cpu(), labels.cpu()
    for label in sorted(set(labels.tolist())):
        members = latents[labels == label]
        count = max(1, min(components, len(members) // LEAST_IMAGES))
        weights, means, covariances = _maximised(members, count, seed)
        share = weights * len(members) / len(latents)
        parts.append((share, means, torch.linalg.cholesky(covariances), torch.full((count,), label)))
    weights, means, factors, names = (torch.cat(column) for column in zip(*parts, strict=True))
    return Mixture(weights.float(), means.float(), factors.float(), names)


def _maximised(members: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    size = members.shape[1]
    generator = torch.Generator().manual_seed(seed)
    centred = members - members.mean(0)
    common = centred.T @ centred / len(members) + 1e-6 * torch.eye(size, dtype=members.dtype)
    means = members[torch.randperm(len(members), generator=generator)[:count]].clone()
    covariances = common.repeat(count, 1, 1)
    weights = torch.full((count,), 1 / count, dtype=members.dtype)
    for _ in range(ITERATIONS if count > 1 else 1):
        mixture = Mixture(weights, means, torch.linalg.cholesky(covariances), torch.zeros(count, dtype=torch.int64))
        share = torch.cat([mixture.joint(part).softmax(1) for part in members.split(4096)])
        held = share.sum(0)
        means = share.T @ members / held[:, None].clamp_min(1e-9)
        for k in range(count):
            difference = members - means[k]
            covariances[k] = ((difference * share[:, k, None]).T @ difference + SHARED * common) / (held[k] + SHARED)
        weights = (held / held.sum()).clamp_min(1e-9)
    return weights / weights.sum(), means, covariances
