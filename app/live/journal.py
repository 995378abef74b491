"""What happened, for people: messages from any thread, read by whoever shows them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from drivers.clock import Clock

CAPACITY = 5000
"""Older messages are forgotten: a window that stays open for weeks must not grow."""


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Message:
    """One line.

    Attributes:
        number: counts from 1.
        time: seconds since the epoch.
        severity: an error is something that a person has to act on.
        text: what happened, the value, the limit, what to do.
    """

    number: int
    time: float
    severity: Severity
    text: str


class Journal:
    """The newest messages. Any thread may write and read.

    Args:
        clock: dates the messages.
        capacity: so many are kept.
    """

    def __init__(self, clock: Clock, capacity: int = CAPACITY):
        self._clock = clock
        self._lock = threading.Lock()
        self._messages: deque[Message] = deque(maxlen=capacity)
        self._count = 0

    def info(self, text: str) -> None:
        self._put(Severity.INFO, text)

    def warning(self, text: str) -> None:
        self._put(Severity.WARNING, text)

    def error(self, text: str) -> None:
        self._put(Severity.ERROR, text)

    @property
    def count(self) -> int:
        """Messages ever written."""
        return self._count

    def since(self, number: int) -> list[Message]:
        """Messages after the one with this number, oldest first; those that were forgotten are missing."""
        with self._lock:
            return [message for message in self._messages if message.number > number]

    def _put(self, severity: Severity, text: str) -> None:
        with self._lock:
            self._count += 1
            self._messages.append(Message(self._count, self._clock.now(), severity, " ".join(text.split())))
