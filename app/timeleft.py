"""How long work will still take, told from its own pace: nothing until that means something, then a smooth number."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

LEAST_STEPS, LEAST_S = 3, 2.0
"""Steps and seconds of work, the first step aside, before which nothing is told."""
RECENT = 0.5
"""The pace is that of so much of the time since the first step: what was long ago is forgotten, no step decides."""
RECENT_S = 20.0
"""But of at least so many seconds."""
CALM = 0.2
"""Weight of what a step says beside what has been told; the rest counts down by the clock."""
APART_S = 0.05
"""Steps nearer in time than this are taken together."""


class TimeLeft:
    """An estimate of the time that a piece of work still takes.

    The first step does not count: it imports, compiles, fills caches and reads files. A piece that goes on from where
    it had stopped begins with the step that it is told first.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps: deque[tuple[float, float]] = deque()
        self._first: tuple[float, float] | None = None
        self._count = 0
        self._told: tuple[float, float] | None = None

    def step(self, share: float) -> None:
        """So much of the work is done, 0 to 1."""
        now = self._clock()
        if share >= 1:
            self._told = (now, 0.0)
            return
        if self._first is None:
            # Nothing done yet is not a step.
            if share > 0:
                self._first = (now, share)
                self._steps.append(self._first)
            return
        if share <= self._steps[-1][1]:
            return
        self._count += 1
        if now - self._steps[-1][0] >= APART_S:
            self._steps.append((now, share))
        begin, at = self._first
        since = now - begin
        if self._count < LEAST_STEPS or since < LEAST_S:
            return
        window = max(RECENT * since, RECENT_S)
        while len(self._steps) > 2 and now - self._steps[1][0] >= window:
            self._steps.popleft()
        begin, at = self._steps[0]
        if now <= begin or share <= at:
            return
        found = (1 - share) * (now - begin) / (share - at)
        before = self.seconds()
        self._told = (now, found if before is None else before + CALM * (found - before))

    def seconds(self) -> float | None:
        """Seconds left; None while nobody can know."""
        if self._told is None:
            return None
        at, left = self._told
        return max(0.0, left - (self._clock() - at))

    def words(self) -> str:
        """The same for people; empty while nobody can know."""
        left = self.seconds()
        return "" if left is None else f"about {rough(left)} left"


def rough(seconds: float) -> str:
    """40 s, 3 min, 1 h 20 min: no finer than anybody can know."""
    if seconds < 55:
        step = 1 if seconds < 10 else 5
        return f"{max(1, step * math.ceil(seconds / step))} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(5 * math.ceil(minutes / 5), 60)
    return f"{hours} h {rest:02d} min"
