"""The simulated bench: one true object, one true beam, one true distance, and the devices that look at them.

Frames: the camera and the probe are one frame, camera pixel n//2 on the optical axis. When the stage stands at a true
displacement d, the beam hits the object at r = stage_to_object (d - centre), and probe coordinate s meets object point
r + s. All (y, x), metres.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drivers.base import Interval, LightState, Region
from drivers.clock import Clock
from simulators.camera import SimulatedCamera
from simulators.carriage import StageSettings
from simulators.light import SimulatedLight
from simulators.objects import Sample
from simulators.optics import Illumination, Propagator
from simulators.sensor import Sensor
from simulators.stage import SimulatedStage

_SEED_DOMAIN = 3


@dataclass(frozen=True)
class BenchSettings:
    """All that a simulated bench is. Names and units are those of the profile's sections.

    Attributes:
        wavelength_m, distance_m, pinhole_diameter_m: geometry; the distance is the nominal one.
        shape, pixel_size_m, bit_depth, electrons_per_adu, black_level_adu, read_noise_e, quantum_efficiency,
        dark_current_e_s, full_well_e, min_exposure_s, max_exposure_s, frame_overhead_s, hot_pixels,
        gain_db: the camera.
        limits_y_m, limits_x_m, centre_m, velocity_m_s, acceleration_m_s2, settling_s, microsteps_per_m, backlash_m,
        repeatability_m, rotation_rad, scale_error, shear, stage_to_object: the stage.
        photons_per_second: in the illumination before the object.
        distance_error_m: true minus nominal distance.
        edge_m, defocus_waves, astigmatism_waves, coma_waves: the illumination, see `Illumination`.
        oversampling, padding: of the propagation, see `Propagator`.
        mounting: (2, 2) true map from displacement to object position; None: as `stage_to_object` says.
        sensor_shape: (rows, columns) of the whole sensor, of which `shape` is read out; None: no more than that.
        origin: (row, column) where the region that is read out begins; None: the sensor's middle.
        region_step: regions begin at multiples of so many pixels.
        beam_offset_px: (y, x) of the optical axis from the sensor's pixel n//2.
        exposure_offset_s, line_time_s: what exposures really are, see `Sensor`.
        flux_drift_per_h: relative change of the beam's power in an hour, from when the bench was made.
        pointing_drift_rad_h: (y, x) angle by which the beam turns in an hour.
    """

    wavelength_m: float
    distance_m: float
    pinhole_diameter_m: float
    shape: tuple[int, int]
    pixel_size_m: float
    bit_depth: int
    electrons_per_adu: float
    black_level_adu: float
    read_noise_e: float
    quantum_efficiency: float
    dark_current_e_s: float
    full_well_e: float
    min_exposure_s: float
    max_exposure_s: float
    limits_y_m: tuple[float, float]
    limits_x_m: tuple[float, float]
    centre_m: tuple[float, float]
    photons_per_second: float
    edge_m: float
    frame_overhead_s: float = 0.03
    hot_pixels: int = 0
    gain_db: float = 0.0
    velocity_m_s: float = 1.5e-3
    acceleration_m_s2: float = 1.0e-3
    settling_s: float = 0.1
    microsteps_per_m: float = 2_184_533_333.0
    backlash_m: float = 0.0
    repeatability_m: float = 0.0
    rotation_rad: float = 0.0
    scale_error: tuple[float, float] = (0.0, 0.0)
    shear: float = 0.0
    stage_to_object: tuple[tuple[float, float], tuple[float, float]] = ((-1.0, 0.0), (0.0, -1.0))
    distance_error_m: float = 0.0
    defocus_waves: float = 0.0
    astigmatism_waves: float = 0.0
    coma_waves: float = 0.0
    oversampling: int = 1
    padding: int = 2
    mounting: tuple[tuple[float, float], tuple[float, float]] | None = None
    sensor_shape: tuple[int, int] | None = None
    origin: tuple[int, int] | None = None
    region_step: int = 1
    beam_offset_px: tuple[float, float] = (0.0, 0.0)
    exposure_offset_s: float = 0.0
    line_time_s: float = 0.0
    flux_drift_per_h: float = 0.0
    pointing_drift_rad_h: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def gather(cls, *sections: Mapping[str, Any]) -> BenchSettings:
        """The settings out of mappings with these names (a profile's sections); other names in them are left alone.

        Raises:
            TypeError: a name without a default is in no section.
        """
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for section in sections for name, value in section.items() if name in names})

    @property
    def true_distance_m(self) -> float:
        """Object to camera."""
        return self.distance_m + self.distance_error_m

    @property
    def illumination(self) -> Illumination:
        return Illumination(
            self.pinhole_diameter_m, self.edge_m, self.defocus_waves, self.astigmatism_waves, self.coma_waves
        )

    @property
    def sensor(self) -> Sensor:
        """The camera's silicon without its hot pixels."""
        return Sensor(
            shape=self.sensor_shape or self.shape,
            quantum_efficiency=self.quantum_efficiency,
            read_noise_e=self.read_noise_e,
            dark_current_e_s=self.dark_current_e_s,
            electrons_per_adu=self.electrons_per_adu,
            black_level_adu=self.black_level_adu,
            bit_depth=self.bit_depth,
            full_well_e=self.full_well_e,
            exposure_offset_s=self.exposure_offset_s,
            line_time_s=self.line_time_s,
        )

    @property
    def region(self) -> Region:
        """What is read out at first."""
        sensor = self.sensor_shape or self.shape
        return Region.centred(sensor, self.shape) if self.origin is None else Region(*self.origin, *self.shape)

    @property
    def stage(self) -> StageSettings:
        own = {field.name: getattr(self, field.name) for field in fields(StageSettings) if hasattr(self, field.name)}
        return StageSettings(**own)


class Displaced(Protocol):
    """What moves the sample: a simulated stage, or the carriage that emulated controllers drive."""

    def true_displacement(self) -> NDArray[np.float64]:
        """(2,) (y, x) metres: where it really is, in the camera's axes."""
        ...


class Bench:
    """What is really there. The camera asks it for light; scoring asks it for the truth.

    Attributes:
        settings: what it was built from.
        sample: the true object.
        probe: (K, K) complex64 illumination on the object at `probe_pixel_m`, sum of |P|^2 = 1, axis at index K//2;
            multiply by the square root of an exposure's photons.
        probe_pixel_m: the simulator's fine pitch.
        distance_m: true distance from object to camera.
    """

    def __init__(self, settings: BenchSettings, sample: Sample, stage: Displaced, light: SimulatedLight, clock: Clock):
        self.settings = settings
        self.sample = sample
        self.distance_m = settings.true_distance_m
        self.probe_pixel_m = settings.pixel_size_m / settings.oversampling
        size = settings.illumination.window(self.probe_pixel_m)
        self.probe = settings.illumination.field(self.probe_pixel_m, size)
        self._stage = stage
        self._light = light
        self._map = np.array(settings.mounting or settings.stage_to_object)
        self._clock = clock
        self._begin = clock.monotonic()
        self._propagator: Propagator | None = None
        self._lock = threading.Lock()
        self._cached: tuple[tuple[float, float], NDArray[np.float32]] | None = None

    def true_object_position(self) -> tuple[float, float]:
        """(y, x) metres: where the beam hits the object now."""
        y, x = self._map @ (self._stage.true_displacement() - self.settings.centre_m)
        return float(y), float(x)

    def intensity(self) -> NDArray[np.float32] | None:
        """(rows, columns) float32 photons a pixel and second now, read-only; None while the beam is blocked.

        Computed once per position: an exposure series pays for one propagation.
        """
        if self._light.state is not LightState.OPEN:
            return None
        position = self.true_object_position()
        hours = (self._clock.monotonic() - self._begin) / 3600.0
        if any(self.settings.pointing_drift_rad_h):
            drift_y, drift_x = self.settings.pointing_drift_rad_h
            return self._drifted(self.intensity_at(position, (drift_y * hours, drift_x * hours)), hours)
        with self._lock:
            if self._cached is None or self._cached[0] != position:
                self._cached = (position, self.intensity_at(position))
            return self._drifted(self._cached[1], hours)

    def _drifted(self, intensity: NDArray[np.float32], hours: float) -> NDArray[np.float32]:
        if not self.settings.flux_drift_per_h:
            return intensity
        return intensity * np.float32(max(0.0, 1.0 + self.settings.flux_drift_per_h * hours))

    def intensity_at(
        self, position_m: tuple[float, float], tilt_rad: tuple[float, float] = (0.0, 0.0)
    ) -> NDArray[np.float32]:
        """(rows, columns) float32 photons a pixel and second, the beam at (y, x) metres on the object, read-only.

        The beam is turned by `tilt_rad` (y, x): the picture moves by the angle times the distance.
        """
        if self._propagator is None:
            # On first use: a check or a plan needs no light.
            s = self.settings
            self._propagator = Propagator.build(
                s.wavelength_m,
                self.distance_m,
                s.sensor_shape or s.shape,
                s.pixel_size_m,
                len(self.probe),
                s.oversampling,
                s.padding,
                s.beam_offset_px,
            )
        exit_wave = self.probe * self.sample.transmission(self.probe_pixel_m, self.probe.shape, position_m)
        if any(tilt_rad):
            axis = (np.arange(len(self.probe)) - len(self.probe) // 2) * (
                2j * np.pi * self.probe_pixel_m / self.settings.wavelength_m
            )
            turned = np.exp(axis * tilt_rad[0])[:, None] * np.exp(axis * tilt_rad[1])
            exit_wave = (exit_wave * turned).astype(np.complex64)
        intensity = self._propagator.intensity(exit_wave) * np.float32(self.settings.photons_per_second)
        intensity.flags.writeable = False
        return intensity

    def truth_object(self, pixel_m: float, size: int) -> NDArray[np.complex64]:
        """(size, size) complex64 transmission averaged over pixels of `pixel_m`; the origin at index size//2."""
        return self.sample.transmission(pixel_m, (size, size))

    def truth_probe(self, pixel_m: float, size: int) -> NDArray[np.complex64]:
        """(size, size) complex64 illumination on any pitch, sum of |P|^2 = 1 if it fits, axis at index size//2."""
        return self.settings.illumination.field(pixel_m, size)


def build_bench(
    settings: BenchSettings, sample: Sample, clock: Clock, seed: int
) -> tuple[SimulatedCamera, SimulatedStage, SimulatedLight, Bench]:
    """A bench and its devices, closed and unhomed. All noise follows from `seed`, at least 0."""
    light = SimulatedLight()
    stage = SimulatedStage(settings.stage, clock, seed)
    bench = Bench(settings, sample, stage.carriage, light, clock)
    sensor = settings.sensor.with_hot_pixels(settings.hot_pixels, np.random.default_rng([seed, _SEED_DOMAIN]))
    camera = SimulatedCamera(
        scene=bench,
        sensor=sensor,
        pixel_size_m=settings.pixel_size_m,
        exposure_s=Interval(settings.min_exposure_s, settings.max_exposure_s, "s"),
        overhead_s=settings.frame_overhead_s,
        clock=clock,
        seed=seed,
        gain_db=settings.gain_db,
        region=settings.region,
        region_step=settings.region_step,
    )
    return camera, stage, light, bench
