"""`ptychoscope check`: what a profile would do, and whether it can."""

from __future__ import annotations

from typing import Any

import numpy as np

from app.acquire import fermat
from app.acquire.planning import make_plan, plan_cost
from app.acquire.preflight import Finding, require
from app.acquire.scan import check, data_bytes
from app.devices import open_devices
from app.profile import Profile


def check_profile(profile: Profile, seed: int = 0, sample: str | None = None) -> tuple[dict[str, Any], list[Finding]]:
    """The figures of a profile's plan and what the preflight found. Nothing moves.

    Raises:
        PreflightError: the plan cannot be carried out.
        InstrumentError: a device cannot be opened.
    """
    plan = make_plan(profile)
    with open_devices(profile, seed, sample) as devices:
        findings = check(plan, profile, devices)
        require(findings)
        cost = plan_cost(plan, devices.stage.info, profile)
    points = np.array(plan.positions_m).reshape(-1, 2)
    diameter = profile.geometry.pinhole_diameter_m
    return {
        "profile": profile.name,
        "simulated": profile.simulated,
        "positions": len(points),
        "evaluation_positions": len(plan.evaluation_indices),
        "evaluation_exposures": len(plan.evaluation_exposures_s),
        **_overlaps("overlap", points, diameter),
        **_overlaps("evaluation_overlap", points[list(plan.evaluation_indices)], diameter),
        "travel_m": cost.travel_m,
        "duration_s": cost.duration_s,
        "bytes": data_bytes(plan, profile),
        "frames": cost.frames,
        "dose": cost.sample_photons,
        "beam_photons": cost.beam_photons,
        "warnings": [finding.message for finding in findings],
    }, findings


def _overlaps(prefix: str, points: np.ndarray, diameter_m: float) -> dict[str, float | None]:
    found = fermat.overlaps(points, diameter_m)
    return {
        f"{prefix}_linear_mean": None if found is None else found.linear_mean,
        f"{prefix}_linear_worst": None if found is None else found.linear_worst,
        f"{prefix}_area": None if found is None else found.area,
    }
