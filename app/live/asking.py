"""A question from the thread that owns the devices to the person at the window."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from drivers.base import Cancelled

SLICE_S = 0.05


@dataclass(frozen=True)
class Asked:
    """One question: two of the same words are two questions.

    Attributes:
        number: counts the questions.
        request: what a person shall do.
    """

    number: int
    request: str


class Question:
    """The `drivers.manual.Ask` of a window: one question at a time, answered by whoever shows it.

    Args:
        cancelled: asked while somebody is waited for; true ends the waiting.
    """

    def __init__(self, cancelled: Callable[[], bool]):
        self._cancelled = cancelled
        self._answered = threading.Event()
        self._lock = threading.Lock()
        self._asked: Asked | None = None
        self._count = 0
        self._yes = False

    @property
    def asked(self) -> Asked | None:
        """What is asked at present; None when nothing is."""
        return self._asked

    def present(self) -> bool:
        """A window always has somebody before it, as far as anybody can tell."""
        return True

    def answer(self, asked: Asked, yes: bool) -> None:
        """Answer that question; one that has ended, or another one, is left alone."""
        with self._lock:
            if self._asked is asked:
                self._yes = yes
                self._answered.set()

    def __call__(self, request: str) -> bool:
        """Wait for the answer. Raises `Cancelled`."""
        with self._lock:
            self._answered.clear()
            self._count += 1
            self._asked = Asked(self._count, request)
        try:
            while not self._answered.wait(SLICE_S):
                if self._cancelled():
                    raise Cancelled("light", f"the request to {request} was not answered but stopped; start again")
            return self._yes
        finally:
            with self._lock:
                self._asked = None
