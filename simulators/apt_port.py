"""The port of an emulated APT controller: a pseudo-terminal, what line and controller take of time, and what fails."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import tty
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from simulators.apt_protocol import Message


class Port:
    """A pseudo-terminal under a name that stays, the time that line and controller take, and the line's failures.

    A controller takes one message after the other, in order of arrival, and is busy with each for `answer_s`; its
    answer leaves after that.
    """

    def __init__(self, link: Path, answer_s: float, byte_s: float):
        self.link = link
        self._answer_s = answer_s
        self._byte_s = byte_s
        self._waiting: deque[tuple[float, int, Message]] = deque()
        self._busy_until = 0.0
        self._in_free = 0.0
        self._out_free = 0.0
        self.master = -1
        self._slave = -1
        self.silent = False
        self.garbage = False
        self.truncate = False
        self.delay_s = 0.0
        self._late: deque[tuple[float, bytes]] = deque()
        self._noise = random.Random(0)

    def plug(self) -> None:
        # The slave's end stays open here too: without it a master reports errors while no host is there.
        self.master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self.master, False)
        self.link.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        if self.master >= 0:
            self.link.unlink(missing_ok=True)
            os.close(self.master)
            os.close(self._slave)
            self.master = self._slave = -1
        self._waiting.clear()
        self._late.clear()

    def arrive(self, messages: Iterable[Message], now: float) -> None:
        """What the host has sent is on the line."""
        for message in messages:
            self._in_free = max(now, self._in_free) + message.size * self._byte_s
            self._waiting.append((self._in_free, len(self._waiting) + (self._busy_until > now), message))

    def turn(self, now: float) -> tuple[int, Message] | None:
        """The next message whose turn it is, and how many were before it; the controller is busy with it from now."""
        if not self._waiting:
            return None
        begin = max(self._waiting[0][0], self._busy_until)
        if begin > now:
            return None
        _, ahead, message = self._waiting.popleft()
        self._busy_until = begin + self._answer_s
        return ahead, message

    def heal(self) -> None:
        self.silent = self.garbage = self.truncate = False
        self.delay_s = 0.0

    def send(self, data: bytes, now: float) -> None:
        """Answers, and what is said unasked: after the answer in hand."""
        if self.silent or self.master < 0:
            return
        if self.garbage:
            data = self._noise.randbytes(len(data))
        if self.truncate and len(data) > 6:
            self.truncate = False
            data = data[: len(data) // 2]
        # Also after what is late already: messages overtake none.
        begin = max(now, self._busy_until, self._out_free)
        self._out_free = begin + len(data) * self._byte_s
        self._late.append((self._out_free + self.delay_s, data))

    def flush(self, now: float) -> None:
        while self._late and self._late[0][0] <= now:
            self._write(self._late.popleft()[1])

    def due(self) -> float | None:
        """When it has something to say or to do."""
        times = [self._late[0][0]] if self._late else []
        if self._waiting:
            times.append(max(self._waiting[0][0], self._busy_until))
        return min(times, default=None)

    def _write(self, data: bytes) -> None:
        # A host that does not read loses messages, as on a real line.
        if self.master >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self.master, data)
