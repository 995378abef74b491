"""The truth of a simulated run, and the scores of a calibration or a reconstruction against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from recon.dataset import Truth
from recon.illumination import Illumination, illuminated
from recon.metrics import (
    distance_error_m,
    fit_positions,
    phase_error_rad,
    phase_psnr_db,
    probe_error,
    psnr_db,
    stretched_probe,
)

if TYPE_CHECKING:
    from recon.calibrate import Calibration


@dataclass(frozen=True)
class Yardstick:
    """The truth of a simulated run, moved to where the calibration puts it, for scoring.

    Attributes:
        amplitude: (M, M) on the reconstruction's grid, the calibration's shift and scale applied.
        transmission: (M, M) complex, likewise.
        lit: (M, M) the lit mask of the positions used.
    """

    amplitude: NDArray[np.float64]
    transmission: NDArray[np.complex128]
    lit: NDArray[np.bool_]

    @classmethod
    def build(cls, truth: Truth, light: Illumination, indices: NDArray[np.int64], size: int) -> Yardstick:
        """From a run's truth for frames at the points `indices`, on a grid of `size` camera pixels."""
        pixel = light.geometry.pixel_size_m
        fit = fit_positions(light.positions_m, truth.positions_m[light.indices])
        axis = (np.arange(size) - size // 2) * pixel
        centre = len(truth.object) // 2
        rows, columns = ((axis - shift) / fit.scale / truth.object_pixel_m + centre for shift in fit.shift_m)
        grid = np.meshgrid(rows, columns, indexing="ij")
        amplitude, real, imaginary = (
            ndimage.map_coordinates(part.astype(np.float64), grid, order=1)
            for part in (np.abs(truth.object), truth.object.real, truth.object.imag)
        )
        return cls(
            amplitude, real + 1j * imaginary, illuminated(light.probe, light.positions_of(indices) / pixel, size)
        )

    def psnr_db(self, obj: NDArray) -> float:
        """Eq. 3 of the paper over the lit mask."""
        return psnr_db(obj, self.amplitude, self.lit)

    def phase(self, obj: NDArray) -> dict[str, float | None]:
        """Scores of a complex object's phase there: modulo a constant, weighted by the light that comes through.

        None where nothing comes through.
        """
        if not np.abs(self.transmission[self.lit]).any():
            return {"phase_psnr_db": None, "phase_error_rad": None}
        return {
            "phase_psnr_db": phase_psnr_db(obj, self.transmission, self.lit),
            "phase_error_rad": phase_error_rad(obj, self.transmission, self.lit),
        }


@dataclass(frozen=True)
class CalibrationScore:
    """A calibration against the truth of a simulated run; see `recon.metrics`."""

    distance_error_m: float
    position_rms_px: float
    probe_error: float


def score(calibration: Calibration, truth: Truth) -> CalibrationScore:
    """Errors of distance, positions and probe, modulo the gauge freedoms."""
    light = calibration.illumination
    pixel = light.geometry.object_pixel_m
    fit = fit_positions(light.positions_m, truth.positions_m[light.indices])
    wavelength = light.geometry.wavelength_m
    true_probe = stretched_probe(
        truth.probe, truth.probe_pixel_m, len(light.probe), pixel, fit.scale, wavelength, truth.distance_m
    )
    return CalibrationScore(
        distance_error_m(light.geometry.distance_m, truth.distance_m, fit.scale),
        fit.rms_m / pixel,
        probe_error(light.probe, true_probe, pixel, wavelength, truth.distance_m),
    )
