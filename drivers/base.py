"""What a bench is made of: camera, stage and light as protocols, their limits, and the errors they raise.

Everything is in SI units. Positions are (y, x) displacements of the stage's carriage in its own frame; the map to the
object (the sample moves, so object position = -displacement) belongs to the profile, not to the device.

Nothing here moves on opening or connecting; limits raise `LimitError` and never clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Cancel = Callable[[], bool]
"""Asked by long device calls several times a second; true means: stop what moves and raise `Cancelled`."""


def never() -> bool:
    """The `Cancel` of a call that nobody interrupts."""
    return False


class InstrumentError(Exception):
    """A device failed. The message is one line: device, what failed, the value and the limit, what to do."""

    def __init__(self, device: str, message: str):
        super().__init__(f"{device}: {message}")
        self.device = device


class LimitError(InstrumentError):
    """A value outside a device's limits was asked for; nothing was sent to the device."""


class NotReadyError(InstrumentError):
    """The device is closed, not homed, or otherwise not in a state to do what was asked."""


class DeviceTimeout(InstrumentError):
    """The device did not answer or finish in the time that the operation can take."""


class MotionError(InstrumentError):
    """The stage ended elsewhere than it was sent: stalled, at a limit switch, or counted wrong; it has been stopped."""


class ConnectionLost(InstrumentError):
    """The device is gone: unplugged, silent, or sending nonsense."""


class AcquisitionError(InstrumentError):
    """A frame was exposed but did not arrive intact, also after one retry."""


class OperatorNeeded(InstrumentError):
    """Something only a person can do is needed and nobody is there to be asked."""


class Cancelled(InstrumentError):
    """The operation was cancelled by its caller; whatever moved has been stopped."""


@dataclass(frozen=True)
class Interval:
    """A closed range of a physical quantity.

    Attributes:
        low, high: the bounds, in `unit`.
        unit: SI symbol for messages.
    """

    low: float
    high: float
    unit: str

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"empty interval: {self.low} > {self.high} {self.unit}")

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high

    def require(self, value: float, device: str, quantity: str) -> None:
        """Raise `LimitError` unless low <= value <= high (NaN is refused)."""
        if not self.contains(value):
            raise LimitError(
                device,
                f"{quantity} {value:.6g} {self.unit} is outside {self.low:.6g} .. {self.high:.6g} {self.unit}; "
                "nothing was sent, choose a value inside",
            )


@dataclass(frozen=True)
class StagePosition:
    """A displacement of the stage, (y, x) in metres."""

    y: float
    x: float

    def as_tuple(self) -> tuple[float, float]:
        return (self.y, self.x)

    def distance_to(self, other: StagePosition) -> float:
        """Euclidean distance, metres."""
        return float(np.hypot(self.y - other.y, self.x - other.x))


