"""What a user's mistake or a failing device looks like on the command line: one line and an exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Mapping
from typing import Any

LONGEST_VALUE = 60
"""Letters of a value that a message shows."""
EXIT_KNOWN = 2
"""Exit code of everything that a person can put right."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C."""
STOPPED = "interrupted: stopped"
"""What is said after Ctrl-C where there is nothing that was kept."""
KNOWN = {
    "ProfileError",
    "InstrumentError",
    "DatasetError",
    "PreflightError",
    "ImageSourceError",
    "SampleError",
    "DecoderError",
    "DeviceError",
    "TeamError",
    "UsageError",
    "ClickException",
}
"""Names of the error classes, and so of their subclasses, whose message is meant for people. By name, because some
live in modules that import torch and are never loaded by a scan."""


class Interrupted(Exception):
    """Somebody wished to stop, and everything has been stopped; the message says what was left, and how to go on.

    Attributes:
        exit_code: 128 and the number of the signal that said so.
        values: what is finished, as the command's JSON line has it.
    """

    def __init__(self, message: str, exit_code: int = EXIT_INTERRUPTED, values: Mapping[str, Any] | None = None):
        super().__init__(message)
        self.exit_code = exit_code
        self.values = dict(values or {})


class UsageError(Exception):
    """The command line asks for something that makes no sense; the message says what and how to put it right."""


def known_message(error: BaseException) -> str | None:
    """The line for a person, or None for a bug, which deserves its traceback."""
    if any(cls.__name__ in KNOWN for cls in type(error).__mro__):
        return _one_line((error.format_message() if hasattr(error, "format_message") else str(error)) + _got(error))
    if isinstance(error, OSError):
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            what = f"disk full while writing ({error.strerror})" if error.strerror else "disk full while writing"
            return _one_line(
                f"{error.filename or 'disk'}: {what}; what was committed is safe: make room, then resume the run or "
                "give the command again"
            )
        name = f"{error.filename}: " if error.filename else ""
        return _one_line(f"{name}{error.strerror or error}; check the path and its permissions")
    return None


def _got(error: BaseException) -> str:
    """The value that an option was given, where typer's message about its limits leaves it out."""
    if (errors := getattr(error.__cause__, "errors", None)) is None:
        return ""
    value = str(errors()[0].get("input", ""))
    return f", got {value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + '...'}"


def run_guarded(action: Callable[[], object]) -> int:
    """Run the action; known errors become one line on stderr. Returns the exit code."""
    try:
        code = action()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else (0 if exit_.code is None else 1)
    except Interrupted as error:
        print(f"interrupted: {_one_line(str(error))}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "Abort":
            # What typer makes of a terminal that ends in the middle of a question.
            print(STOPPED, file=sys.stderr)  # noqa: T201
            return EXIT_INTERRUPTED
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)  # noqa: T201
            return EXIT_KNOWN
        message = known_message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
        return EXIT_KNOWN
    return code if isinstance(code, int) else 0


def _one_line(text: str) -> str:
    return " ".join(text.split())
