"""The sketch mended where a posterior lies: what it misses there, as a linear function of the latents.

A sketch is about right everywhere. Over the few standard deviations of one posterior what it misses changes slowly, and
a regression on some draws, which the decoder itself has drawn, halves the error of the log-likelihood that is left, and
more of the chains' moves are accepted. (Made exact at the mode instead, to first order, it is worse a deviation away
than the sketch alone.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.decoders.sketch import Drawer

RIDGE = 0.1
"""Of the regression, in units of a latent's mean square."""


@dataclass(frozen=True)
class Mended:
    """The sketch plus a linear function of the latents.

    Attributes:
        sketch: quick, about right.
        centre: (d,) mean of the latents it was mended at.
        scale: (d,) their standard deviations.
        missing: (1 + d, s^2) the decoder's image less the sketch's: at the centre, and per deviation of each latent.
    """

    sketch: Drawer
    centre: Tensor
    scale: Tensor
    missing: Tensor

    @classmethod
    def fitted(cls, sketch: Drawer, zeta: Tensor, images: Tensor) -> Mended:
        """By ridge regression on the decoder's images (n, s, s) of latents (n, d); more than a few of them."""
        centre, scale = zeta.mean(0), zeta.std(0).clamp_min(1e-6)
        rest = (images - sketch.images(zeta)).flatten(1)
        features = torch.cat((torch.ones_like(zeta[:, :1]), (zeta - centre) / scale), 1)
        normal = features.T @ features / len(zeta) + RIDGE * torch.eye(features.shape[1], device=zeta.device)
        normal[0, 0] -= RIDGE
        return cls(sketch, centre, scale, torch.linalg.solve(normal, features.T @ rest / len(zeta)))

    def images(self, zeta: Tensor) -> Tensor:
        """(n, s, s) images of whitened latents (n, d); differentiable."""
        sketched = self.sketch.images(zeta)
        away = (zeta - self.centre) / self.scale
        return sketched + torch.addmm(self.missing[0], away, self.missing[1:]).view_as(sketched)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) and their Jacobians (n, s^2, d)."""
        _, jacobian = self.sketch.drawn(zeta)
        return self.images(zeta), jacobian + (self.missing[1:] / self.scale[:, None]).T
