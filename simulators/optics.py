"""The simulated light: the illumination, and how the exit wave reaches the camera's pixels.

The band-limited angular spectrum of Matsushima & Shimobaba, Opt. Express 17, 19662 (2009), in numpy and scipy only and
on grids that no reconstruction uses: a padded window, pixels finer than the camera's, continuous positions.
Fields are dimensionless amplitudes whose squared modulus is the fraction of the illumination's photons in a fine pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.special import erfc

EDGE_SIGMAS = 2.5631031310892007
"""Width between 10 and 90 % of an error function, in its standard deviations."""


def band_limit(window_m: float, wavelength_m: float, distance_m: float) -> float:
    """Largest spatial frequency, 1/m, that a transformed window of this width carries over the distance.

    1/(wavelength sqrt((2 du z)^2 + 1)) with du = 1/window: Matsushima & Shimobaba, Eq. 13.
    """
    return 1.0 / (wavelength_m * float(np.sqrt((2.0 * distance_m / window_m) ** 2 + 1.0)))


@dataclass(frozen=True)
class Illumination:
    """The image of a pinhole on the object.

    Attributes:
        diameter_m: between the points of half amplitude.
        edge_m: 10-90 % width of the amplitude's edge, an error function.
        defocus_waves, astigmatism_waves, coma_waves: phase at the pinhole's rim, rho^2, rho^2 cos 2 theta and
            rho^3 cos theta with theta from the y axis.
    """

    diameter_m: float
    edge_m: float
    defocus_waves: float = 0.0
    astigmatism_waves: float = 0.0
    coma_waves: float = 0.0

    def window(self, pixel_m: float) -> int:
        """Even number of pixels of a square that holds the illumination: the edge's tail beyond it is below 1e-6."""
        return 2 * int(np.ceil((self.diameter_m / 2 + 2 * self.edge_m) / pixel_m)) + 2

    def field(self, pixel_m: float, size: int) -> NDArray[np.complex64]:
        """(size, size) complex64 amplitude, sum of |P|^2 = 1; index size//2 is the optical axis."""
        axis = (np.arange(size) - size // 2) * pixel_m
        y, x = axis[:, None], axis[None, :]
        radius = np.hypot(y, x)
        sigma = self.edge_m / EDGE_SIGMAS
        amplitude = 0.5 * erfc((radius - self.diameter_m / 2) / (sigma * np.sqrt(2.0)))
        eta, xi = 2 * y / self.diameter_m, 2 * x / self.diameter_m
        rho2 = eta**2 + xi**2
        waves = (
            self.defocus_waves * rho2
            + self.astigmatism_waves * (eta**2 - xi**2)
            + self.coma_waves * rho2 * eta * np.ones_like(xi)
        )
        field = amplitude * np.exp(2j * np.pi * waves)
        return (field / np.sqrt(np.sum(amplitude**2))).astype(np.complex64)


@dataclass(frozen=True)
class Propagator:
    """From an exit wave on a small window to what each camera pixel collects.

    The field is computed on `padding` times the frame's width at `pixel/oversampling`, squared, cropped to the frame
    and summed over `oversampling`^2 blocks. At oversampling 1 a pixel's value is the intensity at its centre times
    its area, not the integral over it. Camera pixel n//2 has its centre on the optical axis.

    Transforms of rows that are empty, and of columns that the band limit removes or the camera does not see, are left
    out: less than half of the arithmetic of two full transforms.

    Attributes:
        shape: (rows, columns) of the camera's frame.
        oversampling: fine pixels per camera pixel, each way.
        fine_pixel_m: pitch of the exit wave and of the field.
        exit_size: pixels of the square exit wave; index exit_size//2 is the optical axis.
        window: (rows, columns) of the transformed window, fine pixels.
        columns: (C,) indices of the columns inside the band.
        transfer: (C, window rows) complex64, transposed: H with the band limit and the shift that puts the camera's
            first fine pixel at index 0. Built in float64 with the carrier dropped.
    """

    shape: tuple[int, int]
    oversampling: int
    fine_pixel_m: float
    exit_size: int
    window: tuple[int, int]
    columns: NDArray[np.intp]
    transfer: NDArray[np.complex64]

    @classmethod
    def build(
        cls,
        wavelength_m: float,
        distance_m: float,
        shape: tuple[int, int],
        pixel_m: float,
        exit_size: int,
        oversampling: int = 1,
        padding: int = 2,
        axis_px: tuple[float, float] = (0.0, 0.0),
    ) -> Propagator:
        """The propagator to a camera of `shape` pixels of `pixel_m`, its optical axis `axis_px` beyond pixel n//2.

        Raises:
            ValueError: the exit wave is wider than the padded window.
        """
        fine = pixel_m / oversampling
        window = (padding * oversampling * shape[0], padding * oversampling * shape[1])
        if exit_size > min(window):
            raise ValueError(
                f"simulated optics: the illumination takes {exit_size} pixels of {fine:.3g} m and the padded window "
                f"has only {min(window)}; use a larger frame, more padding or a smaller pinhole"
            )
        v, u = (scipy.fft.fftfreq(n, fine) for n in window)
        limit_v, limit_u = (band_limit(n * fine, wavelength_m, distance_m) for n in window)
        columns = np.flatnonzero(np.abs(u) <= limit_u)
        u = u[columns]
        transverse = v[None, :] ** 2 + u[:, None] ** 2
        carrier = 1.0 / wavelength_m
        # sqrt(carrier^2 - t) - carrier without the cancellation of two nearly equal numbers
        kappa = -transverse / (np.sqrt(np.maximum(carrier**2 - transverse, 0.0)) + carrier)
        # The first fine pixel of the camera, relative to the first pixel of the exit wave.
        half_block = (oversampling - 1) / 2
        start_y, start_x = (exit_size // 2 * fine - (n // 2 * oversampling + half_block) * fine for n in shape)
        start_y, start_x = start_y - axis_px[0] * pixel_m, start_x - axis_px[1] * pixel_m
        phase = distance_m * kappa + start_y * v[None, :] + start_x * u[:, None]
        transfer = np.exp(2j * np.pi * phase) * (np.abs(v) <= limit_v)[None, :]
        return cls(shape, oversampling, fine, exit_size, window, columns, transfer.astype(np.complex64))

    def field(self, exit_wave: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """(exit_size, exit_size) exit wave to the field on the frame's fine pixels, (rows, columns) x oversampling."""
        if exit_wave.shape != (self.exit_size, self.exit_size):
            raise ValueError(f"simulated optics: exit wave {exit_wave.shape}, expected {self.exit_size} pixels square")
        rows, columns = self.shape[0] * self.oversampling, self.shape[1] * self.oversampling
        along_x = scipy.fft.fft(exit_wave, self.window[1], axis=1, workers=1)[:, self.columns]
        spectrum = scipy.fft.fft(np.ascontiguousarray(along_x.T), self.window[0], axis=1, workers=1)
        spectrum *= self.transfer
        along_y = scipy.fft.ifft(spectrum, axis=1, workers=1, overwrite_x=True)[:, :rows]
        padded = np.zeros((rows, self.window[1]), np.complex64)
        padded[:, self.columns] = along_y.T
        return scipy.fft.ifft(padded, axis=1, workers=1, overwrite_x=True)[:, :columns]

    def intensity(self, exit_wave: NDArray[np.complex64]) -> NDArray[np.float32]:
        """(rows, columns) float32 fraction of the illumination's photons in each camera pixel.

        Over an infinite plane the sum would be the sum of |exit_wave|^2; what misses the frame is lost.
        """
        field = self.field(exit_wave)
        fine = field.real**2 + field.imag**2
        k = self.oversampling
        if k == 1:
            return fine
        blocks = fine.reshape(self.shape[0], k, self.shape[1], k)
        return blocks.sum(axis=(1, 3), dtype=np.float32)
