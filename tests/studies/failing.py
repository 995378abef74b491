"""Work that goes wrong in a process of its own; imports next to nothing, so that the process starts at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from app.errors import UsageError


def fails(assignment: Any, share: Any) -> Iterator[Any]:
    """Something that a person can put right."""
    raise UsageError("the disk of the moon is full")
    yield


def dies(assignment: Any, share: Any) -> Iterator[Any]:
    """As if killed."""
    os._exit(7)
    yield