@dataclass(frozen=True)
class Region:
    """The part of a sensor that is read out, in pixels.

    Attributes:
        top, left: first row and column, counted from the sensor's corner.
        rows, columns: its size, which is the shape of a frame.
    """

    top: int
    left: int
    rows: int
    columns: int

    @classmethod
    def centred(cls, sensor_shape: tuple[int, int], shape: tuple[int, int]) -> Region:
        """The region of `shape` in the middle of a sensor."""
        return cls((sensor_shape[0] - shape[0]) // 2, (sensor_shape[1] - shape[1]) // 2, *shape)

    @property
    def shape(self) -> tuple[int, int]:
        return (self.rows, self.columns)

    def inside(self, sensor_shape: tuple[int, int]) -> bool:
        """Whether it lies on the sensor and is not empty."""
        rows, columns = sensor_shape
        return (
            self.top >= 0
            and self.left >= 0
            and self.rows > 0
            and self.columns > 0
            and self.top + self.rows <= rows
            and self.left + self.columns <= columns
        )


@dataclass(frozen=True)
class CameraInfo:
    """What a camera is; read from the device where it knows.

    Attributes:
        model, serial: identity, stored with the run.
        sensor_shape: (rows, columns) of the whole sensor.
        region: what is read out of it at present.
        pixel_size_m: pitch, the same in both directions.
        bit_depth: of the digital numbers; saturation is 2**bit_depth - 1.
        electrons_per_adu: conversion gain at the present gain setting.
        black_level_adu: nominal offset of a dark frame.
        gain_db: analogue gain.
        exposure_s: exposures it accepts.
        simulated: true when no light falls on any silicon.
    """

    model: str
    serial: str
    sensor_shape: tuple[int, int]
    region: Region
    pixel_size_m: float
    bit_depth: int
    electrons_per_adu: float
    black_level_adu: float
    gain_db: float
    exposure_s: Interval
    simulated: bool

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the frames that it delivers."""
        return self.region.shape

    @property
    def saturation_adu(self) -> int:
        return 2**self.bit_depth - 1


@dataclass(frozen=True)
class Exposure:
    """One frame as the camera delivered it.

    Attributes:
        image: (rows, columns) uint16, raw digital numbers.
        exposure_s: the exposure that really took place, where the camera tells; else the one it accepted.
        time: seconds since the epoch at the end of the exposure.
    """

    image: NDArray[np.uint16]
    exposure_s: float
    time: float


@dataclass(frozen=True)
class StageInfo:
    """What a stage is.

    Attributes:
        model, serial: identity, stored with the run.
        y_m, x_m: soft limits of the displacement on each axis; inside the travel.
        velocity_m_s, acceleration_m_s2: of the programmed profile, for estimates and time-outs.
        step_m: smallest commanded step.
        settling_s: wait after arrival before the stage counts as still.
        simulated: true when nothing moves.
    """

    model: str
    serial: str
    y_m: Interval
    x_m: Interval
    velocity_m_s: float
    acceleration_m_s2: float
    step_m: float
    settling_s: float
    simulated: bool

    def axes(self, place: StagePosition) -> tuple[tuple[str, float, Interval], ...]:
        """Name, coordinate and soft limits of each axis."""
        return (("y", place.y, self.y_m), ("x", place.x, self.x_m))

    def within(self, value: float, limit: Interval) -> bool:
        """Whether a coordinate lies inside its soft limits.

        Half a microstep beyond them is inside still: limits are no whole microsteps, so a place at one of them may be
        counted as the microstep next to it, and whoever moves on along the other axis asks for that very place.
        """
        return limit.low - self.step_m / 2 <= value <= limit.high + self.step_m / 2

    def require(self, target: StagePosition, device: str = "stage") -> None:
        """Raise `LimitError` unless the target lies inside both soft limits."""
        for axis, value, limit in self.axes(target):
            if not self.within(value, limit):
                limit.require(value, device, f"{axis} position")

    def microsteps(self, target: StagePosition) -> tuple[int, int]:
        """(y, x) whole microsteps next to a target that `require` lets pass, none of them beyond a soft limit."""
        y, x = (self._inwards(round(value / self.step_m), limit) for _, value, limit in self.axes(target))
        return y, x

    def _inwards(self, steps: int, limit: Interval) -> int:
        if steps * self.step_m > limit.high:
            return steps - 1
        return steps + 1 if steps * self.step_m < limit.low else steps

    def move_duration_s(self, start: StagePosition, end: StagePosition) -> float:
        """Time of a move with a trapezoidal profile; the axes move together and the longer one counts."""

        def axis(distance: float) -> float:
            v, a = self.velocity_m_s, self.acceleration_m_s2
            if distance <= 0:
                return 0.0
            if distance < v * v / a:
                return float(2 * np.sqrt(distance / a))
            return distance / v + v / a

        return max(axis(abs(end.y - start.y)), axis(abs(end.x - start.x)))


class LightState(StrEnum):
    BLOCKED = "blocked"
    OPEN = "open"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class TriggerSettings:
    """What a camera's next frame will be exposed with, as the camera accepted it.

    Attributes:
        exposure_s, gain_db, black_level_adu, region: as read back from the camera.
        live: a frame of a live view, which comes at the camera's own pace; false for a triggered one.
        repeated: the frame before did not arrive intact and is exposed once more.
        cancel: asked during a long exposure.
    """

    exposure_s: float
    gain_db: float
    black_level_adu: float
    region: Region
    live: bool = False
    repeated: bool = False
    cancel: Cancel = never


class CameraWire(Protocol):
    """What stands in for the light on a vendor's emulated camera; always called in the thread that uses the camera."""

    def connect(self) -> None:
        """The driver is about to look for cameras."""
        ...

    def attach(self, device: Any) -> None:
        """The vendor's open device, before the driver has set anything."""
        ...

    def before_trigger(self, settings: TriggerSettings) -> None:
        """Bring the frame that the next trigger exposes; returns early when cancelled."""
        ...

    def disconnect(self) -> None:
        """The device is closed or could not be opened; may be called twice."""
        ...


Facts = Mapping[str, str]
"""What a device says of itself, name to value with its unit: firmware, ranges, temperature, settings."""


@runtime_checkable
class Camera(Protocol):
    """A triggered camera. Open before use, close when done; both may be called twice.

    It either takes triggered frames (`acquire`) or shows live ones (`start_live` .. `stop_live`); mixing them raises
    `NotReadyError`. Opening sets everything automatic off and reads back what was set.
    """

    def open(self) -> None: ...

    def close(self) -> None: ...

    @property
    def info(self) -> CameraInfo:
        """Valid once open."""
        ...

    def set_exposure(self, seconds: float) -> float:
        """Set the exposure and return the one the camera accepted. Raises `LimitError`, `NotReadyError`."""
        ...

    def acquire(self, cancel: Cancel = never) -> Exposure:
        """Trigger and return one frame exposed entirely after this call.

        Raises: `DeviceTimeout`, `AcquisitionError`, `ConnectionLost`, `NotReadyError`, `Cancelled`.
        """
        ...

    def set_region(self, region: Region) -> Region:
        """Read out this part of the sensor from now on; returns the accepted region.

        Raises: `LimitError` for a region that is not on the sensor or not on its increments (the message names the
        nearest legal one), `NotReadyError` while live.
        """
        ...

    def start_live(self) -> None:
        """Expose without pause and keep the newest frame only. Raises `NotReadyError`, `ConnectionLost`."""
        ...

    def newest(self, timeout_s: float) -> Exposure | None:
        """The newest live frame, if one has come since the last call or comes within the time; else None.

        Raises: `NotReadyError` when not live, `ConnectionLost`, `AcquisitionError`.
        """
        ...

    def stop_live(self) -> None:
        """End live view; does nothing when there is none."""
        ...

    def describe(self) -> Facts:
        """All that the camera can say of itself, for `check` and for the run's file. Raises `NotReadyError`."""
        ...


@runtime_checkable
class HasNodeMap(Protocol):
    """A camera that can list every setting it has."""

    def node_map(self) -> str:
        """All that can be read, as one JSON object, name to text. Raises `NotReadyError`, `ConnectionLost`."""
        ...


@runtime_checkable
class Stage(Protocol):
    """A two-axis stage. Opening never moves or homes it."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    @property
    def info(self) -> StageInfo:
        """Valid once open."""
        ...

    @property
    def homed(self) -> bool:
        """Whether positions are referenced; moves are refused until then."""
        ...

    def position(self) -> StagePosition:
        """Present position as the controller counts it. Raises `NotReadyError`, `ConnectionLost`."""
        ...

    def home(self, cancel: Cancel = never) -> None:
        """Seek the reference, blocking. Raises `MotionError`, `DeviceTimeout`, `ConnectionLost`, `Cancelled`."""
        ...

    def move_to(self, target: StagePosition, cancel: Cancel = never) -> StagePosition:
        """Move, wait for arrival and settling, return the position read back.

        Raises: `LimitError` before anything is sent, `NotReadyError` when not homed, `MotionError`, `DeviceTimeout`,
        `ConnectionLost`, `Cancelled` (then the stage has been stopped).
        """
        ...

    def stop(self) -> None:
        """Stop both axes now. Never raises because nothing moves; safe from any thread."""
        ...

    def describe(self) -> Facts:
        """All that the controller can say of itself, for `check` and for the run's file. Raises `NotReadyError`."""
        ...


@runtime_checkable
class Light(Protocol):
    """The beam on or off the sample: a shutter, a person, or a simulated beam."""

    def open(self) -> None: ...

    def close(self) -> None: ...

    @property
    def state(self) -> LightState: ...

    def block(self) -> None:
        """Block the beam. Raises `OperatorNeeded` when it takes a person and there is none."""
        ...

    def unblock(self) -> None:
        """Let the beam through. Raises as `block`."""
        ...

    def describe(self) -> Facts:
        """What blocks the beam, for `check` and for the run's file."""
        ...
