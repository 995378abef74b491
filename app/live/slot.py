"""The slot between a scan and its viewer: the latest wins, so that neither ever waits for the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.acquire.frame import Frame
from app.acquire.observer import Observer, Progress, RunState
from drivers.clock import Clock

T = TypeVar("T")


@dataclass(frozen=True)
class Latest(Generic[T]):
    """What lay in a slot.

    Attributes:
        item: the newest.
        number: how many had been put until then, it included; 1 for the first.
        age_s: time since it was put.
        skipped: how many came and went since the number that the viewer had seen.
    """

    item: T
    number: int
    age_s: float
    skipped: int


class Slot(Generic[T]):
    """Holds the newest item. Any thread may put, any number of viewers may look, each at its own pace.

    Args:
        clock: tells an item's age.
    """

    def __init__(self, clock: Clock):
        self._clock = clock
        self._lock = threading.Lock()
        self._held: tuple[T, int, float] | None = None

    def put(self, item: T) -> None:
        """Replace what is there; takes microseconds, whoever looks."""
        now = self._clock.monotonic()
        with self._lock:
            number = 1 if self._held is None else self._held[1] + 1
            self._held = (item, number, now)

    def newest(self, seen: int = 0) -> Latest[T] | None:
        """The newest item, or None when there is none newer than the one with the number `seen`."""
        with self._lock:
            held = self._held
        if held is None or held[1] <= seen:
            return None
        item, number, put = held
        return Latest(item, number, self._clock.monotonic() - put, number - seen - 1)


class SlotObserver:
    """Shows a run's committed frames in a slot and passes everything on. Implements `app.acquire.observer.Observer`.

    Args:
        slot: gets every committed frame, darks included.
        observer: who watches besides.
    """

    def __init__(self, slot: Slot[Frame], observer: Observer):
        self._slot = slot
        self._observer = observer

    def state_changed(self, state: RunState) -> None:
        self._observer.state_changed(state)

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        self._slot.put(frame)
        self._observer.frame_committed(frame, progress)
