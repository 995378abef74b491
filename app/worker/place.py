"""Where a worker is: a process of our own on this machine, or one that somebody else has started."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.stopping import children_spared

AGAIN_S = (0.2, 1.0, 5.0, 15.0)
"""Pauses before a worker of our own is started again, the last one for ever after."""
PATIENCE_S = 1.0
"""A worker of our own that is to end is waited for so long."""


class Worker(Protocol):
    """Where a worker is."""

    @property
    def address(self) -> str | None:
        """None while it is not known yet."""
        ...

    def look(self) -> bool:
        """Start it if need be, or again; true when its address is a new one. Quick. Raises what hinders its start."""
        ...

    def end(self) -> None: ...

    @property
    def restarts(self) -> int: ...

    @property
    def remedy(self) -> str:
        """What to look at when it does not answer, for people; "" where it is none of their business."""
        ...


@dataclass
class Elsewhere:
    """A worker that somebody else has started. Implements `Worker`."""

    address: str | None
    restarts: int = 0
    remedy: str = "is it running, of this release, with these keys?"
    _told: bool = False

    def look(self) -> bool:
        told, self._told = self._told, True
        return not told

    def end(self) -> None:
        self._told = False


class OwnWorker:
    """A process on this machine, which ends with this one. Implements `Worker`.

    Args:
        command: starts it; gets `--for-window FILE`, writes its address there, and ends when its stdin does.
        say: told when it dies; may be set later.
    """

    def __init__(self, command: Sequence[str] | None = None, say: Callable[[str], None] = lambda _: None):
        self._command = list(command or (sys.executable, "-m", "app.cli", "serve"))
        self.say = say
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._file: Path | None = None
        self._next = 0.0
        self._starts = 0
        self.address: str | None = None
        self.remedy = ""

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        return self._process

    @property
    def restarts(self) -> int:
        return max(0, self._starts - 1)

    def look(self) -> bool:
        process = self._process
        if process is not None and process.poll() is not None:
            self.say(f"reconstruction: its process ended with code {process.returncode}; it is started again")
            self._forget()
            self._next = time.monotonic() + AGAIN_S[min(self._starts - 1, len(AGAIN_S) - 1)]
            return False
        if process is None:
            if time.monotonic() >= self._next:
                self._start()
            return False
        if self.address is None and self._file is not None and self._file.exists():
            self.address = self._file.read_text()
            return True
        return False

    def _start(self) -> None:
        number = self._starts + 1
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="ptychoscope-")
        self._file = Path(self._folder.name) / f"{number}"
        cores = os.cpu_count() or 1
        # A core is left to the scan and the window; on busy ones a second thread makes torch ten times slower.
        own = {"OMP_NUM_THREADS": str(max(1, cores - 1)), "OMP_WAIT_POLICY": "PASSIVE"}
        with children_spared():
            self._process = subprocess.Popen(
                [*self._command, "--for-window", str(self._file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                env={**own, **os.environ},
            )
        self._starts = number

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process, self.address = None, None

    def end(self) -> None:
        process = self._process
        if process is not None:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._folder is not None:
            self._folder.cleanup()
        self._process, self._folder, self.address, self._starts = None, None, None, 0
