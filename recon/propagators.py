"""From exit waves to the camera and back: the propagators of a calibration, each with its adjoint written by hand.

All of them answer one small protocol, `Optics`: fields of a batch of exit waves, and the adjoint that carries the
gradient of a real loss back to the exit waves, to their sub-pixel shifts and to the distance. Gradients are those of
real and imaginary part, dL/dRe + i dL/dIm, the convention of torch.

Transforms are pruned: rows without light are not transformed, and frequencies that the band limit removes, or rows
that the camera does not see, are neither transformed nor multiplied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.dataset import DatasetError, Geometry
from recon.optics import band_limit, longitudinal_wavenumber


@dataclass(frozen=True)
class Trace:
    """What the adjoint needs of a forward pass, and uses up: spectra behind the transfer functions, and these."""

    spectrum: Tensor
    transfer: Tensor
    across: Tensor


class Optics(Protocol):
    """Light from the object's plane to the camera's.

    Attributes:
        window: side K of the exit waves.
        object_pixel_m: pitch of probe and object.
        device: where its tensors are.
    """

    @property
    def window(self) -> int: ...

    @property
    def object_pixel_m(self) -> float: ...

    @property
    def device(self) -> torch.device: ...

    def describe(self) -> str:
        """What it is, for reports: which propagation on which window."""
        ...

    def forward(self, waves: Tensor, shift_px: Tensor, offset_m: Tensor) -> tuple[Tensor, Trace | None]:
        """Fields (B, H, W) of exit waves (B, K, K) that sit `shift_px` (B, 2) beside the axis, at distance + offset."""
        ...

    def adjoint(self, gradient: Tensor, trace: Trace | None) -> tuple[Tensor, Tensor | None]:
        """From dL/dfield (B, H, W) to dL/dwaves (B, K, K) and (B, 3) dL/d(offset_m, shift y, shift x), or None."""
        ...


def fast_length(least: int) -> int:
    """Smallest even number from `least` on without prime factors above 5: what FFTs like."""
    length = least + least % 2
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2


def needed_window(frame: int, source: int, pixel_m: float, wavelength_m: float, distance_m: float) -> int:
    """Pixels of the transformed window that keep the periodic images of the light off the camera, one axis.

    A source of `source` pixels sends light to at most source/2 + reach from the axis, where reach is what the grid's
    highest frequency travels, lambda z/(2 dx^2) pixels, or as far as a band-limited wave is followed, frame/2 +
    source/2. The next period begins one window further on and must not touch the frame: window >= frame/2 + source/2 +
    reach. For the band limit of that window (Matsushima & Shimobaba 2009) nothing that lands on the camera is cut.
    """
    reach = wavelength_m * distance_m / (2 * pixel_m**2)
    return max(frame, math.ceil(frame / 2 + source / 2 + min(reach, frame / 2 + source / 2)))


def _band(count: int, pixel_m: float, wavelength_m: float, distance_m: float) -> NDArray[np.int64]:
    """FFT bins of an axis inside the band limit, those of positive frequency first; all when nothing is cut."""
    frequency = np.fft.fftfreq(count, pixel_m)
    return np.flatnonzero(np.abs(frequency) <= band_limit(count * pixel_m, wavelength_m, distance_m))


@dataclass(frozen=True)
class NearField:
    """Band-limited angular spectrum on a window of any size not below the frame's.

    Attributes:
        geometry: camera pitch, frame shape, distance about which offsets count.
        window: side K of the exit waves.
        shape: of the frame.
        grid: (rows, columns) of the transformed window; larger than the frame when padded.
        band: (rows, columns) frequencies that are inside the band limit.
        transfer: (bands_x, bands_y) complex, transposed, H at the geometry's distance.
        kappa: (bands_x, bands_y) real, rad/m.
        moments: (bands_x bands_y, 3) real: kappa, 2 pi v, 2 pi u, by which one product gives three gradients.
        v, u: (bands,) cycles per pixel.
    """

    geometry: Geometry
    window: int
    grid: tuple[int, int]
    band: tuple[int, int]
    transfer: Tensor
    kappa: Tensor
    moments: Tensor
    v: Tensor
    u: Tensor

    @classmethod
    def build(
        cls,
        geometry: Geometry,
        window: int,
        *,
        padded: bool,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.complex64,
    ) -> NearField:
        """The propagator of a geometry; `padded` takes `needed_window`, else the frame itself is the window.

        Raises:
            DatasetError: the exit wave is larger than the frame.
        """
        if window > min(geometry.shape):
            raise DatasetError(f"probe window {window} px exceeds the frame {geometry.shape}")
        wavelength, distance, pixel = geometry.wavelength_m, geometry.distance_m, geometry.pixel_size_m
        rows, columns = geometry.shape
        if padded:
            rows, columns = (fast_length(needed_window(n, window, pixel, wavelength, distance)) for n in geometry.shape)
        kappa, v, u = longitudinal_wavenumber((rows, columns), pixel, wavelength)
        in_v, in_u = (_band(n, pixel, wavelength, distance) for n in (rows, columns))
        kappa, v, u = kappa[np.ix_(in_v, in_u)].T.copy(), v[in_v] * pixel, u[in_u] * pixel
        moments = np.stack(np.broadcast_arrays(kappa, 2 * np.pi * v[None, :], 2 * np.pi * u[:, None]), -1)
        real = torch.float64 if dtype == torch.complex128 else torch.float32

        def put(values: NDArray, kind: torch.dtype) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device=device, dtype=kind)

        return cls(
            geometry,
            window,
            (rows, columns),
            (len(in_v), len(in_u)),
            put(np.exp(1j * distance * kappa), dtype),
            put(kappa, real),
            put(moments.reshape(-1, 3), real),
            put(v, real),
            put(u, real),
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.geometry.shape

    @property
    def object_pixel_m(self) -> float:
        return self.geometry.pixel_size_m

    @property
    def device(self) -> torch.device:
        return self.kappa.device

    def describe(self) -> str:
        rows, columns = self.shape
        kind = "unpadded" if self.grid == self.shape else f"padded to {self.grid[0]} x {self.grid[1]}"
        inside = f"{self.band[0]} x {self.band[1]} frequencies in band"
        return f"angular spectrum, {rows} x {columns} {kind}, {inside}"

    def forward(self, waves: Tensor, shift_px: Tensor, offset_m: Tensor) -> tuple[Tensor, Trace]:
        rows, columns = self.shape
        # One exponential a frequency and one a row and column and frame; the shift back is part of the transfer.
        transfer = self.transfer * unit(self.kappa * offset_m)
        down = 2 * math.pi * (shift_px[:, :1] - (rows // 2 - self.window // 2)) * self.v
        across = unit(2 * math.pi * (shift_px[:, 1:] - (columns // 2 - self.window // 2)) * self.u)[:, None, :]
        # The columns' ramp is applied where only K rows are left, the rows' together with the transfer function.
        transfer = transfer * unit(down)[:, None, :]
        wide = _spectrum(waves, self.grid[1], self.band[1]).mul_(across)
        spectrum = _spectrum(wide.transpose(1, 2), self.grid[0], self.band[0]).mul_(transfer)
        tall = _field(spectrum, self.grid[0], rows)
        return _field(tall.transpose(1, 2), self.grid[1], columns), Trace(spectrum, transfer, across)

    def adjoint(self, gradient: Tensor, trace: Trace | None) -> tuple[Tensor, Tensor]:
        assert trace is not None
        tall = _spectrum(gradient, self.grid[1], self.band[1], "forward")
        spectrum = _spectrum(tall.transpose(1, 2), self.grid[0], self.band[0], "forward")
        # d(phase)/d(offset) = kappa, d(phase)/d(shift) = 2 pi f, and dL/d(phase) = -Im(conj(G) spectrum).
        moments = crossed(spectrum, trace.spectrum).flatten(1) @ self.moments
        # In place: torch would copy a tensor that is only marked as conjugate.
        spectrum.mul_(trace.transfer.conj_physical_())
        wide = _field(spectrum, self.grid[0], self.window, "forward").transpose(1, 2)
        return _field(wide * trace.across.conj_physical_(), self.grid[1], self.window, "forward"), moments


def unit(phase: Tensor) -> Tensor:
    """exp(i phase); sine and cosine are vectorised, `torch.polar` is not."""
    return torch.complex(phase.cos(), phase.sin())


def crossed(gradient: Tensor, spectrum: Tensor) -> Tensor:
    """-Im(conj(gradient) spectrum), real: what a loss changes by when the spectrum's phase grows."""
    g, s = torch.view_as_real(gradient), torch.view_as_real(spectrum)
    return torch.mul(g[..., 1], s[..., 0]).addcmul_(g[..., 0], s[..., 1], value=-1.0)


