"""The thread that turns the newest frame into a picture, so that a window only has to paint it."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.live.order import Look
from app.live.picture import Picture, ViewSettings, render
from app.live.slot import Slot
from drivers.clock import Clock

TICK_S = 1 / 60
RATE_OVER_S = 2.0
DARK_FRAMES = 16


@dataclass(frozen=True)
class View:
    """A picture with what belongs to it.

    Attributes:
        look: the frame.
        picture: how it is shown.
        rate_hz: frames a second that came of late.
        skipped: frames that came but were not shown, ever.
        number: of the frame in its slot.
    """

    look: Look
    picture: Picture
    rate_hz: float
    skipped: int
    number: int


class Viewer:
    """Shows the newest frame of a slot. `start` it once, `end` it once.

    Args:
        frames: where they come from.
        clock: real time.

    Attributes:
        views: the newest view.
        settings: how frames are shown; replace it as a whole, from any thread.
    """

    def __init__(self, frames: Slot[Look], clock: Clock, settings: ViewSettings | None = None):
        self.views: Slot[View] = Slot(clock)
        self.settings = settings or ViewSettings()
        self._frames = frames
        self._clock = clock
        self._done = threading.Event()
        self._seen = self._skipped = 0
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=256)
        self._dark_sum: NDArray[np.float64] | None = None
        self._dark_left = self._dark_count = 0
        self._last: tuple[Look, ViewSettings] | None = None
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._done.set()
        self._thread.join()

    def take_dark(self, frames: int = DARK_FRAMES) -> None:
        """Subtract the mean of the next frames from now on, for the view only."""
        self._dark_sum, self._dark_left = None, frames

    @property
    def dark_left(self) -> int:
        """Frames that are still to come before the dark is complete."""
        return self._dark_left

    def look(self) -> bool:
        """Show what is new, if anything is; returns whether it was."""
        settings = self.settings
        newest = self._frames.newest(self._seen)
        if newest is not None:
            self._skipped += newest.skipped if self._seen else 0
            self._seen = newest.number
            self._arrivals.append((self._clock.monotonic(), newest.number))
            self._collect_dark(newest.item.exposure.image)
            look = newest.item
        elif self._last is not None and self._last[1] is not settings:
            look = self._last[0]
        else:
            return False
        self._last = (look, settings)
        picture = render(look.exposure.image, look.info.saturation_adu, settings)
        self.views.put(View(look, picture, self._rate(), self._skipped, self._seen))
        return True

    def _collect_dark(self, image: NDArray[np.uint16]) -> None:
        if not self._dark_left:
            return
        if self._dark_sum is None or self._dark_sum.shape != image.shape:
            self._dark_sum, self._dark_left = np.zeros(image.shape), max(self._dark_left, 1)
            self._dark_count = 0
        self._dark_sum += image
        self._dark_count += 1
        self._dark_left -= 1
        if not self._dark_left:
            dark = (self._dark_sum / self._dark_count).astype(np.float32)
            self.settings = replace(self.settings, dark=dark)

    def _rate(self) -> float:
        now, number = self._arrivals[-1]
        while len(self._arrivals) > 2 and now - self._arrivals[0][0] > RATE_OVER_S:
            self._arrivals.popleft()
        begin, first = self._arrivals[0]
        return (number - first) / (now - begin) if now > begin else 0.0

    def _run(self) -> None:
        while not self._done.is_set():
            if not self.look():
                self._done.wait(TICK_S)
            else:
                # Somebody else has to get a turn as well.
                time.sleep(TICK_S / 4)
