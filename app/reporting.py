"""What a command says when it ends: lines for people on stderr, its result on stdout, in words or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from app.errors import Interrupted


def say(text: str) -> None:
    """A line for people, on stderr."""
    typer.echo(text, err=True)


def report(values: dict[str, Any], as_json: bool) -> None:
    """The result of a command on stdout: one JSON line, or one line per value."""
    if as_json:
        typer.echo(json.dumps(finite(values), allow_nan=False))
    else:
        for name, value in values.items():
            typer.echo(f"{name}: {f'{value:.6g}' if isinstance(value, float) else value}")


@contextmanager
def told_when_stopped(as_json: bool) -> Iterator[None]:
    """Also of a command that somebody stopped what it has is told, marked as interrupted."""
    try:
        yield
    except Interrupted as stopped:
        if as_json:
            report(stopped.values | {"interrupted": True}, as_json)
        elif stopped.values:
            report(stopped.values, as_json)
        raise


def finite(value: Any) -> Any:
    """The value with every float that is not finite replaced by None, for JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return finite(value.item())
    return value
