"""How a stage on Thorlabs controllers is set: in metres for people, in the protocol's units for controllers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from drivers.base import Interval, NotReadyError

ControllerKind = Literal["kst101", "bsc203"]
AXES = ("y", "x")
VELOCITY_UNIT = 53.68
"""Protocol units of velocity for one microstep/s."""
ACCELERATION_UNIT = 1 / 90.9
"""Protocol units of acceleration for one microstep/s^2."""


@dataclass(frozen=True)
class Actuator:
    """What may be asked of a motor and its screw; a stepper without an encoder that is driven harder loses its place.

    Attributes:
        name: of the model.
        travel_m: from one limit switch to the other, less the zero's distance from it.
        velocity_m_s, acceleration_m_s2: of any motion, homing included.
        microsteps_per_m: by the controllers that this driver knows.
    """

    name: str
    travel_m: float
    velocity_m_s: Interval
    acceleration_m_s2: Interval
    microsteps_per_m: Interval


ZFS25B = Actuator(
    name="ZFS25B",
    travel_m=25e-3,
    # Thorlabs' own settings for it are 1.5 mm/s and 1 mm/s^2, homing at 0.5 mm/s. Twice that speed and five times that
    # acceleration leave room to try; no data sheet's maxima were at hand, so ask before raising them.
    velocity_m_s=Interval(1e-6, 3e-3, "m/s"),
    acceleration_m_s2=Interval(1e-5, 5e-3, "m/s^2"),
    # 136,533,333 on the oldest controllers, 2,184,533,333 on a KST101 or BSC20x. Within these limits every number fits
    # the protocol's 32 bits.
    microsteps_per_m=Interval(1e8, 1e10, "1/m"),
)


@dataclass(frozen=True)
class MotionParameters:
    """All that shapes a motion, in the protocol's units.

    Attributes:
        minimum_velocity, velocity, homing_velocity: velocity units.
        acceleration: acceleration units.
        homing_direction, homing_switch: 2 and 1 seek the lower end and its switch.
        homing_offset, backlash: microsteps.
        forward_switch, reverse_switch: how limit switches are wired; 1 ignores them.
        soft_limits: 1: the controller has none of its own, the driver has.
    """

    minimum_velocity: int
    velocity: int
    acceleration: int
    homing_velocity: int
    homing_offset: int
    backlash: int
    forward_switch: int
    reverse_switch: int
    homing_direction: int = 2
    homing_switch: int = 1
    soft_limits: int = 1


@dataclass(frozen=True)
class ThorlabsSettings:
    """How the stage is set; names and units are those of the profile's section.

    Attributes:
        controller: "kst101" for one on each axis, or "bsc203" for one BSC20x.
        serials: serial numbers, or paths of ports: the KST101 of y and of x, or the one BSC20x.
        channels: BSC20x: channels of y and of x, counted from 1.
        limits_y_m, limits_x_m: soft limits, inside 0 .. travel.
        travel_m: of each actuator.
        velocity_m_s, acceleration_m_s2: of moves.
        homing_velocity_m_s, homing_offset_m: of homing: speed, and distance of the zero from the switch.
        settling_s: wait after arrival.
        microsteps_per_m: of the controller with this actuator; 2,184,533.33 a millimetre for a ZFS on these.
        backlash_correction_m: how far below its target the controller itself goes on downward moves before it comes
            back up; 0 for scans that approach from one side anyway.
        switch_mode: how the limit switches are wired: 2 makes, 3 breaks on contact; 1 would ignore them.
        immediate_stop: stop without braking: stands at once, but an open-loop stepper loses steps then, and every
            position after it is wrong until it is homed.
        simulated: the controllers are emulated ones.
        actuator: what all of this has to keep within.
    """

    limits_y_m: tuple[float, float]
    limits_x_m: tuple[float, float]
    serials: tuple[str, ...]
    controller: ControllerKind = "kst101"
    channels: tuple[int, int] = (1, 2)
    travel_m: float = 0.025
    velocity_m_s: float = 1.5e-3
    acceleration_m_s2: float = 1.0e-3
    homing_velocity_m_s: float = 5.0e-4
    homing_offset_m: float = 1.0e-4
    settling_s: float = 0.1
    microsteps_per_m: float = 2_184_533_333.0
    backlash_correction_m: float = 0.0
    switch_mode: int = 2
    immediate_stop: bool = False
    simulated: bool = False
    actuator: Actuator = ZFS25B

    @classmethod
    def gather(cls, section: Mapping[str, Any], **changes: Any) -> ThorlabsSettings:
        """The settings out of a mapping with these names, some of them changed; other names in it are left alone."""
        names = {field.name for field in fields(cls)}
        return cls(**({name: value for name, value in section.items() if name in names} | changes))

    @property
    def step_m(self) -> float:
        return 1.0 / self.microsteps_per_m

    def parameters(self) -> MotionParameters:
        """The same in the protocol's units."""
        return MotionParameters(
            minimum_velocity=0,
            velocity=round(self.velocity_m_s * self.microsteps_per_m * VELOCITY_UNIT),
            acceleration=round(self.acceleration_m_s2 * self.microsteps_per_m * ACCELERATION_UNIT),
            homing_velocity=round(self.homing_velocity_m_s * self.microsteps_per_m * VELOCITY_UNIT),
            homing_offset=round(self.homing_offset_m * self.microsteps_per_m),
            backlash=round(self.backlash_correction_m * self.microsteps_per_m),
            forward_switch=self.switch_mode,
            reverse_switch=self.switch_mode,
        )

    def require_sense(self, device: str) -> None:
        """Raise `NotReadyError` or `LimitError` when the settings contradict themselves; before any port is opened."""
        wanted = 2 if self.controller == "kst101" else 1
        if len(self.serials) != wanted or len(set(self.serials)) != wanted or not all(self.serials):
            raise NotReadyError(
                device,
                f"a {self.controller} stage needs {wanted} different serial number(s), got {list(self.serials)}; "
                "set stage.serials",
            )
        if self.controller == "bsc203" and (
            len(set(self.channels)) != 2 or not all(1 <= channel <= 3 for channel in self.channels)
        ):
            raise NotReadyError(device, f"channels {self.channels} must be two of 1, 2 and 3; set stage.channels")
        self._require_kind(device)
        travel = Interval(0.0, self.travel_m, "m")
        for axis, limits in zip(AXES, (self.limits_y_m, self.limits_x_m), strict=True):
            for limit in limits:
                travel.require(limit, device, f"{axis} soft limit")
        if self.switch_mode == 1:
            raise NotReadyError(device, "switch mode 1 ignores the limit switches and homing would never end; use 2")

    def _require_kind(self, device: str) -> None:
        """Raise `LimitError` when the actuator cannot do it."""
        actuator = self.actuator
        travel = Interval(0.0, actuator.travel_m, "m")
        for quantity, value, limits in (
            ("travel (stage.travel_m)", self.travel_m, travel),
            ("velocity (stage.velocity_m_s)", self.velocity_m_s, actuator.velocity_m_s),
            ("acceleration (stage.acceleration_m_s2)", self.acceleration_m_s2, actuator.acceleration_m_s2),
            ("homing velocity (stage.homing_velocity_m_s)", self.homing_velocity_m_s, actuator.velocity_m_s),
            ("homing offset (stage.homing_offset_m)", self.homing_offset_m, travel),
            ("backlash correction (stage.backlash_correction_m)", self.backlash_correction_m, travel),
            ("resolution (stage.microsteps_per_m)", self.microsteps_per_m, actuator.microsteps_per_m),
        ):
            limits.require(value, device, f"{actuator.name} {quantity}")
