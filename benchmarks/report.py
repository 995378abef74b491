"""Rows of RESULTS.md: what was measured, what is claimed, and on what."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine(*packages: str, cores: int | None = None) -> str:
    """Hardware and versions: the processor, how many of its cores, Python and the named packages."""
    count = cores or os.cpu_count() or 1
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"{processor()}, {count} core{'s' if count > 1 else ''}; Python {platform.python_version()}" + (
        f", {versions}" if versions else ""
    )


def append_rows(command: str, rows: Iterable[tuple[str, str, str]], made_on: str | None = None) -> None:
    """Append (quantity, measured, claim) rows of one command to RESULTS.md."""
    today = datetime.datetime.now(datetime.UTC).date()
    made_on = made_on or machine("numpy")
    with RESULTS.open("a", encoding="utf-8") as file:
        file.writelines(
            f"| {today} | `{command}` | {quantity} | {measured} | {claim} | {made_on} |\n"
            for quantity, measured, claim in rows
        )
