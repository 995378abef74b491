"""Simulated scans for the benchmarks: the simulators' optics and silicon, and what was true. Seeded, no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from recon.dataset import Geometry, Ptychogram
from recon.metrics import fit_positions
from simulators.objects import Sample
from simulators.optics import Illumination, Propagator
from simulators.sensor import Sensor

WAVELENGTH_M = 561e-9
SPIRAL_OVER_DIAMETER = 0.2 / 1.676
"""Spacing c of a Fermat spiral over the beam's diameter at 80 % linear overlap: the mean neighbour is 1.676 c away."""


@dataclass(frozen=True)
class Bench:
    """A simulated bench.

    Attributes:
        side: pixels of the square frame.
        pixel_m, distance_m: camera pitch, true object to camera.
        photons: in the illumination, per exposure.
        sensor: the camera's silicon.
        oversampling: of the simulation over the camera's pitch.
        diameter_m, edge_m: of the illumination; the edge's 10-90 % width.
    """

    side: int
    pixel_m: float
    distance_m: float
    photons: float
    sensor: Sensor
    oversampling: int = 2
    diameter_m: float = 500e-6
    edge_m: float = 12e-6

    @property
    def light(self) -> Illumination:
        return Illumination(self.diameter_m, self.edge_m, defocus_waves=0.10, astigmatism_waves=0.06, coma_waves=0.04)


def paper_bench(side: int = 1024) -> Bench:
    """The paper's camera (`app/profiles/paper.toml`): 3.45 um, 12 bit, 2.3 e-, 1.5e8 photons per exposure."""
    sensor = Sensor((side, side), 0.65, 2.3, 3.0, 2.6, 20, 12, 10500)
    return Bench(side, 3.45e-6, 65e-3, 1.5e8, sensor, oversampling=1)


def small_bench(side: int = 256, pixel_m: float = 13.8e-6) -> Bench:
    """The same field on coarse pixels of a photon-resolving camera, below the critical distance of its frame."""
    sensor = Sensor((side, side), 1.0, 0.3, 0.006, 0.5, 200, 16, 32000)
    return Bench(side, pixel_m, 65e-3, 1e7, sensor)


def resolved_bench(photons: float = 1e7) -> Bench:
    """A small scan whose truth the model can express: edge, grains and fringes are several pixels wide.

    The finest fringe, that of the beam's two edges, has ten pixels, so that the mean over a pixel is what the model
    takes it for; three points a pixel make the simulated one exact to a tenth of its effect.
    """
    sensor = Sensor((96, 96), 1.0, 0.3, 0.006, 1.0, 200, 20, 1e6)
    return Bench(96, 13.8e-6, 60e-3, photons, sensor, oversampling=3, diameter_m=300e-6, edge_m=50e-6)


@dataclass(frozen=True)
class SimulatedScan:
    """Data with wrong nominal values, and the truth.

    Attributes:
        data: nominal positions and distance.
        positions_m: (N, 2) true.
        distance_m: true.
        probe: (K, K) on the camera's pitch, square root of electrons per pixel and second.
        object: (M, M) transmission on the camera's pitch, index M//2 at the origin.
    """

    data: Ptychogram
    positions_m: NDArray[np.float64]
    distance_m: float
    probe: NDArray[np.complex64]
    object: NDArray[np.complex64]


def texture(side_m: float, seed: int, grains_m: tuple[float, float] = (15e-6, 50e-6)) -> Sample:
    """Grains of two sizes in grey, transmitting 0.05 to 1 in amplitude: structure under every probe."""
    rng = np.random.default_rng([seed, 71])
    count = int(np.ceil(side_m / 5e-6))
    image = np.zeros((count, count))
    for grain_m, weight in zip(grains_m, (0.6, 1.0), strict=True):
        noise = ndimage.gaussian_filter(rng.normal(size=(count, count)), grain_m / 5e-6 / 2.355)
        image += weight * noise / noise.std()
    return Sample.from_image(np.clip(0.55 + 0.25 * image, 0.05, 1).astype(np.float32), side_m, 3 * side_m)


def fermat(count: int, spacing_m: float) -> NDArray[np.float64]:
    """(count, 2) positions r_n = c sqrt(n), theta_n = n pi (3 - sqrt 5)."""
    n = np.arange(1, count + 1)
    angle = n * np.pi * (3 - np.sqrt(5))
    return spacing_m * np.sqrt(n)[:, None] * np.stack([np.sin(angle), np.cos(angle)], 1)


