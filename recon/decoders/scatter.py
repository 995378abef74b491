"""How unevenly a decoder misses images of its class: some are drawn far better than the misfit says, others worse.

Whether an image is a success is measured against the nearest that its decoder could come to it without noise. Neither
that nor what is missed where the latents end is the misfit itself, which is a mean over images; both vary from image to
image by a factor of two or so, together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.decoders.direct import DirectDrawer
from recon.decoders.misfit import Misfit

STEPS = 12
"""Of Levenberg-Marquardt from the encoder's latents; twice as many come less than 0.1 dB nearer."""
AT_ONCE = 50
RIDGE = 1e-4
"""Added to the diagonal that damping multiplies: an axis that moves nothing stays where it is."""


@dataclass(frozen=True)
class Scatter:
    """Mean squares of unseen images' amplitudes less drawn ones, over what the misfit says; an entry an image.

    Attributes:
        drawn: (n,) where the decoder draws the latents that the encoder has for the image.
        nearest: (n,) where it draws what is nearest to the image.
    """

    drawn: Tensor
    nearest: Tensor

    @classmethod
    def even(cls) -> Scatter:
        """Every image is missed by just the misfit: of a decoder of which no more is known."""
        return cls(torch.ones(1), torch.ones(1))

    @classmethod
    def measured(cls, direct: DirectDrawer, misfit: Misfit, images: Tensor, zeta: Tensor) -> Scatter:
        """Of images (n, s, s), or (n, 2, s, s) with phases, with whitened latents (n, d), where the decoder is."""
        drawn = _amplitudes(direct.images(zeta))
        near = _amplitudes(nearest(direct, images, zeta))
        expected = misfit.of(drawn).mean((1, 2))

        def over(by: Tensor) -> Tensor:
            return (_amplitudes(images) - by).square().mean((1, 2)) / expected

        return cls(over(drawn), over(near))

    def to(self, device: torch.device | str) -> Scatter:
        """A copy on `device`."""
        return Scatter(self.drawn.to(device), self.nearest.to(device))


@torch.no_grad()
def nearest(direct: DirectDrawer, images: Tensor, zeta: Tensor) -> Tensor:
    """What the decoder draws nearest to images (n, s, s) or (n, 2, s, s) in mean square, from latents `zeta` (n, d).

    Differences of phase count by the square of the amplitude, in radians: as they would in the transmission.
    """
    found = []
    for part, start in zip(images.split(AT_ONCE), zeta.split(AT_ONCE), strict=True):
        found.append(_descended(direct, part, start))
    return torch.cat(found)


def _descended(direct: DirectDrawer, images: Tensor, zeta: Tensor) -> Tensor:
    weight = _weights(direct, images)

    def looked(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        drawn, jacobian = direct.drawn(at)
        return drawn, jacobian * weight[:, :, None], (images - drawn).flatten(1) * weight

    drawn, jacobian, left = looked(zeta)
    damping = torch.full_like(left[:, 0], 1e-2)
    for _ in range(STEPS):
        gram = jacobian.transpose(1, 2) @ jacobian
        gram = gram + damping[:, None, None] * torch.diag_embed(gram.diagonal(dim1=1, dim2=2) + RIDGE)
        pull = jacobian.transpose(1, 2) @ left[:, :, None]
        tried = zeta + torch.linalg.solve(gram, pull)[:, :, 0]
        new_drawn, new_jacobian, new_left = looked(tried)
        better = new_left.square().sum(1) < left.square().sum(1)
        damping = torch.where(better, damping * 0.3, damping * 4)
        zeta = torch.where(better[:, None], tried, zeta)
        left = torch.where(better[:, None], new_left, left)
        jacobian = torch.where(better[:, None, None], new_jacobian, jacobian)
        drawn = torch.where(better.view(-1, *[1] * (drawn.ndim - 1)), new_drawn, drawn)
    return drawn


def _weights(direct: DirectDrawer, images: Tensor) -> Tensor:
    """(n, pixels), or (n, 2 pixels) with phases: square roots of what a pixel's square counts."""
    if images.ndim == 3:
        return torch.ones_like(images).flatten(1)
    return torch.stack((torch.ones_like(images[:, 0]), images[:, 0] * direct.package.phase_rad), 1).flatten(1)


def _amplitudes(images: Tensor) -> Tensor:
    return images if images.ndim == 3 else images[:, 0]
