"""The preflight: the whole plan is checked before anything moves, lights up or is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from scipy.special import j0

from app.acquire.plan import Plan
from app.acquire.planning import approach_point, lowest_point
from app.devices import Devices
from app.profile import Profile
from drivers.base import CameraInfo, InstrumentError, Interval, LightState
from drivers.manual import ManualLight

SUFFIXES = (".h5", ".hdf5")
DISK_RESERVE = 64 * 2**20
"""Free bytes that must remain beside the run."""


class PreflightError(Exception):
    """The plan cannot be carried out; nothing has moved and nothing was written. Names the first finding."""


class Severity(StrEnum):
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or worth knowing.

    Attributes:
        severity: an error forbids the run.
        message: one line: what, the value, the limit, what to do.
    """

    severity: Severity
    message: str


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder."""
    return shutil.disk_usage(folder).free


def preflight(
    plan: Plan,
    profile: Profile,
    devices: Devices,
    output: Path | None,
    needed_bytes: int,
    *,
    resume: bool = False,
    gain: Callable[[CameraInfo], float] = lambda camera: camera.electrons_per_adu,
    free: Callable[[Path], int] = free_bytes,
) -> list[Finding]:
    """Everything that can be known before the first move.

    Args:
        plan, profile: what is to be done.
        devices: open devices; they are only asked.
        output: the file to be, or None to leave files out.
        needed_bytes: its size.
        resume: the file exists already and has its size.
        gain: electrons per digital number of the open camera, where more is known than it says of itself.
        free: how much space a folder has.
    """
    findings = [*_devices_alive(profile, devices)]
    # A light in an unknown state is a warning: everything else is checked all the same.
    if not any(finding.severity is Severity.ERROR for finding in findings):
        findings += _targets(plan, profile, devices)
        findings += _exposures(plan, profile, devices)
        findings += _saturation(plan, profile, devices.camera.info, gain(devices.camera.info))
    if output is not None:
        findings += _output(output, needed_bytes, resume, free)
    return findings


def require(findings: Sequence[Finding]) -> None:
    """Raise `PreflightError` with the first error and the number of all."""
    errors = [f for f in findings if f.severity is Severity.ERROR]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise PreflightError(f"preflight: {errors[0].message}{more}; nothing was moved or written")


def peak_over_mean(profile: Profile) -> float:
    """Brightest point of the empty beam on the camera over the mean brightness inside the pinhole.

    The Fresnel diffraction of a disc: U(rho) = 2 pi F int_0^1 J0(2 pi F rho t) exp(i pi F t^2) t dt, with the Fresnel
    number F = a^2/(lambda z) and rho in units of the radius a.
    """
    geometry = profile.geometry
    fresnel = (geometry.pinhole_diameter_m / 2) ** 2 / (geometry.wavelength_m * geometry.distance_m)
    t = (np.arange(4000) + 0.5) / 4000
    rho = np.linspace(0.0, 1.5, 151)
    kernel = j0(2 * np.pi * fresnel * rho[:, None] * t) * (np.exp(1j * np.pi * fresnel * t * t) * t)
    amplitude = 2 * np.pi * fresnel * kernel.mean(axis=1)
    return float((np.abs(amplitude) ** 2).max())


def _error(message: str) -> Finding:
    return Finding(Severity.ERROR, message)


def _devices_alive(profile: Profile, devices: Devices) -> list[Finding]:
    try:
        camera = devices.camera.info
        devices.stage.position()
        state = devices.light.state
    except InstrumentError as error:
        return [_error(str(error))]
    if camera.shape != profile.camera.shape:
        return [
            _error(
                f"camera: delivers {camera.shape} pixels, the profile says {profile.camera.shape}; "
                "correct camera.shape or the region of interest"
            )
        ]
    if not np.isclose(camera.pixel_size_m, profile.camera.pixel_size_m, rtol=1e-3, atol=0.0):
        return [
            _error(
                f"camera: pixels of {camera.pixel_size_m:.6g} m, the profile says {profile.camera.pixel_size_m:.6g} m; "
                "correct camera.pixel_size_m"
            )
        ]
    if isinstance(devices.light, ManualLight) and not devices.light.ready():
        return [
            _error(
                "light: a person has to block the beam and let it through (light.driver), and nobody can be asked "
                "because stdin is not a terminal; start the scan in one"
            )
        ]
    if state is LightState.UNKNOWN:
        return [Finding(Severity.WARNING, "light: it is not known whether the beam is blocked; look before starting")]
    return []


def _targets(plan: Plan, profile: Profile, devices: Devices) -> list[Finding]:
    """Every place that the stage will be sent to, or passes by its controller's doing; approaches included."""
    stage, approach = devices.stage.info, profile.stage.approach_m
    findings = []
    for step in plan.steps:
        if step.target is None:
            continue
        if step.number and plan.steps[step.number - 1].target == step.target:
            continue  # the stage is there already, and the step that brought it has been checked
        places = [("target", step.target), ("approach", approach_point(step.target, approach))]
        lowest = lowest_point(step.target, profile.stage)
        if lowest != places[-1][1]:
            places.append(("backlash correction", lowest))
        for what, place in places:
            remedy = "move stage.centre_m or park_m, or scan less"
            if place is lowest:
                remedy += ", or lower stage.backlash_correction_m"
            for axis, value, limit in stage.axes(place):
                if not stage.within(value, limit):
                    findings.append(
                        _error(
                            f"stage: {axis} {what} {value:.6g} m of step {step.number} ({step.stream}) is outside "
                            f"{limit.low:.6g} .. {limit.high:.6g} m; {remedy}"
                        )
                    )
    return findings


