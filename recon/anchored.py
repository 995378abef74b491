"""The sketch made exact at chosen latents: what a search ends with, so that the decoder itself has the last word."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.decoders.sketch import Drawer


@dataclass(frozen=True)
class Anchored:
    """The sketch plus, near each anchor, what it misses there, to first order in the distance.

    Attributes:
        sketch: quick, about right everywhere.
        anchors: (m, d) latents.
        precision: (m, d, d) by which distance to an anchor is measured.
        missing: (m, s^2) the decoder's image less the sketch's.
        slope: (m, s^2, d) its Jacobian less the sketch's.
    """

    sketch: Drawer
    anchors: Tensor
    precision: Tensor
    missing: Tensor
    slope: Tensor

    @classmethod
    def at(cls, sketch: Drawer, exact: Drawer, anchors: Tensor, precision: Tensor) -> Anchored:
        """Exact at `anchors` (m, d)."""
        near, near_slope = sketch.drawn(anchors)
        true, true_slope = exact.drawn(anchors)
        return cls(sketch, anchors, precision, (true - near).flatten(1), true_slope - near_slope)

    def _offsets(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """(n,) nearest anchor and (n, d) from it to each latent."""
        apart = zeta[:, None] - self.anchors
        distance = torch.einsum("nmi,mij,nmj->nm", apart, self.precision, apart)
        nearest = distance.argmin(1)
        return nearest, apart[torch.arange(len(zeta), device=zeta.device), nearest]

    def images(self, zeta: Tensor) -> Tensor:
        """(n, s, s) images of whitened latents (n, d)."""
        nearest, offset = self._offsets(zeta)
        images = self.sketch.images(zeta)
        mended = self.missing[nearest]
        for k in range(len(self.anchors)):
            chosen = nearest == k
            mended[chosen] += offset[chosen] @ self.slope[k].T
        return images + mended.view_as(images)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) and their Jacobians (n, s^2, d)."""
        nearest, _ = self._offsets(zeta)
        _, jacobian = self.sketch.drawn(zeta)
        return self.images(zeta), jacobian + self.slope[nearest]
