"""Questions to the person at the terminal: asked on stderr, answered on stdin, and refused when nobody is there."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

from drivers.base import Cancelled, OperatorNeeded

YES = {"", "y", "yes"}
NO = {"n", "no"}


class Terminal:
    """Asks and waits for Enter, yes or no; Ctrl-C during a question is heard by whoever handled it before.

    Args:
        answers, questions: default: stdin and stderr.
    """

    def __init__(self, answers: TextIO | None = None, questions: TextIO | None = None):
        self._answers = answers
        self._questions = questions

    def light(self, request: str) -> bool:
        """A request about the beam, as `drivers.manual.Ask`. Raises `OperatorNeeded`, `Cancelled`."""
        return self.ask("light", f"please {request}, then press Enter (n: not done)")

    def confirm(self, device: str, question: str) -> bool:
        """Whether something may be done. Raises `OperatorNeeded`, `Cancelled`."""
        return self.ask(device, f"{question} [Enter: yes, n: no]")

    def ask(self, device: str, question: str) -> bool:
        """True for Enter, y and yes; false for n and no; anything else is asked again.

        Raises:
            OperatorNeeded: stdin is closed or not a terminal.
            Cancelled: Ctrl-C.
        """
        answers, questions = self._answers or sys.stdin, self._questions or sys.stderr
        if answers is None or answers.closed or not answers.isatty():
            raise OperatorNeeded(device, f"asks: {question}; nobody can answer because stdin is not a terminal")
        with _heard(device):
            while True:
                questions.write(f"{device}: {question} ")
                questions.flush()
                line = answers.readline()
                if not line:
                    raise OperatorNeeded(device, f"asks: {question}; stdin was closed before anybody answered")
                word = line.strip().lower()
                if word in YES | NO:
                    return word in YES


@contextmanager
def _heard(device: str) -> Iterator[None]:
    """A Ctrl-C leaves the question: Python would otherwise go on waiting for the line after any handler but its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: FrameType | None) -> None:
        if callable(previous):
            previous(number, frame)
        raise Cancelled(device, "the question was not answered but interrupted; start again")

    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
