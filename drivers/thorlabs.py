"""Two Thorlabs ZFS25B actuators as one stage: on a pair of KST101, or on two channels of a BSC20x.

The actuators are open-loop steppers: a position is a count of microsteps, and nobody sees a lost one. So the driver
believes little: a move has ended when the controller says so *and* counts the target, a controller that says nothing
is an error within a second, and whatever goes wrong stops both axes.

Opening writes all motion parameters and reads them back; it neither moves nor homes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields

from drivers.apt_axis import LAG_S, STANDING_S, Axis, Watched
from drivers.apt_link import AptLink
from drivers.apt_settings import AXES, MotionParameters, ThorlabsSettings
from drivers.base import (
    Cancel,
    Cancelled,
    ConnectionLost,
    DeviceTimeout,
    Facts,
    InstrumentError,
    Interval,
    LimitError,
    MotionError,
    NotReadyError,
    StageInfo,
    StagePosition,
    never,
)
from drivers.clock import Clock, SystemClock

MARGIN_S = 2.0
"""Grace beyond the computed duration of a motion."""
SLICE_S = 0.02
"""Longest wait before a cancel is asked for again."""
ENABLE_S = 3.0
_TOLERANCE = 1e-3
"""Relative: controllers round velocities and accelerations."""


class ThorlabsStage:
    """The stage. Implements `drivers.base.Stage`.

    Args:
        settings: how it is set.
        clock: where time comes from. It must run with real time: the controllers do.
        name: for messages.
        connect: opens a controller.
    """

    def __init__(
        self,
        settings: ThorlabsSettings,
        clock: Clock | None = None,
        name: str = "stage",
        connect: Callable[..., AptLink] = AptLink,
    ):
        self._settings = settings
        self._clock = clock or SystemClock()
        self._name = name
        self._connect = connect
        self._bell = threading.Condition()
        self._busy = threading.Lock()
        self._stops = 0
        self._links: tuple[AptLink, ...] = ()
        self._axes: tuple[Axis, ...] = ()

    def open(self) -> None:
        """Connect, write all motion parameters and read them back; moves nothing.

        Raises: `ConnectionLost`, `NotReadyError` (settings, another program, another model), `DeviceTimeout`.
        """
        if self._axes:
            return
        s = self._settings
        s.require_sense(self._name)
        links: list[AptLink] = []
        try:
            if s.controller == "kst101":
                for axis, address in zip(AXES, s.serials, strict=True):
                    name = f"{self._name} {axis}"
                    links.append(self._connect("kst101", address, (1,), self._clock, self._bell, name))
                axes = tuple(Axis(axis, link, 0) for axis, link in zip(AXES, links, strict=True))
            else:
                links.append(self._connect("bsc203", s.serials[0], s.channels, self._clock, self._bell, self._name))
                axes = tuple(Axis(axis, links[0], index) for index, axis in enumerate(AXES))
            for axis_ in axes:
                self._write_parameters(axis_)
        except BaseException:
            for link in links:
                link.close()
            raise
        # In this order: whoever sees links sees axes too.
        self._axes = axes
        self._links = tuple(links)

    def close(self) -> None:
        """Stop, disconnect, end the library's threads; a motion in progress ends with `Cancelled`."""
        self.stop()
        links, self._links = self._links, ()
        self._axes = ()
        for link in links:
            link.close()

    @property
    def info(self) -> StageInfo:
        links, s = self._require_open(), self._settings
        return StageInfo(
            model=" + ".join(link.identity.model for link in links),
            serial=" + ".join(link.identity.serial for link in links),
            y_m=Interval(*s.limits_y_m, "m"),
            x_m=Interval(*s.limits_x_m, "m"),
            velocity_m_s=s.velocity_m_s,
            acceleration_m_s2=s.acceleration_m_s2,
            step_m=s.step_m,
            settling_s=s.settling_s,
            simulated=s.simulated,
        )

    @property
    def homed(self) -> bool:
        """What the controllers say: not remembered, so a power cut counts. Raises as `position`."""
        return all(axis.state.homed for axis in self._require_alive())

    def position(self) -> StagePosition:
        """What the controllers count, a few milliseconds old. Raises `NotReadyError`, `ConnectionLost`."""
        y, x = (axis.state.position * self._settings.step_m for axis in self._require_alive())
        return StagePosition(y, x)

    def home(self, cancel: Cancel = never) -> None:
        """Seek the lower switches, both axes together, and count from there.

        An axis that stands still when it ought to have ended, by the way that its counter tells, is stalled; one that
        still moves may have lost steps and gets the time of the whole travel.

        Raises as `move_to`; an axis that had not arrived by then is not homed.
        """
        with self._motion() as stops:
            axes = self._require_alive()
            self._require_standing()
            times = {axis: self._homing_times(axis) for axis in axes}
            self._carry_out(dict.fromkeys(axes), times, cancel, stops, "homing")

    def move_to(self, target: StagePosition, cancel: Cancel = never) -> StagePosition:
        """Move both axes together, wait for arrival and settling; returns the counters' position.

        Raises:
            LimitError: before any byte is sent.
            NotReadyError: closed, not homed, moving already.
            MotionError: stalled, at a limit switch, or arrived elsewhere.
            DeviceTimeout, Cancelled. Whatever is raised, both axes have been stopped and stand.
            ConnectionLost: stop has been sent to both; one of them may not have heard it.
        """
        info = self.info
        info.require(target, self._name)
        with self._motion() as stops:
            if not self.homed:
                raise NotReadyError(self._name, "is not homed, positions mean nothing; home it first")
            self._require_standing()
            start = self.position()
            targets = self._targets(info, target)
            longest = 1.25 * info.move_duration_s(start, target)
            if self._settings.backlash_correction_m:
                slack = StagePosition(0.0, abs(self._settings.backlash_correction_m))
                longest += 2 * info.move_duration_s(StagePosition(0.0, 0.0), slack)
            self._carry_out(targets, dict.fromkeys(targets, (longest, longest)), cancel, stops, "the move")
            return self.position()

    def stop(self) -> None:
        """Stop both axes: the bytes leave within 50 ms. Never raises; safe from any thread."""
        with self._bell:
            self._stops += 1
            self._bell.notify_all()
        for link in self._links:
            with contextlib.suppress(InstrumentError):
                link.stop(self._settings.immediate_stop)

    def describe(self) -> Facts:
        """What the controllers are and how they stand. Raises `NotReadyError`, `ConnectionLost`."""
        axes, s, info = self._require_alive(), self._settings, self.info
        facts = {
            "model": info.model,
            "serial": info.serial,
            "homed": "yes" if all(axis.state.homed for axis in axes) else "no",
        }
        for axis in axes:
            who, state = axis.link.identity, axis.state
            facts[f"{axis.name} controller"] = f"{who.model} {who.serial}, firmware {who.firmware}, {axis.link.port}"
            facts[f"{axis.name} position"] = f"{state.position * s.step_m:.9f} m"
            facts[f"{axis.name} homed"] = "yes" if state.homed else "no"
            facts[f"{axis.name} motor current"] = "on" if state.enabled else "off"
            facts[f"{axis.name} limit switch"] = "closed" if state.at_switch else "open"
        for link in self._links:
            if link.reported:
                facts[f"{link.name} reported"] = f"{link.reported} errors, the last: {link.last_report}"
        facts["velocity"] = f"{s.velocity_m_s:.6g} m/s"
        facts["acceleration"] = f"{s.acceleration_m_s2:.6g} m/s^2"
        facts["homing"] = f"{s.homing_velocity_m_s:.6g} m/s, zero {s.homing_offset_m:.6g} m from the switch"
        facts["backlash correction"] = f"{s.backlash_correction_m:.6g} m"
        return facts

    def _require_open(self) -> tuple[AptLink, ...]:
        links = self._links
        if not links:
            raise NotReadyError(self._name, "is closed; open it first")
        return links

    def _require_alive(self) -> tuple[Axis, ...]:
        links, axes = self._require_open(), self._axes
        for link in links:
            link.check()
        if not axes:
            raise NotReadyError(self._name, "is closed; open it first")
        return axes

    def _require_standing(self) -> None:
        for axis in self._axes:
            if axis.state.moving or axis.state.homing:
                raise NotReadyError(self._name, f"{axis.name} is moving already; wait for it, or stop it")

    @contextmanager
    def _motion(self) -> Iterator[int]:
        """Only one motion at a time, a second one is refused; yields the number of stops so far."""
        if not self._busy.acquire(blocking=False):
            raise NotReadyError(self._name, "is moving for another caller; wait for it or stop it")
        try:
            yield self._stops
        finally:
            self._busy.release()

    def _write_parameters(self, axis: Axis) -> None:
        wanted = self._settings.parameters()
        axis.link.write_parameters(axis.index, wanted)
        found = axis.link.read_parameters(axis.index)
        for field in fields(MotionParameters):
            want, have = getattr(wanted, field.name), getattr(found, field.name)
            rounded = field.name.endswith("velocity") or field.name == "acceleration"
            if abs(have - want) > (_TOLERANCE * abs(want) if rounded else 0):
                raise InstrumentError(
                    self._name,
                    f"{axis.name} took {field.name} {have} instead of {want} (protocol units); set what the controller "
                    "accepts in [stage]",
                )

    def _targets(self, info: StageInfo, target: StagePosition) -> dict[Axis, int | None]:
        """Microsteps for each axis that has to move. Raises `LimitError`."""
        correction = self._settings.backlash_correction_m
        targets: dict[Axis, int | None] = {}
        for axis, (_, end, limit), steps in zip(self._axes, info.axes(target), info.microsteps(target), strict=True):
            if steps < axis.state.position and correction and not info.within(end - correction, limit):
                raise LimitError(
                    self._name,
                    f"{axis.name} position {end:.6g} m with the backlash correction of {correction:.6g} m is outside "
                    f"{limit.low:.6g} .. {limit.high:.6g} m; nothing was sent, choose a target farther inside or a "
                    "smaller stage.backlash_correction_m in the profile",
                )
            if steps != axis.state.position:
                targets[axis] = steps
        return targets

    def _homing_times(self, axis: Axis) -> tuple[float, float]:
        """Seconds from where its counter says it is, if that means anything, and from the end of its travel."""
        s = self._settings

        def seconds(way_m: float) -> float:
            way_m = 1.1 * way_m + 2 * s.homing_offset_m
            return way_m / s.homing_velocity_m_s + 2 * s.homing_velocity_m_s / s.acceleration_m_s2

        longest = seconds(s.travel_m)
        if not axis.state.homed:
            return longest, longest
        return min(longest, seconds(abs(axis.state.position) * s.step_m)), longest

    def _carry_out(
        self,
        targets: Mapping[Axis, int | None],
        times: Mapping[Axis, tuple[float, float]],
        cancel: Cancel,
        stops: int,
        what: str,
    ) -> None:
        """Begin the motion of these axes (to None: home), wait for its end and for settling.

        `times`: how long it takes from where the counter is, and at most, seconds.

        Whatever fails stops both axes and waits until they stand, before it is raised; a lost connection waits for
        nobody.
        """
        watched: list[Watched] = []
        try:
            self._enable(targets, cancel, stops, what)
            # Late news of an earlier motion are in before a status that is asked for now.
            for link in self._require_open():
                link.refresh()
            grace = LAG_S + MARGIN_S
            watched = [
                Watched(axis, self._clock.monotonic(), target, *(seconds + grace for seconds in times[axis]))
                for axis, target in targets.items()
            ]
            reported = [link.reported for link in self._links]
            for axis, target in targets.items():
                if target is None:
                    axis.link.home(axis.index)
                else:
                    axis.link.move(axis.index, target)
            while True:
                heard = self._heard()
                ended = [axis.arrived(self._name, self._settings.step_m) for axis in watched]
                if all(ended):
                    break
                self._require_no_report(reported, what)
                for each, done in zip(watched, ended, strict=True):
                    if not done:
                        each.require_in_time(self._name, self._settings.step_m, what, self._clock.monotonic())
                self._pause(heard, cancel, stops, what, watched)
            if None not in targets.values():
                self._settle(cancel, stops)
                self._require_arrived(targets)
        except Cancelled:
            raise
        except ConnectionLost as error:
            # Said at once: braking may take longer than the second within which it is to be known.
            self.stop()
            text = error.args[0].removeprefix(f"{error.device}: ")
            raise ConnectionLost(error.device, f"{text}; {what} may still be going on") from error
        except BaseException:
            self.stop()
            self._await_standstill(watched)
            raise

    def _enable(self, targets: Mapping[Axis, object], cancel: Cancel, stops: int, what: str) -> None:
        dead = [axis for axis in targets if not axis.state.enabled]
        for axis in dead:
            axis.link.enable(axis.index)
        deadline = self._clock.monotonic() + ENABLE_S
        while not all(axis.state.enabled for axis in dead):
            if self._clock.monotonic() > deadline:
                raise NotReadyError(self._name, "a motor takes no current; enable it at its controller")
            self._pause(self._heard(), cancel, stops, what, [])

    def _require_no_report(self, reported: list[int], what: str) -> None:
        for link, before in zip(self._links, reported, strict=False):
            if link.reported > before:
                raise MotionError(link.name, f"ended {what} with {link.last_report}; look at the controller")

    def _require_arrived(self, targets: Mapping[Axis, int | None]) -> None:
        step = self._settings.step_m
        for axis, target in targets.items():
            position = axis.state.position
            if target is not None and position != target:
                raise MotionError(
                    self._name,
                    f"{axis.name} has left its target {target * step:.6g} m for {position * step:.6g} m while "
                    "settling; is somebody at the controller's knob?",
                )

    def _settle(self, cancel: Cancel, stops: int) -> None:
        end = self._clock.monotonic() + self._settings.settling_s
        while (left := end - self._clock.monotonic()) > 0:
            self._require_not_stopped(cancel, stops, "settling", [])
            self._require_alive()
            self._clock.sleep(min(SLICE_S, left))

    def _heard(self) -> int:
        """How many messages have come from all controllers."""
        return sum(link.heard for link in self._links)

    def _pause(self, heard: int, cancel: Cancel, stops: int, what: str, watched: list[Watched]) -> None:
        """Wait until more has been heard than this, a moment at most. Raises `Cancelled` and `ConnectionLost`."""
        self._require_not_stopped(cancel, stops, what, watched)
        self._require_alive()
        with self._bell:
            self._bell.wait_for(lambda: self._stops != stops or self._heard() != heard, timeout=SLICE_S)

    def _require_not_stopped(self, cancel: Cancel, stops: int, what: str, watched: list[Watched]) -> None:
        if self._stops == stops and not cancel():
            return
        self.stop()
        if not self._await_standstill(watched):
            raise DeviceTimeout(self._name, f"{what} was stopped but the stage does not stand; switch it off")
        try:
            place = "at y {:.6g} m, x {:.6g} m".format(*self.position().as_tuple())
        except InstrumentError:
            place = "where it was"
        raise Cancelled(self._name, f"{what} was stopped {place}; move again when it is safe to do so")

    def _await_standstill(self, watched: list[Watched]) -> bool:
        """Wait until the axes that were moving stand, as far as one can know; raises nothing."""
        for link in dict.fromkeys(axis.axis.link for axis in watched):
            # Messages are obeyed in order: an answer to a question behind the stop says that the stop has been heard.
            with contextlib.suppress(InstrumentError):
                link.refresh()
        s, begin = self._settings, self._clock.monotonic()
        deadline = begin + s.velocity_m_s / s.acceleration_m_s2 + MARGIN_S
        while True:
            moving = []
            for axis in watched:
                try:
                    axis.axis.link.check()
                except ConnectionLost:
                    continue
                # The status says "not moving" right after a command, and news of an end may be that of an earlier one.
                if axis.axis.state.moving or axis.still_for(begin) < STANDING_S:
                    moving.append(axis)
            if not moving:
                return True
            if self._clock.monotonic() > deadline:
                return False
            with self._bell:
                self._bell.wait(SLICE_S)
