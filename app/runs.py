"""What several commands ask of a run file; torch stays unloaded."""

from __future__ import annotations

import math

from app.errors import UsageError
from recon.files.read import RunFile


def entry_of_exposure(run: RunFile, exposure_s: float) -> int:
    """The evaluation entry whose exposure is the nearest on a log scale; raises `UsageError` beyond 5 %."""
    entries = range(2, run.entries + 1)
    if not entries:
        raise UsageError(f"{run.path}: holds no evaluation series; its plan has only a calibration scan")
    nearest = min(entries, key=lambda k: abs(math.log(run.exposure_s(k) / exposure_s)))
    if abs(run.exposure_s(nearest) / exposure_s - 1) > 0.05:
        known = ", ".join(f"{run.exposure_s(k):.4g}" for k in entries)
        raise UsageError(f"{run.path}: no exposure of {exposure_s:.4g} s; recorded are {known} s")
    return nearest
