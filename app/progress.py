"""Progress of long computations on stderr, with an estimate, and Ctrl-C as a wish to stop early."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from app.streams import resilient
from app.timeleft import TimeLeft


def stderr_console(*, quiet: bool = False) -> Console:
    """A console on stderr that falls silent when nobody reads it: rich itself would end the program."""
    return Console(file=resilient(sys.stderr), stderr=True, quiet=quiet)


class LeftColumn(ProgressColumn):
    """What the task's field `left`, a `TimeLeft`, says."""

    def render(self, task: Task) -> Text:
        left: TimeLeft = task.fields["left"]
        return Text("" if task.finished else left.words(), style="progress.remaining")


class Course:
    """One bar of progress that names what is going on; quiet on anything but a terminal, save a line at each start."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        """`quiet` says nothing at all: another process speaks for this one."""
        self._clock = clock
        self.console = stderr_console(quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            LeftColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._total, self._left = 1, TimeLeft(clock)
        self._stopped = False

    def __enter__(self) -> Course:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, name: str, total: int) -> None:
        """Start the next piece of work."""
        self._total, self._left = total, TimeLeft(self._clock)
        self._task = self._bar.add_task(name, total=total, note="", left=self._left)
        if not self.console.is_terminal:
            self.console.print(f"{name} ...", highlight=False)

    def advance(self, done: int, note: str = "", share: float | None = None) -> None:
        """So many steps of the piece are done: `share` of its work, where steps are not equally long."""
        if self._task is not None:
            self._left.step(done / self._total if share is None else share)
            self._bar.update(self._task, completed=done, note=note)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._bar.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the bar keeps off the terminal: somebody is asked something."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()

    def stopped(self) -> bool:
        """Whether Ctrl-C was pressed inside `interruptible`."""
        return self._stopped

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, the first Ctrl-C asks for an early end that keeps what is found so far; the second one interrupts."""

        def handler(number: int, frame: FrameType | None) -> None:
            if self._stopped:
                raise KeyboardInterrupt
            self._stopped = True
            self.say("stopping, with what is found so far (Ctrl-C again to give up)")

        previous = signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)