def _exposures(plan: Plan, profile: Profile, devices: Devices) -> list[Finding]:
    """Exposures that the camera does not take, each key of the profile with a line to paste over it."""
    limit = devices.camera.info.exposure_s
    planned = {step.exposure_s for step in plan.steps}
    series = plan.evaluation_exposures_s
    keys: list[tuple[str, tuple[float, ...], str]] = [
        (key, (value,), f"{key} = {legal_ladder((value,), limit)[0]!r}")
        for key, value in (
            ("calibration_exposure_s", plan.calibration_exposure_s),
            ("empty_exposure_s", profile.scan.empty_exposure_s),
        )
    ]
    if len(plan.calibration_exposures_s) > 1:
        bracket = plan.calibration_exposures_s
        legal = sorted({_inside(min(max(value, limit.low), limit.high), limit) for value in bracket})
        line = f"calibration_exposures_s = [{', '.join(repr(value) for value in legal)}]"
        keys.insert(0, ("calibration_exposures_s", bracket, line))
    if series:
        ladder = ", ".join(repr(value) for value in legal_ladder(series, limit))
        keys.insert(0, ("evaluation_exposures_s", series, f"evaluation_exposures_s = [{ladder}]"))
    findings = []
    for key, values, line in keys:
        wrong = [value for value in values if value in planned and not limit.contains(value)]
        if wrong:
            listed = ", ".join(f"{value:.6g}" for value in wrong)
            findings.append(
                _error(
                    f"camera: exposure {listed} s of {key} is outside {limit.low:.6g} .. {limit.high:.6g} s; "
                    f"the nearest legal line in [scan] is: {line}"
                )
            )
    named = {value for _, values, _ in keys for value in values}
    findings += [
        _error(
            f"camera: exposure {value:.6g} s of the plan is outside {limit.low:.6g} .. {limit.high:.6g} s; "
            "choose one inside"
        )
        for value in sorted(planned - named)
        if not limit.contains(value)
    ]
    return findings


def legal_ladder(exposures_s: Sequence[float], limit: Interval) -> tuple[float, ...]:
    """As many ascending exposures inside the limits, evenly spaced in their logarithm.

    They keep the first and last exposure where those are legal and end at the limit where not. A ladder that lies
    outside altogether begins at the limit next to it and keeps its span as far as the limits allow.
    """
    first, last = exposures_s[0], exposures_s[-1]
    low, high = min(max(first, limit.low), limit.high), min(max(last, limit.low), limit.high)
    if len(exposures_s) == 1:
        return (_inside(low, limit),)
    if low == high:
        span = last / first
        low, high = (low, min(low * span, limit.high)) if low == limit.low else (max(high / span, limit.low), high)
    return tuple(_inside(float(value), limit) for value in np.geomspace(low, high, len(exposures_s)))


def _inside(value: float, limit: Interval) -> float:
    """Four digits are enough for a person, unless they lead out of the limits."""
    short = float(f"{value:.4g}")
    return short if limit.contains(short) else value


def _saturation(plan: Plan, profile: Profile, info: CameraInfo, electrons_per_adu: float) -> list[Finding]:
    camera = profile.camera
    area = np.pi * profile.geometry.pinhole_diameter_m**2 / 4
    rate = profile.light.photons_per_second * camera.quantum_efficiency * camera.pixel_size_m**2 / area
    # The converter may end far below the full well: analogue gain brings it down.
    capacity = min(camera.full_well_e, (info.saturation_adu - info.black_level_adu) * electrons_per_adu)
    peak = peak_over_mean(profile)
    findings = []
    for stream, exposure in sorted({(s.stream, s.exposure_s) for s in plan.steps if s.light_on}):
        mean = rate * exposure + camera.dark_current_e_s * exposure
        numbers = f"{exposure:.6g} s ({stream}) brings about {mean * peak:.3g} electrons to the brightest pixel"
        if mean > capacity:
            findings.append(
                _error(f"camera: {numbers}, and {mean:.3g} to most, of {capacity:.6g}; expose shorter or dim the light")
            )
        elif mean * peak > capacity:
            findings.append(
                Finding(Severity.WARNING, f"camera: {numbers} of {capacity:.6g}; clipped pixels will be left out")
            )
    return findings


def _output(output: Path, needed: int, resume: bool, free: Callable[[Path], int]) -> list[Finding]:
    folder = output.parent
    if output.suffix not in SUFFIXES:
        return [_error(f"output {output}: the name must end in .h5 or .hdf5, or other programs will not open it")]
    if resume:
        if not output.is_file():
            return [_error(f"output {output}: does not exist; nothing to resume")]
        # Frames that are still to come have their place in the file already, but not on the disk.
        status = output.stat()
        return _room(output, max(0, status.st_size - 512 * getattr(status, "st_blocks", 0)), free)
    if output.exists():
        return [_error(f"output {output}: exists already; choose another name, or resume it")]
    if not folder.is_dir():
        return [_error(f"output {output}: the folder {folder} does not exist; create it")]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [_error(f"output {output}: the folder {folder} is not writable; choose another")]
    return _room(output, needed, free)


def _room(output: Path, needed: int, free: Callable[[Path], int]) -> list[Finding]:
    available = free(output.parent)
    if available < needed + DISK_RESERVE:
        return [
            _error(
                f"output {output}: needs {needed / 1e6:.0f} MB and {DISK_RESERVE / 1e6:.0f} MB in reserve, the disk "
                f"has {available / 1e6:.0f} MB free; make room or write elsewhere"
            )
        ]
    return []
