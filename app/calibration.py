"""`ptychoscope calibrate`: from a bright scan in any readable file to probe, object, distance and positions."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import UsageError
from app.figures import calibration_figure
from app.progress import Course
from recon.calibrate import (
    Calibration,
    CalibrationSettings,
    EpochReport,
    Illumination,
    batch_of,
    calibrate,
    lit_window,
    with_epochs,
)
from recon.dataset import DatasetError, Scan, Truth
from recon.device import keep_memory
from recon.files.imports import Overrides, open_any
from recon.files.read import open_hdf5, open_run
from recon.files.results import StoredCalibration, load_calibration, store_calibration
from recon.files.schema import ATTR_CREATOR, CREATOR
from recon.metrics import distance_error_m, fit_positions, probe_error, resample
from recon.streaming import Sums
from recon.team import ALONE, Team, join, share_of, team_sums


def software() -> dict[str, str]:
    """Versions of what made a result."""
    return {name: metadata.version(name) for name in ("ptychoscope", "torch", "numpy")}


def is_run(path: Path) -> bool:
    """Whether the file is a run of this program. Raises `DatasetError` for a missing or broken HDF5 file."""
    if not path.is_file():
        raise DatasetError(f"{path}: does not exist; check the name")
    if path.suffix.lower() not in (".h5", ".hdf5"):
        return False
    with open_hdf5(path) as file:
        return file.attrs.get(ATTR_CREATOR) == CREATOR


@dataclass(frozen=True)
class CalibrationScore:
    """A calibration against the truth of a simulated run; see `recon.metrics`."""

    distance_error_m: float
    position_rms_px: float
    probe_error: float


def score(calibration: Calibration, truth: Truth) -> CalibrationScore:
    """Errors of distance, positions and probe, modulo the gauge freedoms."""
    light = calibration.illumination
    pixel = light.geometry.pixel_size_m
    fit = fit_positions(light.positions_m, truth.positions_m[light.indices])
    true_probe = resample(truth.probe, truth.probe_pixel_m, len(light.probe), pixel)
    return CalibrationScore(
        distance_error_m(light.geometry.distance_m, truth.distance_m, fit.scale),
        fit.rms_m / pixel,
        probe_error(light.probe, true_probe, pixel, light.geometry.wavelength_m, truth.distance_m),
    )


def calibrate_data(
    data: Scan,
    settings: CalibrationSettings,
    device: str,
    course: Course,
    checkpoint: Path | None = None,
    team: Team = ALONE,
    sums: Sums | None = None,
    memory_bytes: float | None = None,
) -> Calibration:
    """Calibrate with progress on the console."""
    keep_memory()
    course.begin("calibrating", settings.epochs)

    def shown(report: EpochReport) -> None:
        note = (
            f"{report.stage}  distance {report.distance_m * 1e3:.3f} mm  moved {report.position_change_px:.3f} px"
            f"  loss {report.loss:.4f}"
        )
        course.advance(report.epoch, note)

    with course.interruptible():
        calibration = calibrate(
            data,
            settings,
            device=device,
            report=shown,
            stop=course.stopped,
            checkpoint=checkpoint,
            team=team,
            sums=sums,
            memory_bytes=memory_bytes,
        )
    for line in calibration.plan:
        course.say(line)
    return calibration


def store(path: Path, calibration: Calibration) -> None:
    """Put a calibration into its run."""
    light = calibration.illumination
    pixel = light.geometry.pixel_size_m
    settings = calibration.summary()
    store_calibration(
        path,
        StoredCalibration(
            probe=light.probe,
            probe_pixel_m=pixel,
            object=calibration.object,
            object_pixel_m=pixel,
            distance_m=light.geometry.distance_m,
            positions_m=light.positions_m,
            loss=calibration.loss,
            settings=settings,
            software=software(),
        ),
    )


def stored_illumination(path: Path) -> tuple[Illumination, int]:
    """The illumination that a run's calibration left in it, and the side of its lit window in pixels.

    Raises:
        DatasetError: the run is not calibrated.
    """
    stored = load_calibration(path)
    if stored is None:
        raise DatasetError(f"{path}: is not calibrated yet; run `ptychoscope calibrate {path}` first")
    with open_run(path) as run:
        data = run.streamed(1)
    geometry = replace(data.geometry, distance_m=stored.distance_m)
    light = Illumination(stored.probe, geometry, stored.positions_m, data.indices)
    return light, int(stored.settings["window_px"])


def draw(calibration: Calibration, data: Scan, path: Path) -> Path:
    """The figure of a calibration."""
    light = calibration.illumination
    pixel = light.geometry.pixel_size_m
    heading = f"{data.name}: distance {light.geometry.distance_m * 1e3:.4g} mm, {len(data)} frames"
    return calibration_figure(
        light.probe,
        calibration.object,
        light.positions_m / pixel,
        data.positions_m / pixel,
        calibration.loss,
        calibration.distance_m,
        calibration.stages,
        heading,
        path,
    )


def calibrate_file(
    path: Path,
    out: Path | None,
    device: str,
    focus_to_sample_m: float | None,
    probe_diameter_m: float | None,
    epochs: int | None,
    seed: int,
    overrides: Overrides,
    checkpoint: Path | None = None,
    memory_bytes: float | None = None,
    batch: int | None = None,
) -> dict[str, Any]:
    """Calibrate a file and draw the result; a run of this program keeps the result, a foreign file is left as it is.

    Under `torchrun` the processes share the frames; rank 0 alone draws, stores and returns the values of the command's
    JSON line, the others return nothing.
    """
    with join(device) as (team, place):
        settings = CalibrationSettings(probe_diameter_m=probe_diameter_m, seed=seed, batch=batch)
        return _calibrate_file(
            path, out, place, focus_to_sample_m, settings, epochs, overrides, checkpoint, memory_bytes, team
        )


def _calibrate_file(
    path: Path,
    out: Path | None,
    device: str,
    focus_to_sample_m: float | None,
    settings: CalibrationSettings,
    epochs: int | None,
    overrides: Overrides,
    checkpoint: Path | None,
    memory_bytes: float | None,
    team: Team,
) -> dict[str, Any]:
    begin = time.monotonic()
    own = is_run(path)
    if own and (focus_to_sample_m is not None or overrides != Overrides()):
        raise UsageError(f"{path}: a run knows its own geometry; --wavelength and the like are for foreign files")
    truth: Truth | None = None
    if own:
        with open_run(path) as run:
            truth, profile, illumination_m = run.truth(), run.profile, run.illumination_m
        data = open_any(path)
        prior = max(profile["stage"]["repeatability_m"], data.geometry.pixel_size_m / 10)
        settings = replace(
            settings, probe_diameter_m=settings.probe_diameter_m or illumination_m, position_prior_m=prior
        )
    else:
        data = open_any(path, overrides)
        # Nothing is known of a foreign bench's stage: a prior of two pixels lets the data decide.
        scaled = data.geometry if focus_to_sample_m is None else data.geometry.fresnel_scaled(focus_to_sample_m)
        # The origin of somebody else's stage may be anywhere; the object's grid is centred on the scan.
        data = replace(data, geometry=scaled, positions_m=data.positions_m - data.positions_m.mean(0))
        settings = replace(
            settings,
            position_prior_m=2 * scaled.pixel_size_m,
            refine_distance=False,
            warm_epochs=40,
            joint_epochs=60,
            refine_epochs=0,
            full_epochs=0,
            object_rate=0.03,
        )
    # The file is closed before the result goes into it.
    with data, Course(quiet=team.rank != 0) as course:
        sums = team_sums(share_of(data, team), len(data), team, device)
        if epochs is not None:
            settings = with_epochs(data, settings, lit_window(data, settings.lit_energy, sums)[0], epochs)
        calibration = calibrate_data(data, settings, device, course, checkpoint, team, sums, memory_bytes)
    if team.rank != 0:
        return {}
    folder = out or path.with_name(f"{path.stem}-calibration")
    figure = draw(calibration, data, folder / "calibration.png")
    if own:
        store(path, calibration)
    else:
        light = calibration.illumination
        np.savez(
            folder / "calibration.npz",
            probe=light.probe,
            object=calibration.object,
            positions_m=light.positions_m,
            distance_m=light.geometry.distance_m,
            pixel_size_m=light.geometry.pixel_size_m,
            wavelength_m=light.geometry.wavelength_m,
            loss=calibration.loss,
        )
    values = calibration.summary()
    del values["settings"]
    if truth is not None:
        errors = score(calibration, truth)
        values |= {
            "distance_error_m": errors.distance_error_m,
            "position_rms_px": errors.position_rms_px,
            "probe_error": errors.probe_error,
        }
    return values | {
        "processes": team.size,
        "batch": batch_of(settings, len(data), team.size),
        "seconds": time.monotonic() - begin,
        "figure": str(figure),
    }
