"""The beam's tilt, which a calibration takes for the object's: told by the empty beam.

Frames of an object do not change where the probe gets a linear phase and the object the opposite one; a calibration
takes all of it off the object (`recon.illumination.remove_ramp`), which is right where the object is an amplitude. An
object with a phase may have a linear part of its own, and a decoder draws it. The empty beam has no object in its way:
a tilt moves its picture on the camera by distance times angle, so that it says which part is the beam's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from recon.dataset import DatasetError, Scan
from recon.illumination import Illumination
from recon.optics import band_limit, longitudinal_wavenumber

STEPS = 12
"""Gauss-Newton steps; four are enough from where the pictures' correlation starts them."""
SETTLED = 1e-6
"""Change of the phase per pixel, rad, at which they end."""


@dataclass(frozen=True)
class EmptyBeam:
    """What the camera sees with no sample in the way.

    Attributes:
        electrons: (H, W), of one exposure.
        exposure_s: that.
        mask: (H, W) good pixels.
    """

    electrons: NDArray[np.float32]
    exposure_s: float
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, data: Scan) -> EmptyBeam:
        """That of a scan.

        Raises:
            DatasetError: it has none.
        """
        if data.empty is None or not data.empty_exposure_s:
            raise DatasetError(
                f"{data.name}: has no empty beam, so that a tilt of the beam cannot be told from one of the object's "
                "phase; scan with empty_frames of at least 1, or reconstruct an amplitude"
            )
        return cls(data.empty, data.empty_exposure_s, data.mask)


def tilted(light: Illumination, tilt_rad: NDArray) -> Illumination:
    """The same light, turned by an angle (2,), (y, x): its probe with a linear phase."""
    axis = np.arange(len(light.probe)) - len(light.probe) // 2
    ramp = _ramp(axis, np.asarray(tilt_rad) * _per_pixel(light))
    return replace(light, probe=(light.probe * ramp).astype(np.complex64))


def beam_tilt_rad(light: Illumination, beam: EmptyBeam) -> NDArray[np.float64]:
    """(2,) angle (y, x) by which the light has to be turned to explain the empty beam.

    Least squares between the square roots of measured and expected electrons over both angles, by Gauss-Newton.

    Raises:
        DatasetError: the probe is larger than the camera's frame.
    """
    rows, columns = beam.electrons.shape
    side = len(light.probe)
    if side > min(rows, columns):
        raise DatasetError(f"empty beam: the probe takes {side} pixels, the camera's frame has {rows} x {columns}")
    g = light.geometry
    kappa, v, u = longitudinal_wavenumber((rows, columns), g.pixel_size_m, g.wavelength_m)
    limits = [band_limit(n * g.pixel_size_m, g.wavelength_m, g.distance_m) for n in (rows, columns)]
    carried = (np.abs(v) <= limits[0])[:, None] & (np.abs(u) <= limits[1])
    transfer = np.exp(1j * g.distance_m * kappa) * carried
    place = (
        slice(rows // 2 - side // 2, rows // 2 - side // 2 + side),
        slice(columns // 2 - side // 2, columns // 2 - side // 2 + side),
    )
    probe = light.probe.astype(np.complex128) * np.sqrt(beam.exposure_s)
    axis = np.arange(side) - side // 2

    def arrived(field: NDArray) -> NDArray:
        whole = np.zeros((rows, columns), np.complex128)
        whole[place] = field
        wave: NDArray = scipy.fft.ifft2(scipy.fft.fft2(whole) * transfer)
        return wave

    measured = np.sqrt(np.maximum(beam.electrons, 0)) * beam.mask
    # A pixel of shift on the camera is an angle of a pixel over the distance.
    moved = _shift(measured, np.abs(arrived(probe)) * beam.mask)
    tilt = moved * g.pixel_size_m / g.distance_m * _per_pixel(light)
    for _ in range(STEPS):
        turned = probe * _ramp(axis, tilt)
        field = arrived(turned)
        size = np.maximum(np.abs(field), 1e-9)
        along = [arrived(1j * part * turned) for part in (axis[:, None], axis[None, :])]
        slopes = np.stack([(field.conj() * way).real / size * beam.mask for way in along]).reshape(2, -1)
        left = ((measured - size) * beam.mask).ravel()
        step = np.linalg.solve(slopes @ slopes.T, slopes @ left)
        tilt = tilt + step
        if np.abs(step).max() < SETTLED:
            break
    found: NDArray[np.float64] = tilt / _per_pixel(light)
    return found


def _per_pixel(light: Illumination) -> float:
    """Phase per pixel of the probe, rad, of a tilt of one rad."""
    return 2 * np.pi * light.geometry.pixel_size_m / light.geometry.wavelength_m


def _ramp(axis: NDArray, tilt: NDArray) -> NDArray[np.complex128]:
    ramp: NDArray[np.complex128] = np.exp(1j * (tilt[0] * axis[:, None] + tilt[1] * axis[None, :]))
    return ramp


def _shift(a: NDArray, b: NDArray) -> NDArray[np.float64]:
    """(2,) whole pixels by which `b` has to move to look most like `a`."""
    match = scipy.fft.ifft2(scipy.fft.fft2(a) * scipy.fft.fft2(b).conj()).real
    peak = np.unravel_index(int(match.argmax()), match.shape)
    return np.array([(p + n // 2) % n - n // 2 for p, n in zip(peak, match.shape, strict=True)], np.float64)