def misplaced(nominal_m: NDArray[np.float64], rms_m: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """True positions (N, 2): turned, sheared, stretched and scattered by exactly `rms_m` after the best similarity.

    The systematic part is 6 mrad of rotation, 3e-3 of shear and 4e-3 of anisotropy; scatter makes up the rest.
    """
    if rms_m == 0:
        return nominal_m.copy()
    linear = np.array([[1 + 2e-3, 3e-3 + 6e-3], [3e-3 - 6e-3, 1 - 2e-3]])
    scatter = rng.normal(size=nominal_m.shape)

    def moved(size: float) -> NDArray[np.float64]:
        return nominal_m @ linear.T + size * scatter

    low, high = 0.0, 2 * rms_m
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if similarity_rms(nominal_m, moved(middle)) < rms_m else (low, middle)
    return moved(high)


def similarity_rms(a_m: NDArray[np.float64], b_m: NDArray[np.float64]) -> float:
    """rms distance (m) between two sets of positions after the best shift, rotation and isotropic scale."""
    a, b = ((p - p.mean(0)) @ np.array([1, 1j]) for p in (a_m, b_m))
    factor = np.vdot(a, b) / np.vdot(a, a)
    return float(np.sqrt((np.abs(b - factor * a) ** 2).mean()))


def simulate(
    bench: Bench,
    count: int = 96,
    *,
    distance_error_m: float = 0.0,
    position_rms_m: float = 0.0,
    sample: Sample | None = None,
    seed: int = 0,
) -> SimulatedScan:
    """A bright scan of `count` frames; its nominal distance is too short by `distance_error_m`."""
    rng = np.random.default_rng([seed, 72])
    light = bench.light
    nominal = fermat(count, SPIRAL_OVER_DIAMETER * bench.diameter_m)
    nominal -= nominal.mean(0)
    true = misplaced(nominal, position_rms_m, rng)
    reach = np.abs(nominal).max() + bench.diameter_m
    # Grains that the camera's pitch resolves: what it cannot is an error of every method.
    grains = (max(15e-6, 3 * bench.pixel_m), max(50e-6, 9 * bench.pixel_m))
    sample = sample or texture(2 * reach, seed, grains)
    fine = bench.pixel_m / bench.oversampling
    size = light.window(fine)
    shape = (bench.side, bench.side)
    optics = Propagator.build(WAVELENGTH_M, bench.distance_m, shape, bench.pixel_m, size, bench.oversampling, padding=2)
    beam = light.field(fine, size)
    sensor = bench.sensor

    def measured(position_m: NDArray | None, stream: int, repeats: int = 1) -> tuple[NDArray, NDArray]:
        noise = np.random.default_rng([seed, 73, stream])
        wave = beam if position_m is None else beam * sample.transmission(fine, (size, size), tuple(position_m))
        photons = optics.intensity(wave) * np.float32(bench.photons)
        counts = [sensor.expose(photons, 1.0, noise) for _ in range(repeats)]
        electrons = np.mean(counts, 0, dtype=np.float32) - np.float32(sensor.black_level_adu)
        return electrons * np.float32(sensor.electrons_per_adu), counts[0] >= 0.98 * (
            min(sensor.full_well_e / sensor.electrons_per_adu, 2**sensor.bit_depth - 1 - sensor.black_level_adu)
            + sensor.black_level_adu
        )

    frames = np.empty((count, *shape), np.float32)
    saturated = np.zeros((count, *shape), bool)
    for k, position in enumerate(true):
        frames[k], saturated[k] = measured(position, k)
    frames -= np.float32(sensor.dark_current_e_s)
    variance = sensor.read_noise_e**2 + sensor.dark_current_e_s + sensor.electrons_per_adu**2 / 12
    data = Ptychogram(
        frames=frames,
        positions_m=nominal,
        exposures_s=np.ones(count),
        geometry=Geometry(WAVELENGTH_M, bench.distance_m - distance_error_m, bench.pixel_m, shape),
        dark_variance=np.full(shape, variance, np.float32),
        mask=np.ones(shape, bool),
        saturated=saturated if saturated.any() else None,
        name=f"{count} frames of {bench.side} x {bench.side}",
        empty=measured(None, count, 4)[0] - np.float32(sensor.dark_current_e_s),
        empty_exposure_s=1.0,
    )
    window = 2 * int(np.ceil(0.7 * bench.diameter_m / bench.pixel_m))
    probe = light.field(bench.pixel_m, window) * np.sqrt(bench.photons * sensor.quantum_efficiency)
    side = 2 * int(np.ceil(reach / bench.pixel_m))
    truth = sample.transmission(bench.pixel_m, (side, side))
    return SimulatedScan(data, true, bench.distance_m, probe.astype(np.complex64), truth.astype(np.complex64))


def position_rms_px(scan: SimulatedScan, estimate_m: NDArray) -> float:
    """`position_rms_px` of metrics.md: after the best shift and isotropic scale, in camera pixels."""
    return fit_positions(estimate_m, scan.positions_m).rms_m / scan.data.geometry.pixel_size_m
