"""The beam on the camera: where it is, and which wave at the object makes its picture.

The wave is the image of a pinhole with a soft edge and a smooth phase, as many numbers as the picture can tell apart.
The wave matters: a beam that is curved by a tenth of a wave over the pinhole magnifies what it carries to the camera by
more than ten per cent, and whoever reads scales off the pictures directly is wrong by as much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import erfc

EDGE_SIGMAS = 2.5631031310892007
"""Width between 10 and 90 % of an error function, in its standard deviations."""
PINHOLE_PIXELS = 70
"""Working pixels over the pinhole's diameter, at least half of it where the camera has so many."""
WINDOW_DIAMETERS = 3.1
DEFOCUS_STARTS = (0.0, 0.15, -0.15)
STEP = np.array(1e-4)
"""Relative step of the derivatives."""
_UNITS = np.array([1.0, 0.04, 0.1, 0.1, 0.1, 0.1, 0.1, 0.04, 0.04])
"""Typical sizes of the wave's numbers; lengths in diameters, phases in waves."""


@dataclass(frozen=True)
class Grid:
    """Square window of working pixels about a place on the camera, the same at the object.

    Attributes:
        size: pixels each way; index size//2 is the middle.
        pixel_m: working pitch, `binning` camera pixels.
        binning: camera pixels per working pixel, each way.
    """

    size: int
    pixel_m: float
    binning: int

    @classmethod
    def choose(cls, camera_pixel_m: float, pinhole_m: float) -> Grid:
        """A grid that resolves the pinhole and holds what diffraction spreads."""
        binning = max(1, int(pinhole_m / PINHOLE_PIXELS / camera_pixel_m))
        pitch = camera_pixel_m * binning
        size = 32 * int(np.ceil(WINDOW_DIAMETERS * pinhole_m / pitch / 32))
        return cls(max(size, 64), pitch, binning)

    def cut(self, image: NDArray[np.float64], middle: tuple[float, float]) -> NDArray[np.float64]:
        """(size, size) mean per working pixel of a camera picture about the camera pixel `middle`; NaN beyond it."""
        side = self.size * self.binning
        top, left = (round(m) - side // 2 for m in middle)
        whole = np.full((side, side), np.nan)
        rows, columns = image.shape
        y0, y1, x0, x1 = max(0, top), min(rows, top + side), max(0, left), min(columns, left + side)
        if y0 < y1 and x0 < x1:
            whole[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
        return whole.reshape(self.size, self.binning, self.size, self.binning).mean(axis=(1, 3))


class FreeSpace:
    """Band-limited angular spectrum (Matsushima & Shimobaba, Opt. Express 17, 19662, 2009) on a `Grid`.

    The carrier is dropped; the transfer function is made in float64 and used in complex64.
    """

    def __init__(self, grid: Grid, wavelength_m: float, distance_m: float):
        frequency = scipy.fft.fftfreq(grid.size, grid.pixel_m)
        transverse = frequency[:, None] ** 2 + frequency**2
        carrier = 1.0 / wavelength_m
        kappa = -transverse / (np.sqrt(np.maximum(carrier**2 - transverse, 0.0)) + carrier)
        window = grid.size * grid.pixel_m
        limit = carrier / np.sqrt((2.0 * distance_m / window) ** 2 + 1.0)
        band = np.abs(frequency) <= limit
        self._transfer = (np.exp(2j * np.pi * distance_m * kappa) * band[:, None] * band).astype(np.complex64)
        self._back = self._transfer.conj()

    def to_camera(self, field: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """(size, size) field at the object to the field on the camera."""
        return self._through(field, self._transfer)

    def to_object(self, field: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """(size, size) field on the camera to the field at the object."""
        return self._through(field, self._back)

    @staticmethod
    def _through(field: NDArray[np.complex64], transfer: NDArray[np.complex64]) -> NDArray[np.complex64]:
        spectrum = scipy.fft.fft2(field)
        spectrum *= transfer
        return scipy.fft.ifft2(spectrum, overwrite_x=True)


@dataclass(frozen=True)
class Beam:
    """The wave at the object that explains a picture of the empty beam.

    Attributes:
        wave: (size, size) complex64 at the object; |propagated|^2 has the units of the picture.
        diameter_m: of the pinhole's image.
        defocus_waves, astigmatism_waves: phase at its rim; the two of astigmatism are along the axes and diagonal.
        centre_m: (y, x) of its middle from the middle of the grid.
        misfit: unexplained share of the light.
    """

    wave: NDArray[np.complex64]
    diameter_m: float
    defocus_waves: float
    astigmatism_waves: tuple[float, float]
    centre_m: tuple[float, float]
    misfit: float


def pinhole_wave(grid: Grid, diameter_m: float, numbers: NDArray[np.float64]) -> NDArray[np.complex64]:
    """(size, size) wave at the object.

    Args:
        grid: where.
        diameter_m: nominal diameter, the unit of lengths in `numbers`.
        numbers: diameter, 10-90 % edge width, defocus, astigmatism along the axes and diagonal, coma along y and x,
            centre y and x. Lengths in nominal diameters, phases in waves at the rim.
    """
    diameter, edge, defocus, along, diagonal, coma_y, coma_x, centre_y, centre_x = numbers
    axis = (np.arange(grid.size) - grid.size // 2) * grid.pixel_m / diameter_m
    y, x = axis[:, None] - centre_y, axis[None, :] - centre_x
    sigma = abs(edge) / EDGE_SIGMAS + 1e-6
    amplitude = 0.5 * erfc((np.hypot(y, x) - diameter / 2) / (sigma * np.sqrt(2.0)))
    eta, xi = 2 * y / diameter, 2 * x / diameter
    rho2 = eta**2 + xi**2
    waves = defocus * rho2 + along * (eta**2 - xi**2) + 2 * diagonal * eta * xi + rho2 * (coma_y * eta + coma_x * xi)
    return (amplitude * np.exp(2j * np.pi * waves)).astype(np.complex64)


def fit_beam(picture: NDArray[np.float64], grid: Grid, space: FreeSpace, pinhole_m: float) -> Beam:
    """The pinhole wave whose picture is nearest, in the square root of brightness.

    Distance and scale of the wave cannot both be told from one picture: the distance is taken as given.

    Args:
        picture: (size, size) of the empty beam, background subtracted; NaN where unknown.
        grid, space: of the picture, and to it.
        pinhole_m: nominal diameter.
    """
    known = np.isfinite(picture)
    root = np.sqrt(np.maximum(np.where(known, picture, 0.0), 0.0))
    total = float(np.sqrt((root**2).sum()))
    wanted = (root / total)[known]
    axis = (np.arange(grid.size) - grid.size // 2) * grid.pixel_m / pinhole_m
    light = root**2 / total**2
    middle = float(light.sum(axis=1) @ axis), float(light.sum(axis=0) @ axis)

    def model(units: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.abs(space.to_camera(pinhole_wave(grid, pinhole_m, units * _UNITS)))[known].astype(np.float64)
        return found / np.sqrt((found**2).sum())

    def residual(units: NDArray[np.float64]) -> NDArray[np.float64]:
        return model(units) - wanted

    best = None
    for defocus in DEFOCUS_STARTS:
        start = np.array([1.0, 1.0, defocus / _UNITS[2], 0, 0, 0, 0, middle[0] / _UNITS[7], middle[1] / _UNITS[8]])
        found = least_squares(residual, start, max_nfev=8, diff_step=STEP)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    best = least_squares(residual, best.x, max_nfev=40, diff_step=STEP)
    numbers = best.x * _UNITS
    wave = pinhole_wave(grid, pinhole_m, numbers)
    shown = np.abs(space.to_camera(wave))[known].astype(np.float64)
    wave = wave * np.float32(total / np.sqrt((shown**2).sum()))
    return Beam(
        wave=wave,
        diameter_m=float(numbers[0] * pinhole_m),
        defocus_waves=float(numbers[2]),
        astigmatism_waves=(float(numbers[3]), float(numbers[4])),
        centre_m=(float(numbers[7] * pinhole_m), float(numbers[8] * pinhole_m)),
        misfit=float(2 * best.cost),
    )


def find_light(image: NDArray[np.float64], spread_px: float) -> tuple[tuple[float, float], float] | None:
    """(row, column) of the middle of the light on a picture without background, and its brightness; None without any.

    The brightest place after averaging over a tenth of the spread, then the centre of mass around it. Single bright
    pixels do not count.

    Args:
        image: (rows, columns), background near zero.
        spread_px: width over which the light may be spread, pixels.
    """
    side = max(2, int(spread_px / 10))
    rows, columns = (n // side for n in image.shape)
    blocks = image[: rows * side, : columns * side].reshape(rows, side, columns, side)
    level = np.median(blocks, axis=(1, 3))
    noise = 1.4826 * float(np.median(np.abs(level - np.median(level))))
    peak = float(level.max())
    if peak <= 8 * max(noise, 1e-12):
        return None
    place = np.unravel_index(int(level.argmax()), level.shape)
    centre = np.array([(place[0] + 0.5) * side, (place[1] + 0.5) * side])
    y, x = np.arange(image.shape[0])[:, None], np.arange(image.shape[1])[None, :]
    floor = max(5 * noise, 0.02 * peak)
    means = np.repeat(np.repeat(np.where(level > floor, level, 0.0), side, axis=0), side, axis=1)
    clean = np.zeros_like(image)
    clean[: rows * side, : columns * side] = means
    for _ in range(5):
        near = clean * ((np.abs(y - centre[0]) < spread_px) & (np.abs(x - centre[1]) < spread_px))
        total = float(near.sum())
        centre = np.array([float((near * y).sum()) / total, float((near * x).sum()) / total])
    return (float(centre[0]), float(centre[1])), peak
