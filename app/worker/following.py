"""`ptychoscope scan --enough`: a scan that a worker follows, and that spends no light that its image does not need."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from app.acquire.frame import Frame
from app.acquire.observer import DarkObserver, DoseJudge, Enough, NextJudge, Observer, Progress, RunState
from app.acquire.scan import Scan
from app.errors import UsageError
from app.live.journal import Journal, Severity
from app.streams import resilient
from app.worker.link import LinkState
from app.worker.live import Live
from drivers.clock import Clock, SystemClock
from recon.files.darks import DarkSummary

START_S = 120.0
"""A worker is waited for so long: it loads torch."""
SETTLE_S = 300.0
"""After the scan its last image is waited for so long without hearing anything."""
LOOK_S = 0.02


class Console(Journal):
    """A journal that writes every line to stderr, as long as somebody reads it."""

    def __init__(self, clock: Clock):
        super().__init__(clock)
        self._stream = resilient(sys.stderr)

    def _put(self, severity: Severity, text: str) -> None:
        super()._put(severity, text)
        sign = "" if severity is Severity.INFO else f"{severity.value}: "
        self._stream.write(f"{sign}{' '.join(text.split())}\n")
        self._stream.flush()


@runtime_checkable
class Abortable(Protocol):
    """An observer that knows whether somebody wished to stop."""

    @property
    def aborted(self) -> bool: ...


class Together:
    """Several observers as one. Implements `Observer`, `DarkObserver`, `DoseJudge` and `NextJudge`.

    Args:
        observers: told in this order.
        ready: waited for before anybody judges: whether all frames before a step are in an image.
        failed: why there will be no image, or "".
    """

    def __init__(self, observers: tuple[Observer, ...], ready: Callable[[int], bool], failed: Callable[[], str]):
        self._observers, self._ready, self._failed = observers, ready, failed

    def state_changed(self, state: RunState) -> None:
        for observer in self._observers:
            observer.state_changed(state)

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        for observer in self._observers:
            observer.frame_committed(frame, progress)

    def darks_committed(self, exposure_s: float, darks: DarkSummary) -> None:
        for observer in self._observers:
            if isinstance(observer, DarkObserver):
                observer.darks_committed(exposure_s, darks)

    def enough(self, step: int) -> Enough | None:
        """Nobody looks at a picture here: rather than spend light that may not be needed, wait for the image."""
        while not self._ready(step):
            time.sleep(LOOK_S)
        if failed := self._failed():
            raise UsageError(f"scan: nobody can say when it is enough: {failed}; resume it without --enough")
        judged = (observer.enough(step) for observer in self._observers if isinstance(observer, DoseJudge))
        return next((found for found in judged if found is not None), None)

    def next_point(self, step: int, points: tuple[int, ...]) -> int | None:
        """Asked after `enough`, which has waited for the image."""
        told = [other.next_point(step, points) for other in self._observers if isinstance(other, NextJudge)]
        return next((point for point in told if point is not None), None)


@contextmanager
def followed(scan: Scan, live: Live, observer: Observer, stop: Callable[[], bool]) -> Iterator[Together]:
    """Inside, a worker follows the scan; afterwards its results are in the run.

    Args:
        scan: low dose, or under a calibration that is lent to it; its devices open.
        live: the reconstruction, with its target; not begun yet, and ended here.
        observer: watches besides.
        stop: whether somebody wished to stop.

    Raises:
        UsageError: the worker does not answer, or the scan cannot be followed.
    """
    live.begin(Console(SystemClock()))
    try:
        _wait(lambda: live.status.state is LinkState.CONNECTED or stop(), START_S, "the worker does not answer")
        source = live.follower.run_begins(scan)
        if source is None:
            raise UsageError("scan: cannot be followed, see above; leave --enough out")

        def ready(step: int) -> bool:
            aborted = isinstance(observer, Abortable) and observer.aborted
            return live.seen(step) or stop() or aborted or bool(live.failed)

        yield Together((observer, source), ready, lambda: live.failed)
        if not stop() and not live.failed:
            over = lambda: live.settled or stop() or bool(live.failed)  # noqa: E731
            _wait(over, SETTLE_S, "the worker did not finish", lambda: live.heard)
    finally:
        live.end()
        live.link.join(5.0)


def _wait(condition: Callable[[], bool], patience_s: float, words: str, signs: Callable[[], int] = lambda: 0) -> None:
    """Until the condition holds, or for so long without a sign of life."""
    seen, since = signs(), time.monotonic()
    while not condition():
        if signs() != seen:
            seen, since = signs(), time.monotonic()
        if time.monotonic() - since > patience_s:
            raise UsageError(f"scan: {words} within {patience_s:g} s; see whether `ptychoscope serve` works here")
        time.sleep(LOOK_S)
