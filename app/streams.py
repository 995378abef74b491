"""What the program says while it works, and nobody there to hear it: no work is lost for want of a reader."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import Any, TextIO, cast


class ResilientStream:
    """A text stream that falls silent for good once it cannot be written to; all else is the stream's own.

    A reader that ends (`| head`), a terminal that is gone, a full disk: none of them may fail a run.

    Args:
        stream: where to write.
        only_readers: fall silent only where nobody reads any more, and raise everything else.

    Attributes:
        silent: whether it has.
    """

    def __init__(self, stream: TextIO, only_readers: bool = False):
        self._stream = stream
        self._only_readers = only_readers
        self.silent = False

    def write(self, text: str) -> int:
        if not self.silent:
            try:
                return self._stream.write(text)
            except (OSError, ValueError) as error:
                self._fall_silent(error)
        return len(text)

    def flush(self) -> None:
        if not self.silent:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._fall_silent(error)

    def _fall_silent(self, error: OSError | ValueError) -> None:
        if self._only_readers and not (isinstance(error, OSError) and error.errno == errno.EPIPE):
            raise error
        self.silent = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def resilient(stream: TextIO | None, only_readers: bool = False) -> TextIO:
    """The stream as a `ResilientStream`, which it may be already; a silent one where the program has none."""
    if isinstance(stream, ResilientStream):
        return cast(TextIO, stream)
    spared = ResilientStream(Path(os.devnull).open("w") if stream is None else stream, only_readers)  # noqa: SIM115
    spared.silent = stream is None
    return cast(TextIO, spared)


def is_silent(stream: TextIO) -> bool:
    """Whether what is written there is known to reach nobody."""
    return isinstance(stream, ResilientStream) and stream.silent


def spare_work() -> None:
    """From now on neither stdout nor stderr can fail the program for want of a reader, and stderr not at all.

    A stream that was closed before the program began becomes one that is silent; its number is then not given to the
    next file that is opened, into which libraries would write their complaints.
    """
    sys.stdout = resilient(sys.stdout, only_readers=True)
    sys.stderr = resilient(sys.stderr)


def drain() -> None:
    """At the program's end: what cannot be written any more goes nowhere, else the interpreter's own last flush fails.

    That would print a traceback and make the exit code 120.
    """
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
