"""Time that runs faster or slower than real time: for simulated benches that somebody watches."""

from __future__ import annotations

import math
import time


class PacedClock:
    """Real time stretched by a factor. Implements `drivers.clock.Clock`.

    Args:
        speed: seconds that pass a real second, finite and above 0.
        start: seconds since the epoch at which it begins; None: now.
    """

    def __init__(self, speed: float = 1.0, start: float | None = None):
        # At an infinite or undefined speed the difference of two times is no number, and no wait ever ends.
        if not 0 < speed < math.inf:
            raise ValueError(f"speed {speed} is not a finite number above 0")
        self.speed = speed
        self._begin = time.monotonic()
        self._start = time.time() if start is None else start

    def now(self) -> float:
        return self._start + self.monotonic()

    def monotonic(self) -> float:
        return (time.monotonic() - self._begin) * self.speed

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds / self.speed)
