"""One axis during a motion: whether it has arrived, and what is wrong when it has not."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.apt_link import AptLink
from drivers.apt_watch import AxisState
from drivers.base import MotionError

LAG_S = 0.1
"""For so long after a command the status tells what it was before."""
STALL_S = 0.6
"""A counter that has stood still for so long during a motion: the axis is stalled."""
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
    """An axis during a motion: what it was before, and since when its counter stands still."""

    def __init__(self, axis: Axis, now: float, target: int | None):
        self.axis = axis
        self.before = axis.state
        self.target = target
        self._last = (self.before.position, now, self.before.updates)

    def still_for(self, since: float = 0.0) -> float:
        """Seconds without a change of its counter, after `since`. Only what was heard counts, silence does not."""
        state = self.axis.state
        if state.position != self._last[0]:
            self._last = (state.position, state.time, state.updates)
        if state.updates - self._last[2] < FEW:
            return 0.0
        return state.time - max(self._last[1], since)

    def arrived(self, device: str, step_m: float) -> bool:
        """Whether an axis has ended as it should. Raises `MotionError` when it has ended otherwise, or hangs."""
        axis, target = self.axis, self.target
        state, before = axis.state, self.before
        still = self.still_for()
        # Without its message (a byte was lost) an end counts once the lag of the status is surely over.
        sure = still > STALL_S and not state.moving
        if target is None:
            # The bits are at first those before the command, "homed" among them: it needs the message, and a status
            # from after it.
            told = state.homings > before.homings and state.time > state.homed_time + LAG_S
            if (told or sure) and state.homed and not state.homing:
                return True
        elif (state.completed > before.completed or sure) and state.position == target:
            return True
        here = f"{state.position * step_m:.6g} m"
        goal = "its reference" if target is None else f"{target * step_m:.6g} m"
        # An end elsewhere counts once the axis stands: it might be the late news of an earlier motion. At its reference
        # an axis stands too, and its own news may be late: there it takes as long as an end without any.
        if state.stopped > before.stopped and still > (STALL_S if target is None else STANDING_S):
            why = "at a limit switch" if state.at_switch else "by its controller"
            raise MotionError(
                device, f"{axis.name} was stopped {why} at {here} on its way to {goal}; look at it, then home it"
            )
        if target is not None and state.completed > before.completed and still > STANDING_S:
            why = " at a limit switch" if state.at_switch else ""
            raise MotionError(
                device,
                f"{axis.name} arrived at {here}{why} instead of {goal}, {state.position - target:+d} microsteps; look "
                "at it, then home it",
            )
        if still > STALL_S and state.position != target:
            raise MotionError(
                device,
                f"{axis.name} is stalled at {here} on its way to {goal}, its counter stands still for {STALL_S:g} s; "
                "look at it, then home it",
            )
        return False
