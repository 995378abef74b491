"""Rows for RESULTS.md."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.propagator import HEADER, processor


def machine(device: str = "cpu") -> str:
    """Hardware and versions."""
    where = f"{processor()}, one thread" if device == "cpu" else torch.cuda.get_device_name()
    return f"{where}; Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"


def append(command: str, rows: Iterable[tuple[str, str, str]], hardware: str | None = None) -> None:
    """Append (quantity, measured, claim) rows to the table beside this file."""
    path = Path(__file__).with_name("RESULTS.md")
    if not path.exists():
        path.write_text(HEADER)
    today = datetime.datetime.now(datetime.UTC).date()
    with path.open("a") as file:
        for quantity, measured, claim in rows:
            file.write(
                f"| {today} | `{command}` | {quantity} | {measured} | {claim or '-'} | {hardware or machine()} |\n"
            )
