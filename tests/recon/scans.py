"""Small simulated scans: the simulators' optics on finer pixels, made into data by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from recon.dataset import Geometry, Ptychogram
from simulators.objects import Sample
from simulators.optics import Illumination, Propagator

WAVELENGTH, PIXEL, FRAME = 561e-9, 8e-6, 96
NOMINAL_DISTANCE = 10e-3
BEAM = Illumination(280e-6, 24e-6, defocus_waves=0.1, astigmatism_waves=0.06)
READ_NOISE = 0.3


@dataclass(frozen=True)
class Scan:
    """Data with nominal positions and distance, and what was true: positions, distance, probe on the camera's pitch."""

    data: Ptychogram
    positions_m: NDArray[np.float64]
    distance_m: float
    photons: float


def spiral(count: int, reach_m: float) -> NDArray[np.float64]:
    """(count, 2) Fermat spiral out to `reach_m`."""
    n = np.arange(count)
    angle = n * np.pi * (3 - np.sqrt(5))
    return reach_m * np.sqrt((n + 0.5) / count)[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1)


def texture(seed: int) -> Sample:
    """Blobs of 30 um in grey, 0.7 mm wide."""
    rng = np.random.default_rng([seed, 1])
    noise = ndimage.gaussian_filter(rng.normal(size=(90, 90)), 2.0)
    return Sample.from_image(np.clip(0.55 + 0.3 * noise / noise.std(), 0.05, 1), 0.9e-3, 4e-3)


def bright_scan(seed: int = 0, count: int = 30, photons: float = 1e7, error_m: float = 0.25e-3) -> Scan:
    """A scan with wrong nominal values: distance by `error_m`, positions turned by 10 mrad and scattered by 3 um."""
    rng = np.random.default_rng([seed, 2])
    nominal = spiral(count, 190e-6)
    turn = np.array([[np.cos(0.01), np.sin(0.01)], [-np.sin(0.01), np.cos(0.01)]])
    positions = nominal @ turn + rng.normal(0, 3e-6, nominal.shape)
    distance = NOMINAL_DISTANCE + error_m
    sample = texture(seed)
    fine = PIXEL / 2
    size = BEAM.window(fine)
    optics = Propagator.build(WAVELENGTH, distance, (FRAME, FRAME), PIXEL, size, oversampling=2)
    beam = BEAM.field(fine, size)
    frames = [optics.intensity(beam * sample.transmission(fine, (size, size), (y, x))) for y, x in positions]
    seconds = 0.1

    def measured(fraction: NDArray) -> NDArray[np.float32]:
        return (rng.poisson(fraction * photons) + rng.normal(0, READ_NOISE, fraction.shape)).astype(np.float32)

    data = Ptychogram(
        frames=measured(np.stack(frames)),
        positions_m=nominal,
        exposures_s=np.full(count, seconds),
        geometry=Geometry(WAVELENGTH, NOMINAL_DISTANCE, PIXEL, (FRAME, FRAME)),
        dark_variance=np.full((FRAME, FRAME), READ_NOISE**2, np.float32),
        mask=np.ones((FRAME, FRAME), bool),
        name="small scan",
        empty=measured(optics.intensity(beam)),
        empty_exposure_s=seconds,
    )
    return Scan(data, positions, distance, photons)
