"""What several commands ask of a run file; torch stays unloaded."""

from __future__ import annotations

import math

from app.acquire.plan import Plan
from app.errors import UsageError
from app.profile import Profile
from recon.dataset import DatasetError
from recon.files.read import RunFile


def stored_plan(plan_json: str, profile_json: str, where: str) -> tuple[Plan, Profile]:
    """Plan and profile as a run keeps them; `where` stands in messages. Raises `DatasetError`."""
    try:
        return Plan.from_json(plan_json), Profile.model_validate_json(profile_json)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{where}: its plan or profile cannot be read ({type(error).__name__}); it is damaged or of another version"
        ) from None


def points_left(run: RunFile) -> tuple[int, ...]:
    """Scan points of a run that has gone to its plan's end, at which exposures were left out. Raises `DatasetError`."""
    plan, _ = stored_plan(run.plan_json, run.profile_json, str(run.path))
    if run.steps_committed < len(plan.steps):
        return ()
    gone = plan.left_out(run.steps_committed, run.series_committed)
    return tuple(dict.fromkeys(step.position_index for step in gone))


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
