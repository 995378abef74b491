"""The table of results and the machine they were measured on."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
HEADER = """# Results

Appended by the scripts of this folder, one row per measurement.

| date | benchmark | quantity | measured | claim | hardware, versions |
|---|---|---|---|---|---|
"""


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def append(command: str, rows: Iterable[tuple[str, str, str]], machine: str) -> None:
    """Add a row for each (quantity, measured, claim) of today."""
    today = datetime.datetime.now(datetime.UTC).date()
    if not RESULTS.exists():
        RESULTS.write_text(HEADER)
    with RESULTS.open("a") as file:
        for quantity, measured, claim in rows:
            file.write(f"| {today} | `{command}` | {quantity} | {measured} | {claim} | {machine} |\n")
