"""From a complex object's image to the camera, in real numbers: real and imaginary part are two channels.

The field at the camera is linear in the object, and what `recon.events` and `recon.bins` add up is the square of real
linear forms of a real image. A complex image t is the real one (Re t, Im t), and

    K t = K Re t + (i K) Im t,

so that every pixel of the image has two columns, K and i K, where a real one has one; likelihoods, their gradients and
their information stay what they are. Outside the decoder's square the object is opaque, as a photomask is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recon.operator import CameraOperator


@dataclass(frozen=True)
class ComplexOperator(CameraOperator):
    """The linear map from images (S, 2, s, s), real and imaginary part, to the fields of all frames."""

    @property
    def channels(self) -> int:
        """Two."""
        return 2

    def local(self, images: Tensor) -> Tensor:
        """(N, S, 2, L_y, L_x) the parts of images (S, 2, s, s) that each frame sees."""
        return super().local(images.flatten(0, 1)).unflatten(1, (-1, 2))

    def whole(self, parts: Tensor) -> Tensor:
        """(S, 2, s, s) sums of parts (N, S, 2, L_y, L_x) where they belong: the transpose of `local`."""
        return super().whole(parts.flatten(1, 2)).unflatten(0, (-1, 2))

    def exit_waves(self, images: Tensor) -> Tensor:
        """(N, S, n, n) complex exit waves of images (S, 2, s, s)."""
        drawn = torch.einsum("nyi,nscij,nxj->nscyx", self.rows, self.local(images), self.columns)
        lit = (self.probe * self.seconds.sqrt()[:, None, None])[:, None]
        return torch.complex(drawn[:, :, 0].contiguous(), drawn[:, :, 1].contiguous()) * lit

    def gram(self) -> Tensor:
        """(N, 2 L, 2 L): x^T G x is the light that leaves the object, x as `local`."""
        one = super().gram()
        nothing = torch.zeros_like(one)
        return torch.cat((torch.cat((one, nothing), 2), torch.cat((nothing, one), 2)), 1)

    def at_pixels(self, frame: int, row: Tensor, column: Tensor) -> Tensor:
        """(m, 2 L) complex64: the field of one frame at camera pixels, per number of `local` images."""
        return _twice(super().at_pixels(frame, row, column))

    def on_grid(self, frame: int, rows: Tensor, columns: Tensor) -> Tensor:
        """(m_y m_x, 2 L) complex64, as `at_pixels`, on the product of some rows and columns."""
        return _twice(super().on_grid(frame, rows, columns))


def _twice(field: Tensor) -> Tensor:
    """(m, 2 L): K, then i K, of K (m, L)."""
    return torch.cat((field, 1j * field), 1)
