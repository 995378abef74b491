"""A simulated pair of open-loop steppers: a controller made of numbers that drives a `Carriage`."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from drivers.base import Cancel, Cancelled, Facts, Interval, NotReadyError, StageInfo, StagePosition, never
from drivers.clock import Clock
from simulators.carriage import Carriage, StageSettings
from simulators.motion import Trapezoid

SLICE_S = 0.02
"""Longest sleep during a move: how soon a cancel is seen."""
HOMING_VELOCITY_M_S = 5e-4


class SimulatedStage:
    """A two-axis stage made of numbers. Implements `drivers.base.Stage`.

    It starts unhomed. A stop ends motion at once, without the way that braking takes. The random error of an arrival
    depends on the seed, the visit (`seed_visit`), the axis, the target and the direction of approach, and on nothing
    that happened before: a resumed run finds the same true positions, and so does a second move to the same place in
    the same visit. Real stages do not repeat so; a scan that means to return tells it by the number of the visit.

    Attributes:
        carriage: the mechanics it drives.
    """

    def __init__(self, settings: StageSettings, clock: Clock, seed: int, name: str = "stage"):
        self._settings = settings
        self._clock = clock
        self._name = name
        self.carriage = Carriage(settings, seed)
        self._step_m = self.carriage.step_m
        self._beyond_play = int(np.ceil(settings.backlash_m / self._step_m)) + 1
        self._lock = threading.Lock()
        self._moving = threading.Lock()
        self._stops = 0
        self._opened = False
        self._homed = False

    def open(self) -> None:
        self._opened = True

    def close(self) -> None:
        self.stop()
        self._opened = False

    @property
    def info(self) -> StageInfo:
        self._require_open()
        s = self._settings
        return StageInfo(
            model="simulated stage",
            serial=f"sim-{self.carriage.seed}",
            y_m=Interval(*s.limits_y_m, "m"),
            x_m=Interval(*s.limits_x_m, "m"),
            velocity_m_s=s.velocity_m_s,
            acceleration_m_s2=s.acceleration_m_s2,
            step_m=self._step_m,
            settling_s=s.settling_s,
            simulated=True,
        )

    @property
    def homed(self) -> bool:
        return self._homed

    def position(self) -> StagePosition:
        """What the controller counts, metres. Before homing it counts from where it was switched on."""
        self._require_open()
        y, x = self.carriage.counter * self._step_m
        return StagePosition(float(y), float(x))

    def true_displacement(self) -> NDArray[np.float64]:
        """(2,) float64 (y, x), metres: where the carriage really is, in the camera's axes. For the bench only."""
        return self.carriage.true_displacement()

    def seed_visit(self, visit: int) -> None:
        """Number the visit (0, 1, ..): arrivals from now on draw their random errors anew."""
        self.carriage.seed_visit(visit)

    def home(self, cancel: Cancel = never) -> None:
        """Run to the end of the rail at 0.5 mm/s and count from there.

        Raises: `NotReadyError`, `Cancelled` (then the stage is not homed).
        """
        self._require_open()
        with self._motion():
            stops = self._stops
            self._homed = False
            start, end = self.carriage.counter, -self.carriage.zero
            distance = np.abs(end - start) * self._step_m
            duration = float(distance.max()) / HOMING_VELOCITY_M_S

            def counter(elapsed: float) -> NDArray[np.int64]:
                way = np.minimum(elapsed * HOMING_VELOCITY_M_S, distance)
                return start + np.rint(np.sign(end - start) * way / self._step_m).astype(np.int64)

            self._run(counter, duration, cancel, stops, "homing")
            for axis in (0, 1):
                # The switch is left in the direction of growing displacement, far enough that no backlash remains.
                self.carriage.turn(axis, int(end[axis]) - self._beyond_play)
                self.carriage.turn(axis, int(end[axis]))
                self.carriage.reference(axis)
            self._homed = True

    def move_to(self, target: StagePosition, cancel: Cancel = never) -> StagePosition:
        """Move both axes together, settle, return the counter's position: the target on the grid of microsteps.

        Raises: `LimitError` and `NotReadyError` before anything moves; `Cancelled` when `cancel` says so or `stop` is
        called, with the stage standing where it was.
        """
        self.info.require(target, self._name)
        if not self._homed:
            raise NotReadyError(self._name, "is not homed, positions mean nothing; home it first")
        with self._motion():
            stops = self._stops
            start = self.carriage.counter
            end = np.array(self.info.microsteps(target), np.int64)
            v, a = self._settings.velocity_m_s, self._settings.acceleration_m_s2
            profiles = [Trapezoid(abs(int(d)) * self._step_m, v, a) for d in end - start]

            def counter(elapsed: float) -> NDArray[np.int64]:
                way = np.array([profile.travelled(elapsed) for profile in profiles])
                arrived = np.array([elapsed >= profile.duration for profile in profiles])
                there = start + np.rint(np.sign(end - start) * way / self._step_m).astype(np.int64)
                return np.where(arrived, end, there)

            self._run(counter, max(profile.duration for profile in profiles), cancel, stops, "the move")
            for axis in (0, 1):
                if end[axis] != start[axis]:
                    self.carriage.arrive(axis, upwards=bool(end[axis] > start[axis]))
            self._wait(self._settings.settling_s, cancel, stops, "settling")
            return self.position()

    def stop(self) -> None:
        """Stop both axes now: a running move ends with `Cancelled`. Never raises; safe from any thread."""
        with self._lock:
            self._stops += 1

    def describe(self) -> Facts:
        """What it simulates. Raises `NotReadyError`."""
        info, s = self.info, self._settings
        return {
            "model": info.model,
            "serial": info.serial,
            "homed": "yes" if self._homed else "no",
            "backlash": f"{s.backlash_m:.6g} m",
            "repeatability": f"{s.repeatability_m:.6g} m",
        }

    def _require_open(self) -> None:
        if not self._opened:
            raise NotReadyError(self._name, "is closed; open it first")

    def _motion(self) -> _Motion:
        return _Motion(self._moving, self._name)

    def _run(
        self, counter: Callable[[float], NDArray[np.int64]], duration: float, cancel: Cancel, stops: int, what: str
    ) -> None:
        """Let the counter follow its profile, and the carriage the counter, until the time is over."""
        begin = self._clock.monotonic()
        while (elapsed := self._clock.monotonic() - begin) < duration:
            self._advance(counter(elapsed), stops, what)
            self._pause(min(SLICE_S, duration - elapsed), cancel, stops, what)
        self._advance(counter(np.inf), stops, what)

    def _wait(self, duration: float, cancel: Cancel, stops: int, what: str) -> None:
        begin = self._clock.monotonic()
        while (elapsed := self._clock.monotonic() - begin) < duration:
            self._pause(min(SLICE_S, duration - elapsed), cancel, stops, what)

    def _pause(self, seconds: float, cancel: Cancel, stops: int, what: str) -> None:
        # Asked before the look at the stops: whoever is asked may take a while.
        if cancel() or self._stops != stops:
            raise self._stopped(what)
        # At least a microsecond: a slice that rounding swallows would never end a wait in virtual time.
        self._clock.sleep(max(seconds, 1e-6))

    def _advance(self, counter: NDArray[np.int64], stops: int, what: str) -> None:
        # Under the lock of `stop`: once that has returned, nothing turns any more.
        with self._lock:
            if self._stops != stops:
                raise self._stopped(what)
            for axis in (0, 1):
                self.carriage.turn(axis, int(counter[axis]))

    def _stopped(self, what: str) -> Cancelled:
        y, x = self.carriage.counter * self._step_m
        return Cancelled(
            self._name, f"{what} was stopped at y {y:.6g} m, x {x:.6g} m; move again when it is safe to do so"
        )


class _Motion:
    """Only one motion at a time: a second one is refused, not queued."""

    def __init__(self, lock: threading.Lock, name: str):
        self._lock = lock
        self._name = name

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise NotReadyError(self._name, "is moving for another caller; wait for it or stop it")

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
