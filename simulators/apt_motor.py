"""One axis of an emulated APT controller: what the firmware does between two messages.

It knows no bytes and no clock: every call says what time it is, in seconds of the motor's own time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from simulators.apt_protocol import PARAMETERS, StatusBit
from simulators.carriage import Carriage
from simulators.motion import Braking, Trapezoid

VELOCITY_UNIT = 53.68
"""Protocol units of velocity per microstep/s."""
ACCELERATION_UNIT = 90.9
"""Microsteps/s^2 per protocol unit of acceleration."""
FOR_EVER = 2**30
"""Microsteps to nowhere in particular: until a switch ends the motion."""
SWITCH_IGNORED = 1
REVERSE = 2
IMMEDIATE = 1


class Ended(StrEnum):
    """How a motion ended, as the controller reports it."""

    COMPLETED = "completed"
    HOMED = "homed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with the next motion.

    Attributes:
        stalls: the counter stops advancing half way while the axis claims to move.
        ignores: it is not obeyed at all, without a word.
        misses: microsteps by which a move ends elsewhere and still claims to have arrived.
        switch: a limit switch closes half way of a move.
    """

    stalls: bool = False
    ignores: bool = False
    misses: int = 0
    switch: bool = False


@dataclass(frozen=True)
class _Leg:
    """A motion between two counters."""

    start: int
    end: int
    began: float
    profile: Trapezoid | Braking
    duration: float

    @property
    def direction(self) -> int:
        return (self.end > self.start) - (self.end < self.start)

    def counter(self, now: float) -> int:
        if now - self.began >= self.duration:
            return self.end
        way = min(round(self.profile.travelled(now - self.began)), abs(self.end - self.start))
        return self.start + self.direction * way


