"""`ptychoscope check`: what is connected, what a profile would do, and whether it can."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.acquire import fermat
from app.acquire.planning import make_plan, plan_cost
from app.acquire.preflight import DISK_RESERVE, Finding, Severity, free_bytes
from app.acquire.scan import check, data_bytes
from app.bench.characterisation import Measured, chosen
from app.bench.environment import Computer, gpus, hints
from app.bench.survey import lines, survey
from app.devices import open_devices
from app.errors import UsageError
from app.profile import Profile
from drivers.base import OperatorNeeded
from recon.decoders.shipped import decoder_problem

OLD_S = 90 * 86400.0
"""A characterisation older than this deserves a word."""


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        values: figures for the command's result.
        findings: errors and warnings; any error forbids the scan.
        people: lines about devices, computer and characterisation.
    """

    values: dict[str, Any]
    findings: list[Finding]
    people: list[str]

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]


def _not_now(request: str) -> bool:
    """A person is there when the scan begins, or it says so; looking at the plan asks nobody."""
    raise OperatorNeeded("light", f"check does not ask anybody to {request}")


def require_run_folder(folder: Path) -> None:
    """Raise `UsageError` unless runs can be written there."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UsageError(f"check: --folder {folder}: {what}; give the folder that runs will be written to")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"check: --folder {folder}: is not writable; choose another")


def check_profile(
    profile: Profile,
    seed: int = 0,
    sample: str | None = None,
    characterisation: Path | None = None,
    folder: Path | None = None,
    computer: Computer | None = None,
) -> Check:
    """Ask every device, look at the computer, and make and check the profile's plan. Nothing moves.

    A device that fails is an error among the findings; everything that can be told without it is still told.

    Args:
        profile, seed, sample: what and with what.
        characterisation: file to use instead of the profile's.
        folder: where runs will be written; its disk counts.
        computer: where to look for rules and GPUs.

    Raises:
        CharacterisationError: the file cannot be read.
        UsageError: there is no such folder, or nothing can be written into it.
    """
    computer = computer or Computer()
    if folder is not None:
        require_run_folder(folder)
    measured = chosen(profile, characterisation)
    known = profile if measured is None else measured.content.applied_to(profile)
    bench = profile if measured is None else measured.content.for_devices(profile)
    plan = make_plan(known)
    size = data_bytes(plan, profile)
    free = free_bytes(folder or Path.cwd())
    devices = open_devices(bench, seed, sample, ask=_not_now)
    findings: list[Finding] = []
    if problem := decoder_problem(profile.reconstruction.decoder):
        findings.append(Finding(Severity.ERROR, f"profile {profile.name}: reconstruction.decoder: {problem}"))
    costs: dict[str, Any] = {}
    try:
        answers, complete = survey(devices)
        findings += [Finding(Severity.ERROR, answer.failure) for answer in answers if answer.failure]
        if complete:
            findings += check(plan, profile, devices, measured=measured)
            cost = plan_cost(plan, devices.stage.info, profile)
            costs = {
                "travel_m": cost.travel_m,
                "duration_s": cost.duration_s,
                "frames": cost.frames,
                "dose": cost.sample_photons,
                "beam_photons": cost.beam_photons,
            }
    finally:
        devices.close()
    findings += [Finding(Severity.WARNING, line) for line in hints(profile, computer)]
    runs = max(0, int((free - DISK_RESERVE) // max(size, 1)))
    if runs < 1:
        text = f"disk: {free / 1e9:.2f} GB free, one run takes {size / 1e9:.2f} GB; make room or write elsewhere"
        findings.append(Finding(Severity.WARNING, text))
    found_gpus = gpus(computer)
    about, ages = _characterisation(measured)
    findings += [Finding(Severity.WARNING, line) for line in ages]
    people = [line for answer in answers for line in lines(answer) if not answer.failure]
    people.append(f"disk: {free / 1e9:.1f} GB free, room for {runs} such runs of {size / 1e9:.2f} GB")
    people.append(f"GPU: {', '.join(found_gpus) if found_gpus else 'none found; reconstruction will use the CPU'}")
    people.append(about)
    points = np.array(plan.positions_m).reshape(-1, 2)
    diameter = profile.geometry.pinhole_diameter_m
    values = {
        "profile": profile.name,
        "simulated": profile.simulated,
        "positions": len(points),
        "evaluation_positions": len(plan.evaluation_indices),
        "evaluation_exposures": len(plan.evaluation_exposures_s),
        **_overlaps("overlap", points, diameter),
        **_overlaps("evaluation_overlap", points[list(plan.evaluation_indices)], diameter),
        **costs,
        "bytes": size,
        "free_bytes": free,
        "runs_that_fit": runs,
        "gpus": found_gpus,
        "devices": {answer.device: answer.facts or {"error": answer.failure} for answer in answers},
        "characterisation": None if measured is None else _about(measured),
        "warnings": [f.message for f in findings if f.severity is Severity.WARNING],
    }
    return Check(values, findings, people)


def _about(measured: Measured) -> dict[str, Any]:
    ages = {f"{name}_age_s": age for name, age in measured.ages_s(time.time()).items()}
    return {"file": measured.source, "sha256": measured.sha256, **ages}


def _characterisation(measured: Measured | None) -> tuple[str, list[str]]:
    """A line about it, and warnings about its age."""
    if measured is None:
        return "characterisation: none, the profile's nominal numbers are used; `characterise` measures them", []
    ages = measured.ages_s(time.time())
    days = ", ".join(f"{name} {age / 86400:.1f} days old" for name, age in ages.items())
    old = [
        f"characterisation {measured.source}: its {name} is {age / 86400:.0f} days old; measure again"
        for name, age in ages.items()
        if age > OLD_S
    ]
    return f"characterisation: {measured.source} ({days}), sha256 {measured.sha256[:12]}", old


def _overlaps(prefix: str, points: np.ndarray, diameter_m: float) -> dict[str, float | None]:
    found = fermat.overlaps(points, diameter_m)
    return {
        f"{prefix}_linear_mean": None if found is None else found.linear_mean,
        f"{prefix}_linear_worst": None if found is None else found.linear_worst,
        f"{prefix}_area": None if found is None else found.area,
    }
