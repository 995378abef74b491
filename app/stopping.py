"""Ctrl-C, SIGTERM and SIGHUP as one wish to stop: a terminal that closes must not leave a stage moving."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
RECORDER_THREAD = "recorder"
"""Name of the thread that writes a run."""


def recorder_given_up() -> bool:
    """At a program's end: whether a run's writer still waits for a disk that has been given up."""
    return any(thread.name == RECORDER_THREAD for thread in threading.enumerate())


@contextmanager
def handled(handler: Callable[[int, FrameType | None, object], None]) -> Iterator[None]:
    """Inside, the signals call `handler` with their number, the frame and who handled them before.

    Only the main thread hears signals; in any other this does nothing. A signal that is ignored stays so: that is how
    `nohup` works.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: known for number, known in before.items() if known is not signal.SIG_IGN}

    def heard(number: int, frame: FrameType | None) -> None:
        handler(number, frame, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, signal.SIG_DFL if known is None else known)


def _nothing() -> None:
    pass


class Interrupt:
    """A wish to stop that long device calls notice within a slice of their waiting; a second one interrupts for good.

    Attributes:
        wanted: whether somebody wishes to stop.
        signal: the signal that said so; SIGINT where it was said otherwise.
    """

    def __init__(self) -> None:
        self.wanted = False
        self.signal: int = signal.SIGINT

    def __call__(self) -> bool:
        return self.wanted

    @property
    def exit_code(self) -> int:
        """Of a program that was stopped so: 128 and the signal's number."""
        return 128 + self.signal

    @contextmanager
    def listening(self, act: Callable[[], None] = _nothing) -> Iterator[Interrupt]:
        """Inside, the first signal is the wish, and `act` is called; the second one raises."""

        def handler(number: int, frame: FrameType | None, before: object) -> None:
            if self.wanted:
                if number == signal.SIGINT:
                    raise KeyboardInterrupt
                raise SystemExit(128 + number)
            self.wanted, self.signal = True, number
            act()

        with handled(handler):
            yield self
