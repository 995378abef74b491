"""Questions to the person at the terminal: asked on stderr, answered on stdin, and refused when nobody is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import TextIO

from app.stopping import handled
from app.streams import is_silent
from drivers.base import Cancel, Cancelled, OperatorNeeded, never

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

    def present(self) -> bool:
        """Whether somebody can answer: stdin is open and a terminal."""
        answers = self._answers or sys.stdin
        return answers is not None and not answers.closed and answers.isatty()

    def lines(self, device: str, cancel: Cancel = never) -> Iterator[str]:
        """What is typed, or comes from a file, line by line until it ends. Raises `Cancelled` on Ctrl-C."""
        answers = self._answers or sys.stdin
        while answers is not None and not answers.closed:
            if cancel():
                raise Cancelled(device, "interrupted; nothing moves any more")
            with _heard(device, "interrupted; nothing moves any more"):
                line = answers.readline()
            if not line:
                return
            yield line

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
        if answers is None or not self.present():
            raise OperatorNeeded(device, f"asks: {question}; nobody can answer because stdin is not a terminal")
        with _heard(device, "the question was not answered but interrupted; start again"):
            while True:
                questions.write(f"{device}: {question} ")
                questions.flush()
                if is_silent(questions):
                    raise OperatorNeeded(device, f"asks: {question}; nobody can read that: stderr is gone")
                line = answers.readline()
                if not line:
                    raise OperatorNeeded(device, f"asks: {question}; stdin was closed before anybody answered")
                word = line.strip().lower()
                if word in YES | NO:
                    return word in YES


class LightRequest:
    """The `drivers.manual.Ask` of a terminal; it also knows whether anybody is there.

    Args:
        terminal: whom to ask.
        around: entered while somebody is asked.
    """

    def __init__(self, terminal: Terminal, around: Callable[[], AbstractContextManager[None]] = nullcontext):
        self._terminal = terminal
        self._around = around

    def __call__(self, request: str) -> bool:
        with self._around():
            return self._terminal.light(request)

    def present(self) -> bool:
        return self._terminal.present()


@contextmanager
def _heard(device: str, words: str) -> Iterator[None]:
    """A signal leaves the question: Python would otherwise go on waiting for the line after any handler but its own."""

    def handler(number: int, frame: FrameType | None, before: object) -> None:
        if callable(before):
            before(number, frame)
        raise Cancelled(device, words)

    with handled(handler):
        yield
