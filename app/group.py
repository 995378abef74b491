"""The program's commands as one group, of which a Ctrl-C that no command hears is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer.core import TyperGroup

from app.errors import STOPPED, Interrupted


@contextmanager
def _told() -> Iterator[None]:
    """Typer itself would make an exit code of it, and say nothing."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(STOPPED.partition(": ")[2]) from None


class StoppableGroup(TyperGroup):
    """See above."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        with _told():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with _told():
            return super().invoke(ctx)
