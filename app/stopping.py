"""Ctrl-C, SIGTERM and SIGHUP as one wish to stop: a terminal that closes must not leave a stage moving.

The program's first import: it loads nothing of the program but `app.errors`, and nothing that takes its time.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from app.errors import EXIT_INTERRUPTED, STOPPED

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
RECORDER_THREAD = "recorder"
"""Name of the thread that writes a run."""


def recorder_given_up() -> bool:
    """At a program's end: whether a run's writer still waits for a disk that has been given up."""
    return any(thread.name == RECORDER_THREAD for thread in threading.enumerate())


def hear_from_the_start() -> None:
    """From now on Ctrl-C ends the program without a traceback, whatever it is doing.

    Inside an import it ends at once: libraries turn an exception that comes while they load into errors of their own,
    or swallow it, and nothing has begun that would have to be ended in good order. Elsewhere it is a
    `KeyboardInterrupt`, for `run_guarded`. Commands that keep something, or move something, hear it themselves.

    A signal that is ignored stays so, as in `handled`.
    """

    def heard(number: int, frame: FrameType | None) -> None:
        if _importing(frame):
            leave()
        raise KeyboardInterrupt

    _hear(heard)


def hear_at_the_end(code: int) -> None:
    """From now on Ctrl-C ends the program with the code that it has earned: what is left is the interpreter's end."""
    _hear(lambda number, frame: os._exit(code))


def leave() -> None:
    """End the program now, with the one line."""
    # Not by way of `sys.stderr`, in whose own code the signal may have come.
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def _hear(handler: Callable[[int, FrameType | None], None]) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib._bootstrap"):
            return True
        frame = frame.f_back
    return False


@contextmanager
def children_spared() -> Iterator[None]:
    """Processes that are started inside never hear Ctrl-C, which a terminal sends to all: it is their parent's to hear.

    Not even while they load, before a line of ours could tell them so. One that comes meanwhile is heard afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
