"""Free-space propagation between object and camera: the band-limited angular spectrum.

Matsushima & Shimobaba, "Band-limited angular spectrum method", Opt. Express 17, 19662 (2009). Fields live on square
pixels of one pitch; index n//2 of each axis is the optical axis; frequencies are those of `fftfreq`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def band_limit(window_m: float, wavelength_m: float, distance_m: float) -> float:
    """Largest spatial frequency (1/m) that a window of this width carries over the distance without aliasing.

    u_lim = 1/(wavelength sqrt((2 du z)^2 + 1)) with du = 1/window, Eq. 13 of Matsushima & Shimobaba.
    """
    return 1.0 / (wavelength_m * np.sqrt((2.0 * distance_m / window_m) ** 2 + 1.0))


def critical_distance(samples: int, pixel_m: float, wavelength_m: float) -> float:
    """Distance (m) beyond which an unpadded window needs the band limit: N dx^2 / wavelength."""
    return samples * pixel_m**2 / wavelength_m


def longitudinal_wavenumber(
    shape: tuple[int, int], pixel_m: float, wavelength_m: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """kappa(v, u) = 2 pi (sqrt(1/lambda^2 - u^2 - v^2) - 1/lambda) in rad/m, and the frequencies v, u.

    The carrier 2 pi/lambda is dropped: it is a global phase of 7e5 rad that single precision cannot hold.
    Evanescent waves get the value at the cut-off; no camera pitch in use reaches them.
    """
    v = np.fft.fftfreq(shape[0], pixel_m)
    u = np.fft.fftfreq(shape[1], pixel_m)
    transverse = v[:, None] ** 2 + u[None, :] ** 2
    carrier = 1.0 / wavelength_m
    # The difference of two nearly equal roots, rewritten so that nothing cancels.
    root = np.sqrt(np.maximum(carrier**2 - transverse, 0.0))
    kappa: NDArray[np.float64] = -2.0 * np.pi * transverse / (root + carrier)
    return kappa, v.astype(np.float64), u.astype(np.float64)


@dataclass(frozen=True)
class Propagator:
    """Band-limited angular spectrum over about `distance_m`, differentiable in the distance.

    Attributes:
        shape: (rows, columns) of the transformed window.
        pixel_m: pitch.
        wavelength_m: vacuum wavelength.
        distance_m: distance about which offsets are counted; the band limit is that of this distance.
        transfer: (rows, columns) complex64, H at `distance_m`, zero beyond the band limit; built in float64.
        kappa: (rows, columns) float32, longitudinal wave number without the carrier, rad/m.
        v, u: frequencies in cycles per pixel, float32.
    """

    shape: tuple[int, int]
    pixel_m: float
    wavelength_m: float
    distance_m: float
    transfer: Tensor
    kappa: Tensor
    v: Tensor
    u: Tensor

    @classmethod
    def build(
        cls,
        shape: tuple[int, int],
        pixel_m: float,
        wavelength_m: float,
        distance_m: float,
        device: torch.device | str = "cpu",
        *,
        limited: bool = True,
    ) -> Propagator:
        """A propagator for fields of `shape`; `limited=False` leaves the band limit out (for comparison only)."""
        kappa, v, u = longitudinal_wavenumber(shape, pixel_m, wavelength_m)
        transfer = np.exp(1j * distance_m * kappa)
        if limited:
            limits = [band_limit(n * pixel_m, wavelength_m, distance_m) for n in shape]
            transfer = transfer * ((np.abs(v) <= limits[0])[:, None] & (np.abs(u) <= limits[1])[None, :])
        return cls(
            shape,
            pixel_m,
            wavelength_m,
            distance_m,
            torch.from_numpy(transfer.astype(np.complex64)).to(device),
            torch.from_numpy(kappa.astype(np.float32)).to(device),
            torch.from_numpy((v * pixel_m).astype(np.float32)).to(device),
            torch.from_numpy((u * pixel_m).astype(np.float32)).to(device),
        )

    def transfer_at(self, offset_m: Tensor | None) -> Tensor:
        """H at `distance_m + offset_m`; the offset is a real scalar tensor and carries gradients."""
        if offset_m is None:
            return self.transfer
        phase = self.kappa * offset_m.to(self.kappa.dtype)
        return self.transfer * torch.polar(torch.ones_like(phase), phase)

    def __call__(self, field: Tensor, offset_m: Tensor | None = None) -> Tensor:
        """The field (..., rows, columns) after propagation, same pitch and shape."""
        return torch.fft.ifft2(torch.fft.fft2(field) * self.transfer_at(offset_m))