def _spectrum(values: Tensor, length: int, band: int, norm: str = "backward") -> Tensor:
    """Transform of the last axis, zero-padded to `length`; only the `band` bins about zero frequency."""
    whole = torch.fft.fft(values, n=length, dim=-1, norm=norm)
    if band == length:
        return whole
    positive = band // 2 + 1
    return torch.cat((whole[..., :positive], whole[..., length - (band - positive) :]), -1)


def _field(spectrum: Tensor, length: int, keep: int, norm: str = "backward") -> Tensor:
    """Inverse of `_spectrum`: zeros outside the band, the first `keep` samples."""
    band = spectrum.shape[-1]
    if band != length:
        positive = band // 2 + 1
        whole = spectrum.new_zeros(*spectrum.shape[:-1], length)
        whole[..., :positive] = spectrum[..., :positive]
        whole[..., length - (band - positive) :] = spectrum[..., positive:]
        spectrum = whole
    return torch.fft.ifft(spectrum, dim=-1, norm=norm)[..., :keep]


@dataclass(frozen=True)
class FarField:
    """Fraunhofer diffraction: one transform of the exit wave, zero frequency in the frame's middle.

    The object's pitch is wavelength x distance/(K x camera pitch), K = window = side of the frame. A shift of the exit
    wave is a phase that no camera sees, and the distance sets the pitch only, so neither has a gradient here.
    """

    geometry: Geometry
    window: int
    place: torch.device

    @classmethod
    def build(cls, geometry: Geometry, device: torch.device | str = "cpu") -> FarField:
        """Raises `DatasetError` for frames that are not square."""
        if geometry.shape[0] != geometry.shape[1]:
            raise DatasetError(f"far field: frames of {geometry.shape} are not square; crop them")
        return cls(replace(geometry, far_field=True), geometry.shape[0], torch.device(device))

    @property
    def shape(self) -> tuple[int, int]:
        return self.geometry.shape

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def object_pixel_m(self) -> float:
        return self.geometry.object_pixel_m

    def describe(self) -> str:
        return f"far field, one transform of {self.window} x {self.window}"

    def forward(self, waves: Tensor, shift_px: Tensor, offset_m: Tensor) -> tuple[Tensor, None]:
        # The exit wave's own origin does not matter; a shift of half the frequencies is a roll of the result.
        return torch.fft.fftshift(torch.fft.fft2(waves, norm="ortho"), dim=(-2, -1)), None

    def adjoint(self, gradient: Tensor, trace: Trace | None) -> tuple[Tensor, None]:
        return torch.fft.ifft2(torch.fft.ifftshift(gradient, dim=(-2, -1)), norm="ortho"), None
