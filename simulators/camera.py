"""The simulated camera: exposes the bench through the sensor and takes as long as the exposure."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from drivers.base import CameraInfo, Cancel, Cancelled, Clock, Exposure, Interval, NotReadyError, never
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


@runtime_checkable
class SeededCamera(Protocol):
    """What a camera has besides when its noise can be chosen, so that a resumed or repeated run takes the same frames.

    Whoever runs a plan asks `isinstance(camera, SeededCamera)` and, if so, calls `seed_next` before each frame. It is
    no subclass of `Camera`, because that check would then read `info`, which a closed camera refuses.
    """

    def seed_next(self, stream_code: int, index: int) -> None:
        """The next frame's noise is that of (seed, stream_code, index), both at least 0; then index counts on."""
        ...


class SimulatedCamera:
    """A triggered camera made of numbers. Implements `drivers.base.Camera` and `SeededCamera`.

    The accepted exposure is the requested one. The scene is looked at when the exposure begins: nothing blurs.

    Args:
        scene: what it sees.
        sensor: how it counts.
        pixel_size_m: pitch.
        exposure_s: exposures it accepts.
        overhead_s: time for trigger and read-out, per frame.
        clock: where time comes from.
        seed: of the noise.
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
    ):
        self._scene = scene
        self._sensor = sensor
        self._pixel_size_m = pixel_size_m
        self._limits = exposure_s
        self._overhead_s = overhead_s
        self._clock = clock
        self._seed = seed
        self._name = name
        self._opened = False
        self._exposure_s = float(np.clip(DEFAULT_EXPOSURE_S, exposure_s.low, exposure_s.high))
        self._stream_code = 0
        self._index = 0

    def open(self) -> None:
        self._opened = True

    def close(self) -> None:
        self._opened = False

    @property
    def info(self) -> CameraInfo:
        self._require_open()
        return CameraInfo(
            model="simulated camera",
            serial=f"sim-{self._seed}",
            shape=self._sensor.shape,
            pixel_size_m=self._pixel_size_m,
            bit_depth=self._sensor.bit_depth,
            electrons_per_adu=self._sensor.electrons_per_adu,
            black_level_adu=self._sensor.black_level_adu,
            exposure_s=self._limits,
            simulated=True,
        )

    def set_exposure(self, seconds: float) -> float:
        """Set the exposure and return it. Raises `LimitError`, `NotReadyError`."""
        self._require_open()
        self._limits.require(seconds, self._name, "exposure")
        self._exposure_s = float(seconds)
        return self._exposure_s

    def seed_next(self, stream_code: int, index: int) -> None:
        """Choose the next frame's noise; see `SeededCamera`."""
        self._stream_code, self._index = stream_code, index

    def acquire(self, cancel: Cancel = never) -> Exposure:
        """Expose one frame. Raises `NotReadyError`, `Cancelled`."""
        self._require_open()
        exposure_s = self._exposure_s
        intensity = self._scene.intensity()
        self._wait(exposure_s, cancel)
        time = self._clock.now()
        self._wait(self._overhead_s, cancel)
        rng = np.random.default_rng([self._seed, _SEED_DOMAIN, self._stream_code, self._index])
        self._index += 1
        return Exposure(self._sensor.expose(intensity, exposure_s, rng), exposure_s, time)

    def _wait(self, duration: float, cancel: Cancel) -> None:
        begin = self._clock.monotonic()
        while (left := duration - (self._clock.monotonic() - begin)) > 0:
            if cancel():
                raise Cancelled(self._name, f"an exposure of {self._exposure_s:.6g} s was cancelled; expose again")
            # At least a nanosecond: a slice that rounding swallows would never end a wait in virtual time.
            self._clock.sleep(max(min(SLICE_S, left), 1e-9))

    def _require_open(self) -> None:
        if not self._opened:
            raise NotReadyError(self._name, "is closed; open it first")