class Motor:
    """One stepper on one screw of the carriage.

    Args:
        carriage: what it turns.
        axis: which screw of it.
        reverse_switch, forward_switch: where the limit switches close, microsteps on the rail.
        lag_s: for how long after a command the status still tells what it was before, as real controllers do, which
            refresh it ten times a second; motor time.
        switch_pause_s: how long it stands at the switch before it leaves it again, homing; motor time.

    Attributes:
        parameters: what was set, by the names of `apt_protocol.PARAMETERS`.
        enabled: whether the motor has current; without it commands do nothing.
        homed: whether the counter is referenced.
        actuator: actuator type as it was set, 0 before.
        trouble: what the next motion will suffer, once.
    """

    def __init__(
        self,
        carriage: Carriage,
        axis: int,
        reverse_switch: int,
        forward_switch: int,
        lag_s: float = 0.0,
        switch_pause_s: float = 0.0,
    ):
        self._carriage = carriage
        self._axis = axis
        self._switches = (reverse_switch, forward_switch)
        self._lag_s = lag_s
        self._switch_pause_s = switch_pause_s
        self._pause_s = 0.0
        self.parameters = {name: dict(zip(b.fields, b.initial, strict=True)) for name, b in PARAMETERS.items()}
        self.enabled = False
        self.homed = False
        self.actuator = 0
        self.trouble: Trouble | None = None
        self._leg: _Leg | None = None
        self._waypoints: list[int] = []
        self._ending = Ended.COMPLETED
        self._homing = False
        self._begin: tuple[float, StatusBit] | None = None
        self._stall_at: float | None = None
        self._tripped = StatusBit(0)
        self._speed = (0.0, 0.0)
        self._start = 0

    @property
    def counter(self) -> int:
        """Where it says it is."""
        return int(self._carriage.counter[self._axis])

    @property
    def moving(self) -> bool:
        """Whether it really moves, whatever the status says."""
        return self._leg is not None

    @property
    def due(self) -> float | None:
        """When the present leg of the motion ends; None at rest or when it never will."""
        return None if self._leg is None or self._stall_at is not None else self._leg.began + self._leg.duration

    def bits(self, now: float) -> StatusBit:
        """What the status tells."""
        if self._begin is not None and now - self._begin[0] < self._lag_s:
            return self._begin[1]
        return self._true_bits()

    def move_to(self, target: int, now: float) -> None:
        """Go there, by way of the backlash correction when the move is downwards."""
        velocity = self.parameters["velocity"]
        self._drive(target, velocity["maximum"], velocity["acceleration"], now)

    def jog(self, direction: int, now: float) -> None:
        """One jog step; direction 1 is forward, 2 reverse."""
        jog = self.parameters["jog"]
        step = -jog["step"] if direction == REVERSE else jog["step"]
        self._drive(self.counter + step, jog["maximum"], jog["acceleration"], now)

    def run(self, direction: int, now: float) -> None:
        """Go on until stopped or at a switch."""
        far = -FOR_EVER if direction == REVERSE else FOR_EVER
        velocity = self.parameters["velocity"]
        self._drive(self.counter + far, velocity["maximum"], velocity["acceleration"], now, correct=False)

    def home(self, now: float) -> None:
        """Seek the switch, leave it by the offset, count from there."""
        if self._ignores():
            return
        homing = self.parameters["homing"]
        sign = -1 if homing["direction"] == REVERSE else 1
        self._prepare(now)
        self._homing, self.homed = True, False
        self._ending = Ended.HOMED
        self._pause_s = self._switch_pause_s
        self._waypoints = [self.counter + sign * FOR_EVER, -sign * homing["offset"]]
        self._speed = self._units(homing["velocity"], self.parameters["velocity"]["acceleration"])
        trouble, self.trouble = self.trouble, None
        self._next_leg(now)
        if trouble is not None and trouble.stalls:
            self._stall_at = now + self._leg.duration / 2 if self._leg is not None else now

    def stop(self, now: float, immediate: bool) -> list[Ended]:
        """Stop; with the programmed acceleration unless at once. Returns what has ended."""
        events = self.advance(now)
        leg = self._leg
        if leg is None:
            return [*events, Ended.STOPPED]
        speed = 0.0 if self._stall_at is not None else leg.profile.velocity_at(now - leg.began)
        braking = Braking(speed, self._speed[1]) if speed > 0 and self._speed[1] > 0 else None
        self._waypoints = []
        self._ending = Ended.STOPPED
        self._stall_at = None
        if immediate or braking is None:
            return [*events, *self._finish()]
        # No farther than the leg: from a programmed profile the braking distance is never longer than what is left.
        way = min(round(braking.distance), abs(leg.end - self.counter))
        self._set_leg(leg.direction * way, braking, now)
        return events + self.advance(now)

    def count_from(self, counter: int) -> None:
        """Call the present place `counter`."""
        self._carriage.count_from(self._axis, counter)

    def advance(self, now: float) -> list[Ended]:
        """Turn the screw up to this time; returns the motions that have ended."""
        events: list[Ended] = []
        while (leg := self._leg) is not None:
            if self._stall_at is not None and now >= self._stall_at:
                self._turn(leg.counter(self._stall_at))
                break
            self._turn(leg.counter(now))
            if now - leg.began < leg.duration:
                break
            events += self._leg_ended(leg)
        return events

    def _leg_ended(self, leg: _Leg) -> list[Ended]:
        ended = leg.began + leg.duration
        if self._waypoints:
            if self._homing:
                # At the switch: the offset is counted from here.
                pause, self._pause_s = self._pause_s, 0.0
                if pause > 0:
                    self._leg = _Leg(self.counter, self.counter, ended, Braking(0.0, 1.0), pause)
                    return []
                self._waypoints[0] += self.counter
            self._next_leg(ended)
            return []
        return self._finish()

    def _finish(self) -> list[Ended]:
        if self._ending is Ended.COMPLETED and self.counter != self._start:
            leg = self._leg
            self._carriage.arrive(self._axis, upwards=leg is not None and leg.direction > 0)
        elif self._ending is Ended.HOMED:
            self._carriage.reference(self._axis)
            self.homed = True
        self._leg, self._homing, self._begin = None, False, None
        return [self._ending]

    def _ignores(self) -> bool:
        if self.trouble is None or not self.trouble.ignores:
            return False
        self.trouble = None
        return True

    def _drive(self, target: int, velocity: int, acceleration: int, now: float, correct: bool = True) -> None:
        if self._ignores():
            return
        self._prepare(now)
        trouble, self.trouble = self.trouble, None
        self._ending = Ended.COMPLETED
        correction = self.parameters["general"]["backlash_distance"] if correct else 0
        reverse = (target - self.counter) * (1 if correction > 0 else -1) < 0
        self._waypoints = [target - correction, target] if correction and reverse else [target]
        self._speed = self._units(velocity, acceleration)
        if trouble is not None:
            self._suffer(trouble)
        self._next_leg(now)
        if trouble is not None and trouble.stalls:
            self._stall_at = now + self._leg.duration / 2 if self._leg is not None else now

    def _suffer(self, trouble: Trouble) -> None:
        self._waypoints[-1] += trouble.misses
        if trouble.switch:
            forward = self._waypoints[0] > self.counter
            self._waypoints = [(self.counter + self._waypoints[0]) // 2]
            self._ending = Ended.STOPPED
            self._tripped = StatusBit.FORWARD_SWITCH if forward else StatusBit.REVERSE_SWITCH

    def _prepare(self, now: float) -> None:
        """A new command replaces the motion in progress, which ends where it is."""
        self.advance(now)
        self._leg, self._homing, self._stall_at = None, False, None
        self._tripped = StatusBit(0)
        self._begin = (now, self._true_bits())
        self._start = self.counter

    def _next_leg(self, now: float) -> None:
        target = self._waypoints.pop(0)
        profile = Trapezoid(float(abs(target - self.counter)), *self._speed)
        self._set_leg(target - self.counter, profile, now)

    def _set_leg(self, way: int, profile: Trapezoid | Braking, now: float) -> None:
        """Begin a leg; a switch on the way ends it there, and with it the motion, unless that is what it seeks."""
        start = self.counter
        end = self._before_switch(start, start + way)
        duration = profile.duration
        if end != start + way:
            duration = profile.time_at(abs(end - start))
            if not self._homing:
                self._waypoints = []
                self._ending = Ended.STOPPED
        self._leg = _Leg(start, end, now, profile, duration)

    def _before_switch(self, start: int, end: int) -> int:
        zero = int(self._carriage.zero[self._axis])
        reverse, forward = (place - zero for place in self._switches)
        modes = self.parameters["switches"]
        if end > start and modes["forward"] != SWITCH_IGNORED:
            return max(start, min(end, forward))
        if end < start and modes["reverse"] != SWITCH_IGNORED:
            return min(start, max(end, reverse))
        return end

    def _turn(self, counter: int) -> None:
        if counter != self.counter:
            self._carriage.turn(self._axis, counter)

    def _true_bits(self) -> StatusBit:
        rail = self.counter + int(self._carriage.zero[self._axis])
        reverse, forward = self._switches
        bits = StatusBit.CONNECTED
        if self.enabled:
            bits |= StatusBit.ENABLED
        if self.homed:
            bits |= StatusBit.HOMED
        if self._homing:
            bits |= StatusBit.HOMING
        if rail >= forward:
            bits |= StatusBit.FORWARD_SWITCH
        if rail <= reverse:
            bits |= StatusBit.REVERSE_SWITCH
        leg = self._leg
        if leg is None:
            return bits | self._tripped
        if leg.direction == 0:
            return bits
        return bits | (StatusBit.MOVING_REVERSE if leg.direction < 0 else StatusBit.MOVING_FORWARD)

    @staticmethod
    def _units(velocity: int, acceleration: int) -> tuple[float, float]:
        """Microsteps/s and microsteps/s^2."""
        return velocity / VELOCITY_UNIT, acceleration * ACCELERATION_UNIT
