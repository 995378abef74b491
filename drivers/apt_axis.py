"""One axis during a motion: whether it has arrived, and what is wrong when it has not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from drivers.apt_link import AptLink
from drivers.apt_watch import AxisState
from drivers.base import DeviceTimeout, MotionError

LAG_S = 0.1
"""For so long after a command the status tells what it was before."""
STALL_S = 0.6
"""A counter that has stood still for so long during a motion: the axis is stalled."""
PAUSE_S = 2.0
"""A counter that has stood still for so long while the axis homes, after its time: longer than it waits at a switch."""
STANDING_S = 0.2
"""A counter that has stood still for so long, longer than the lag: the axis stands where it says."""
FEW = 3
"""Fewer statuses prove nothing about a counter that seems to stand still."""


@dataclass(frozen=True)
class Axis:
    """One axis: where it is connected."""

    name: str
    link: AptLink
    index: int

    @property
    def state(self) -> AxisState:
        return self.link.state(self.index)


class Watched:
    """An axis during a motion: what it was before, since when its counter stands still, and whether it homes.

    Args:
        axis: which.
        now: time of the command.
        target: microsteps; None for its reference.
        soon_s: how long the motion takes from where its counter says it is.
        longest_s: how long it may take at most, for an axis that has lost steps and is still under way.
    """

    def __init__(self, axis: Axis, now: float, target: int | None, soon_s: float, longest_s: float):
        self.axis = axis
        self.before = axis.state
        self.target = target
        self._began = now
        self._soon_s = soon_s
        self._longest_s = longest_s
        self._begun = False
        self._fresh = not self.before.homed
        self._last = (self.before.position, now, self.before.updates)

    def still_for(self, since: float = 0.0) -> float:
        """Seconds without a change of its counter, after `since`. Only what was heard counts, silence does not."""
        state = self.axis.state
        if state.position != self._last[0]:
            self._last = (state.position, state.time, state.updates)
        if state.updates - self._last[2] < FEW:
            return 0.0
        return state.time - max(self._last[1], since)

    def require_in_time(self, device: str, step_m: float, what: str, now: float) -> None:
        """Raise `MotionError` (a homing that stands still) or `DeviceTimeout` when it ought to have ended by now."""
        homing = self.target is None
        stands = self.still_for() > (PAUSE_S if homing else STALL_S)
        allowed = self._soon_s if stands else self._longest_s
        if now - self._began <= allowed:
            return
        if homing and stands:
            raise MotionError(
                device,
                f"{self.axis.name} is stalled at {self._here(step_m)} on its way to its reference, homing has not "
                f"ended within {allowed:.3g} s and its counter stands still; look at it, then home it",
            )
        raise DeviceTimeout(
            device, f"{what} of {self.axis.name} has not ended within {allowed:.3g} s; look at the stage, then home"
        )

    def arrived(self, device: str, step_m: float) -> bool:
        """Whether an axis has ended as it should. Raises `MotionError` when it has ended otherwise, or hangs."""
        if self.target is None:
            return self._homed(device, step_m)
        axis, target = self.axis, self.target
        state, before = axis.state, self.before
        still = self.still_for()
        completed = state.completed > before.completed
        # Without its message (a byte was lost) an end counts once the lag of the status is surely over.
        if state.position == target and (completed or (still > STALL_S and not state.moving)):
            return True
        here, goal = self._here(step_m), f"{target * step_m:.6g} m"
        # An end elsewhere counts once the axis stands: it might be the late news of an earlier motion.
        if state.stopped > before.stopped and still > STANDING_S:
            self._raise_stopped(device, step_m, goal)
        if completed and still > STANDING_S:
            why = " at a limit switch" if state.at_switch else ""
            raise MotionError(
                device,
                f"{axis.name} arrived at {here}{why} instead of {goal}, {state.position - target:+d} microsteps; look "
                "at it, then home it",
            )
        if still > STALL_S and state.position != target:
            self._raise_stalled(device, step_m, goal)
        return False

    def _homed(self, device: str, step_m: float) -> bool:
        """`arrived` for homing."""
        state, before, name = self.axis.state, self.before, self.axis.name
        still = self.still_for()
        self._begun = self._begun or state.homing or state.moving
        # "Homed" means nothing before it was otherwise: the bits are at first those before the command, and stay so
        # when the controller has not heard it.
        self._fresh = self._fresh or state.homing or not state.homed
        # It needs the message and a status from after it.
        told = state.homings > before.homings and state.time > state.homed_time + LAG_S
        # Without its message (a byte was lost) an end counts once the lag of the status is surely over.
        sure = still > STALL_S and not state.moving and self._fresh
        if (told or sure) and state.homed and not state.homing:
            return True
        # While it homes it may stand, at its switch for instance: that is the deadline's business. And news of its end
        # may be late, so that everything else takes as long as an end without any.
        if state.homing or still <= STALL_S:
            return False
        if state.stopped > before.stopped:
            self._raise_stopped(device, step_m, "its reference")
        if state.moving:
            self._raise_stalled(device, step_m, "its reference")
        what = "has stopped without finding its reference" if self._begun else "has not begun to home"
        raise MotionError(
            device, f"{name} {what}, it stands at {self._here(step_m)}; look at it and its controller, then home it"
        )

    def _raise_stopped(self, device: str, step_m: float, goal: str) -> NoReturn:
        why = "at a limit switch" if self.axis.state.at_switch else "by its controller"
        raise MotionError(
            device,
            f"{self.axis.name} was stopped {why} at {self._here(step_m)} on its way to {goal}; look at it, then home "
            "it",
        )

    def _raise_stalled(self, device: str, step_m: float, goal: str) -> NoReturn:
        raise MotionError(
            device,
            f"{self.axis.name} is stalled at {self._here(step_m)} on its way to {goal}, its counter stands still for "
            f"{STALL_S:g} s; look at it, then home it",
        )

    def _here(self, step_m: float) -> str:
        return f"{self.axis.state.position * step_m:.6g} m"
