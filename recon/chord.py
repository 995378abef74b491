"""The decoder's images with nearly its Jacobians, for a search's last steps: the decoder itself has the last word.

A decoder's Jacobian costs as much as an image of each of its axes. Where a search moves little it need not be computed
anew at every step: what the sketch's Jacobian misses changes slowly (the chord method).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.decoders.sketch import Drawer


@dataclass(frozen=True)
class Chord:
    """The decoder's images, and Jacobians of the sketch mended so that they are the decoder's at the anchors.

    Attributes:
        sketch: quick, about right everywhere.
        exact: the decoder.
        anchors: (m, d) latents.
        precision: (m, d, d) by which distance to an anchor is measured.
        slope: (m, s^2, d) the decoder's Jacobian at each, less the sketch's.
    """

    sketch: Drawer
    exact: Drawer
    anchors: Tensor
    precision: Tensor
    slope: Tensor

    @classmethod
    def at(cls, sketch: Drawer, exact: Drawer, anchors: Tensor, precision: Tensor) -> Chord:
        """Exact at `anchors` (m, d)."""
        _, near = sketch.drawn(anchors)
        _, true = exact.drawn(anchors)
        return cls(sketch, exact, anchors, precision, true - near)

    def images(self, zeta: Tensor) -> Tensor:
        """(n, s, s) images of whitened latents (n, d)."""
        return self.exact.images(zeta)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, s, s) and, nearly, their Jacobians (n, s^2, d)."""
        apart = zeta[:, None] - self.anchors
        distance = torch.einsum("nmi,mij,nmj->nm", apart, self.precision, apart)
        _, jacobian = self.sketch.drawn(zeta)
        return self.exact.images(zeta), jacobian + self.slope[distance.argmin(1)]
