"""The simulated camera: exposes the bench through the sensor and takes as long as the exposure."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drivers.base import (
    CameraInfo,
    Cancel,
    Cancelled,
    Exposure,
    Facts,
    Interval,
    LimitError,
    NotReadyError,
    Region,
    never,
)
from drivers.clock import Clock
from simulators.sensor import Sensor

SLICE_S = 0.02
"""Longest sleep during an exposure: how soon a cancel is seen."""
DEFAULT_EXPOSURE_S = 0.01
_SEED_DOMAIN = 1


class Scene(Protocol):
    """What a camera looks at."""

    def intensity(self) -> NDArray[np.float32] | None:
        """(rows, columns) photons a pixel and second now, or None in the dark."""
        ...


class FrameSource:
    """Exposes a scene through a sensor; whoever delivers the frames, they are the same for the same seeds.

    Args:
        scene: what is seen.
        sensor: how it counts at 0 dB.
        seed: the noise of a frame is that of (seed, stream, index), all at least 0.
    """

    def __init__(self, scene: Scene, sensor: Sensor, seed: int):
        self.sensor = sensor
        self._scene = scene
        self._seed = seed
        self._stream_code = 0
        self._index = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of a frame."""
        return self.sensor.shape

    @property
    def bit_depth(self) -> int:
        return self.sensor.bit_depth

    def seed_next(self, stream_code: int, index: int) -> None:
        """The next frame's noise is that of (seed, stream_code, index); then index counts on."""
        self._stream_code, self._index = stream_code, index

    def look(self) -> NDArray[np.float32] | None:
        """(rows, columns) photons a pixel and second now, or None in the dark."""
        return self._scene.intensity()

    def expose(
        self,
        photons_per_second: NDArray[np.float32] | None,
        exposure_s: float,
        gain_db: float = 0.0,
        black_level_adu: float | None = None,
    ) -> NDArray[np.uint16]:
        """The next frame, (rows, columns) uint16, at this gain; without a black level the sensor's own."""
        rng = np.random.default_rng([self._seed, _SEED_DOMAIN, self._stream_code, self._index])
        self._index += 1
        return self.sensor.amplified(gain_db, black_level_adu).expose(photons_per_second, exposure_s, rng)


