"""What the object may be: free complex pixels, or the image of a decoder resized onto the object's grid.

Each is a module whose call returns the (M, M) complex transmission on the object's grid, index M//2 at the origin.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recon.decoders.package import DecoderPackage


def mitchell(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Mitchell-Netravali cubic with B = C = 1/3 (Comput. Graph. 22, 221, 1988)."""
    x = np.abs(x)
    inner = (7 * x**3 - 12 * x**2 + 16 / 3) / 6
    outer = (-7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3) / 6
    return np.where(x < 1, inner, np.where(x < 2, outer, 0.0))


def resize_matrix(size: int, pixel_m: float, field_m: float, samples: int, centre_m: float = 0.0) -> Tensor:
    """The matrix R (size, samples) that draws a decoder's image onto the object's grid along one axis: O = R x R^T.

    The image covers `field_m` around `centre_m`, its pixels having half-pixel centres; rows are renormalised at the
    border and zero outside the field. The filter overshoots to -0.04 .. 1.07 at edges, which stays.
    """
    coordinate = (np.arange(size) - size // 2) * pixel_m - centre_m
    position = (coordinate + field_m / 2) / field_m * samples - 0.5
    weights = mitchell((position[:, None] - np.arange(samples)[None, :]).astype(np.float64))
    inside = (position >= -0.5) & (position < samples - 0.5)
    total = weights.sum(1, keepdims=True)
    rows = np.where(inside[:, None], weights / np.where(total == 0, 1, total), 0.0)
    return torch.from_numpy(rows.astype(np.float32))


class PixelObject(nn.Module):
    """Free complex pixels, the conventional basis.

    Args:
        start: (M, M) complex64 to begin with.
    """

    def __init__(self, start: Tensor):
        super().__init__()
        # Complex numbers as pairs of reals: Adam then scales real and imaginary part alike on every backend.
        self.pixels = nn.Parameter(torch.view_as_real(start.to(torch.complex64)).clone())

    def forward(self) -> Tensor:
        return torch.view_as_complex(self.pixels)


class DecoderObject(nn.Module):
    """The amplitude that a decoder draws for one latent vector, real and non-negative up to the filter's overshoot.

    Args:
        package: the decoder with its latent statistics.
        size: side M of the object's grid.
        pixel_m: its pitch.
        field_m: side of the square that the decoder's image covers, centred on the origin.
        start: (d,) latent to begin with; None takes the mean of the training latents (Eq. 2 of the paper).
    """

    def __init__(self, package: DecoderPackage, size: int, pixel_m: float, field_m: float, start: Tensor | None = None):
        super().__init__()
        self.package = package
        self.latent = nn.Parameter((package.latent_mean if start is None else start).clone())
        device = package.latent_mean.device
        self.resize = resize_matrix(size, pixel_m, field_m, package.architecture.image_size).to(device)

    def image(self) -> Tensor:
        """The decoder's own (s, s) image in 0..1."""
        return self.package.decode(self.latent[None])[0]

    def amplitude(self) -> Tensor:
        """(M, M) float32 on the object's grid."""
        return self.resize @ self.image() @ self.resize.T

    def forward(self) -> Tensor:
        return self.amplitude().to(torch.complex64)
