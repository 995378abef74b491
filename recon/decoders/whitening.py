"""Whitened latents: along the axes that the training images use, in their standard deviations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.decoders.package import DecoderPackage

FREE = 1e-3
"""Axes whose variance exceeds this share of the largest are searched: the effective rank; others stay at the mean."""


@dataclass(frozen=True)
class Whitening:
    """Between a decoder's latents h and whitened ones: h = mean + axes zeta.

    Attributes:
        mean: (l,).
        axes: (l, d) principal axes times their standard deviations, the free ones only.
    """

    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, package: DecoderPackage, threshold: float = FREE) -> Whitening:
        """The free axes of a package, on its device."""
        values = package.latent_eigenvalues
        free = values > threshold * values[0]
        return cls(package.latent_mean, package.latent_eigenvectors[:, free] * values[free].sqrt())

    @property
    def size(self) -> int:
        """Number of free axes d."""
        return self.axes.shape[1]

    def to(self, device: torch.device | str) -> Whitening:
        """A copy on `device`."""
        return Whitening(self.mean.to(device), self.axes.to(device))

    def latents(self, zeta: Tensor) -> Tensor:
        """(n, l) of (n, d)."""
        return self.mean + zeta @ self.axes.T

    def whitened(self, latents: Tensor) -> Tensor:
        """(n, d) of (n, l); what lies along the other axes is dropped."""
        return (latents - self.mean) @ (self.axes / self.axes.square().sum(0))