class SimulatedCamera:
    """A triggered camera made of numbers. Implements `drivers.base.Camera`.

    The accepted exposure is the requested one. The scene is looked at when the exposure begins: nothing blurs. Whoever
    runs a plan calls `seed_next` before each frame, so that a resumed or repeated run takes the same frames.

    Args:
        scene: what it sees.
        sensor: how it counts.
        pixel_size_m: pitch.
        exposure_s: exposures it accepts.
        overhead_s: time for trigger and read-out, per frame.
        clock: where time comes from.
        seed: of the noise.
        gain_db: analogue gain; the sensor's conversion gain is that of 0 dB.
        region: what is read out at first; the whole sensor without it.
        region_step: regions begin at multiples of so many pixels.

    Attributes:
        source: where its frames come from.
    """

    def __init__(
        self,
        scene: Scene,
        sensor: Sensor,
        pixel_size_m: float,
        exposure_s: Interval,
        overhead_s: float,
        clock: Clock,
        seed: int,
        name: str = "camera",
        gain_db: float = 0.0,
        region: Region | None = None,
        region_step: int = 1,
    ):
        self.source = FrameSource(scene, sensor, seed)
        self._sensor = sensor.amplified(gain_db)
        self._gain_db = gain_db
        self._pixel_size_m = pixel_size_m
        self._limits = exposure_s
        self._overhead_s = overhead_s
        self._clock = clock
        self._seed = seed
        self._name = name
        self._opened = False
        self._exposure_s = float(np.clip(DEFAULT_EXPOSURE_S, exposure_s.low, exposure_s.high))
        self._region = region or Region(0, 0, *sensor.shape)
        self._region_step = region_step
        self._live_due: float | None = None

    def open(self) -> None:
        self._opened = True

    def close(self) -> None:
        self._opened = False
        self._live_due = None

    @property
    def info(self) -> CameraInfo:
        self._require_open()
        return CameraInfo(
            model="simulated camera",
            serial=f"sim-{self._seed}",
            sensor_shape=self._sensor.shape,
            region=self._region,
            pixel_size_m=self._pixel_size_m,
            bit_depth=self._sensor.bit_depth,
            electrons_per_adu=self._sensor.electrons_per_adu,
            black_level_adu=self._sensor.black_level_adu,
            gain_db=self._gain_db,
            exposure_s=self._limits,
            simulated=True,
        )

    def set_exposure(self, seconds: float) -> float:
        """Set the exposure and return it. Raises `LimitError`, `NotReadyError`."""
        self._require_open()
        self._limits.require(seconds, self._name, "exposure")
        self._exposure_s = float(seconds)
        return self._exposure_s

    def set_region(self, region: Region) -> Region:
        """Read out this part from now on. Raises `LimitError`, `NotReadyError`."""
        self._require_open()
        self._require_idle()
        if not region.inside(self._sensor.shape):
            rows, columns = self._sensor.shape
            raise LimitError(
                self._name, f"{region} is not on the sensor of {rows} x {columns} pixels; choose one inside"
            )
        step = self._region_step
        if region.top % step or region.left % step:
            raise LimitError(
                self._name,
                f"a region at row {region.top}, column {region.left} is not on multiples of {step} pixels; the nearest "
                f"below is row {region.top // step * step}, column {region.left // step * step}",
            )
        self._region = region
        return region

    def seed_next(self, stream_code: int, index: int) -> None:
        """The next frame's noise is that of (seed, stream_code, index), both at least 0; then index counts on."""
        self.source.seed_next(stream_code, index)

    def acquire(self, cancel: Cancel = never) -> Exposure:
        """Expose one frame. Raises `NotReadyError`, `Cancelled`."""
        self._require_open()
        self._require_idle()
        intensity = self.source.look()
        self._wait(self._exposure_s, cancel)
        time = self._clock.now()
        self._wait(self._overhead_s, cancel)
        return self._expose(intensity, time)

    def start_live(self) -> None:
        """Expose without pause from now on. Raises `NotReadyError`."""
        self._require_open()
        self._live_due = self._clock.monotonic() + self._exposure_s + self._overhead_s

    def newest(self, timeout_s: float) -> Exposure | None:
        """The frame whose read-out has ended by now or ends within the time, else None. Raises `NotReadyError`."""
        self._require_open()
        if self._live_due is None:
            raise NotReadyError(self._name, "shows no live frames; start them first")
        left = self._live_due - self._clock.monotonic()
        self._clock.sleep(min(left, timeout_s))
        if left > timeout_s:
            return None
        self._live_due = self._clock.monotonic() + self._exposure_s + self._overhead_s
        return self._expose(self.source.look(), self._clock.now())

    def stop_live(self) -> None:
        """End live view."""
        self._live_due = None

    def describe(self) -> Facts:
        """What it simulates. Raises `NotReadyError`."""
        info, sensor = self.info, self._sensor
        return {
            "model": info.model,
            "serial": info.serial,
            "exposure range": f"{self._limits.low:.6g} .. {self._limits.high:.6g} s",
            "read noise": f"{sensor.read_noise_e:.6g} e-",
            "quantum efficiency": f"{sensor.quantum_efficiency:.6g}",
        }

    def _expose(self, intensity: NDArray[np.float32] | None, time: float) -> Exposure:
        image = self.source.expose(intensity, self._exposure_s, self._gain_db)
        region = self._region
        if region.shape != image.shape:
            image = image[region.top : region.top + region.rows, region.left : region.left + region.columns].copy()
        return Exposure(image, self._exposure_s, time)

    def _wait(self, duration: float, cancel: Cancel) -> None:
        begin = self._clock.monotonic()
        while (left := duration - (self._clock.monotonic() - begin)) > 0:
            if cancel():
                raise Cancelled(self._name, f"an exposure of {self._exposure_s:.6g} s was cancelled; expose again")
            # At least a nanosecond: a slice that rounding swallows would never end a wait in virtual time.
            self._clock.sleep(max(min(SLICE_S, left), 1e-9))

    def _require_idle(self) -> None:
        if self._live_due is not None:
            raise NotReadyError(self._name, "shows live frames; stop them first")

    def _require_open(self) -> None:
        if not self._opened:
            raise NotReadyError(self._name, "is closed; open it first")
