"""What is known of an APT controller: its last words, and whether it still speaks. Knows no library and no port."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from drivers.clock import Clock

STALE_S = 0.7
"""A status request that has not been answered for so long: the controller is silent."""
STALE_PASSES = 10
"""And the port has been read so often since: a program that was held up is not a controller that is silent."""
NOISE_WINDOW_S = 1.0
NOISE_BYTES = 200
"""So many bytes that belong to no message within the window: the controller sends nonsense. Fewer are forgiven: a
message that the library does not know looks the same."""
REPEAT_S = 0.1
"""A status request that has not been answered for so long is made again: its answer may be lost."""
FORGETTING = 0.9
"""What is left with every answer of the longest time that one has taken."""
_LOG_INTERVAL_S = 10.0
_LOG_KINDS = 64


@dataclass(frozen=True)
class AxisState:
    """What a controller last said of an axis. Counts compare two states: what came after, what did not.

    Attributes:
        position: microsteps.
        moving, homing, homed, enabled, at_switch: status bits; they lag 0.1 s behind a command.
        updates: statuses received.
        time: when the last of them came, by the link's clock.
        homed_time: when the last message came that homing has finished; unlike the others it carries no status.
        completed, stopped, homings: messages that a move was completed, a motion stopped, homing finished.
    """

    position: int = 0
    moving: bool = False
    homing: bool = False
    homed: bool = False
    enabled: bool = False
    at_switch: bool = False
    updates: int = 0
    time: float = 0.0
    homed_time: float = 0.0
    completed: int = 0
    stopped: int = 0
    homings: int = 0


class LimitedLog:
    """A logger's face for the library: each kind of warning at most once in ten seconds, nothing for every message.

    The library calls the deprecated `warn`, whose own warning would end its reading where warnings are errors.
    """

    def __init__(self, logger: logging.Logger, clock: Clock):
        self._logger = logger
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def warning(self, message: str) -> None:
        kind = message[:32]
        now = self._clock.monotonic()
        last, held_back = self._said.get(kind, (None, 0))
        if last is not None and now - last < _LOG_INTERVAL_S:
            self._said[kind] = (last, held_back + 1)
            return
        if len(self._said) >= _LOG_KINDS:
            self._said.clear()
        self._said[kind] = (now, 0)
        self._logger.warning("%s%s", message, f" ({held_back} more like this)" if held_back else "")

    warn = warning

    def info(self, message: str) -> None:
        self._logger.debug("%s", message)

    def debug(self, message: str) -> None:
        """Every byte written: more than any log wants."""


class Pace:
    """When a controller is asked for its status again: never faster than it answers, or its line backs up.

    One request is on its way at most, and the next waits after an answer for as long as answers take: a controller is
    never busy with questions alone, and what did pile up (answers to somebody else's questions are taken for ours, lost
    ones are asked for again) is worked off.

    Args:
        interval_s: shortest time from one request to the next.
    """

    def __init__(self, interval_s: float):
        self._interval_s = interval_s
        self._answer_s = 0.0
        self._first: float | None = None
        self._last = -math.inf
        self._answered = -math.inf

    def asked(self, now: float) -> None:
        """A status has been requested."""
        self._first = now if self._first is None else self._first
        self._last = now

    def answered(self, now: float) -> None:
        """A status has come."""
        if self._first is not None:
            self._answer_s = max(now - self._first, FORGETTING * self._answer_s)
            self._first, self._answered = None, now

    def due(self, now: float) -> float:
        """Seconds until the next request, 0 when it is due."""
        if self._first is not None:
            return max(0.0, self._last + max(REPEAT_S, 2 * self._answer_s) - now)
        return max(0.0, self._last + self._interval_s - now, self._answered + self._answer_s - now)


class Watch:
    """What is known of a controller, kept by the library's thread, read by any; `bell` guards it and rings."""

    def __init__(self, name: str, endpoints: Sequence[int], clock: Clock, bell: threading.Condition):
        self.name = name
        self.clock = clock
        self.bell = bell
        self.states = {int(endpoint): AxisState() for endpoint in endpoints}
        self.replies: dict[tuple[str, int], tuple[int, Any]] = {}
        self.reports: deque[tuple[int, str]] = deque(maxlen=16)
        self.reported = 0
        self.heard = 0
        self.fault: str | None = None
        self.passes = 0
        self.passed_at = clock.monotonic()
        self._asked: dict[int, tuple[float, int]] = {}
        self._noise: deque[tuple[float, int]] = deque()

    def fail(self, fault: str) -> None:
        """The first fault is the one that counts."""
        with self.bell:
            self.fault = self.fault or fault
            self.bell.notify_all()

    def asked(self, endpoint: int) -> None:
        """A status of this axis has been requested."""
        self._asked.setdefault(endpoint, (self.clock.monotonic(), self.passes))

    def passed(self, noise: int) -> None:
        """Everything that had arrived has been read, among it so much noise."""
        now = self.clock.monotonic()
        with self.bell:
            self.passes += 1
            self.passed_at = now
            if noise:
                self._noise.append((now, noise))
            while self._noise and now - self._noise[0][0] > NOISE_WINDOW_S:
                self._noise.popleft()
            heard = sum(n for _, n in self._noise)
            # Judged here, after reading: a program that was suspended finds the answers first.
            silent = any(
                now - asked > STALE_S and self.passes - passes > STALE_PASSES for asked, passes in self._asked.values()
            )
            if heard > NOISE_BYTES or (heard and silent):
                self.fail(f"sends nonsense, {heard} bytes of it in a second; check its cable, switch it off and on")
            elif silent:
                self.fail(f"has not answered for {STALE_S:g} s; check its cable and power, then close and open it")

    def hear(self, message: Any) -> None:
        """One decoded message."""
        name, source = message.msg, int(message.source)
        with self.bell:
            self.heard += 1
            count, _ = self.replies.get((name, source), (0, None))
            self.replies[name, source] = (count + 1, message)
            if name == "hw_richresponse":
                notes = message.notes.split(b"\0")[0].decode("ascii", "replace")
                self.reports.append((message.msg_ident, f"error {message.code}: {notes}"))
                self.reported += 1
            elif name == "hw_response":
                self.reports.append((0, "an error without a number"))
                self.reported += 1
            elif source in self.states:
                self._update(name, source, message)
            self.bell.notify_all()

    def _update(self, name: str, endpoint: int, message: Any) -> None:
        state = self.states[endpoint]
        if name == "mot_move_homed":
            self.states[endpoint] = replace(state, homings=state.homings + 1, homed_time=self.clock.monotonic())
        elif name in ("mot_get_statusupdate", "mot_move_completed", "mot_move_stopped"):
            self._asked.pop(endpoint, None)
            self.states[endpoint] = AxisState(
                position=message.position,
                moving=message.moving_forward
                or message.moving_reverse
                or message.jogging_forward
                or message.jogging_reverse,
                homing=message.homing,
                homed=message.homed,
                enabled=message.channel_enabled,
                at_switch=message.forward_limit_switch or message.reverse_limit_switch,
                updates=state.updates + 1,
                time=self.clock.monotonic(),
                homed_time=state.homed_time,
                completed=state.completed + (name == "mot_move_completed"),
                stopped=state.stopped + (name == "mot_move_stopped"),
                homings=state.homings,
            )
