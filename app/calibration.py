"""`ptychoscope calibrate`: from a bright scan in any readable file to probe, object, distance and positions."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.calibration_figure import CalibrationPicture, calibration_figure
from app.errors import Interrupted, UsageError
from app.outputs import require_file, require_folder
from app.progress import Course
from app.unfinished import FOREIGN, holds_complete, what_is_left
from app.yardstick import score
from recon.calibrate import (
    Calibration,
    CalibrationSettings,
    EpochReport,
    Illumination,
    batch_of,
    calibrate,
    illuminated,
    lit_window,
    with_epochs,
)
from recon.dataset import DatasetError, Ptychogram, Scan, Truth
from recon.device import keep_memory
from recon.errorbars import Uncertainty
from recon.files.imports import Overrides, open_any, read_probe
from recon.files.read import open_hdf5, open_run
from recon.files.results import StoredCalibration, store_calibration
from recon.files.reuse import whole_calibration
from recon.files.schema import ATTR_CREATOR, CREATOR
from recon.orient import orient
from recon.residuals import Residuals, residuals
from recon.streaming import Streamed, Sums, frame_budget
from recon.team import ALONE, Team, join, share_of, team_sums
from recon.uncertainty import uncertainty_of

WORST_MISFIT = 1.2
"""Squared residuals over the noise above which the model is wrong by more than the deviations can cover."""
LEAST_FRAMES_TO_ASK = 24
"""Frames below which nobody asks whether a scan is mirrored."""
LIKELY = (0, 1, 2, 3, 4)
"""As given, columns flipped, rows flipped, sign reversed (the same as both flips), axes exchanged."""
FOREIGN_BATCH, FOREIGN_FRAMES = 8, 192
"""Frames of a step, and of a scan from which on it has so many: small frames of many points, as others publish them."""
CHECK_FRAMES, CHECK_EPOCHS, CHECK_MARGIN = 16, (2, 3), 0.2
"""The cheap question before a calibration, and from where on its answer is a warning."""


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


def calibrate_data(
    data: Scan,
    settings: CalibrationSettings,
    device: str,
    course: Course,
    checkpoint: Path | None = None,
    team: Team = ALONE,
    sums: Sums | None = None,
    memory_bytes: float | None = None,
    probe: NDArray[np.complex64] | None = None,
) -> Calibration:
    """Calibrate with progress on the console."""
    keep_memory()
    begun = False

    def shown(report: EpochReport) -> None:
        nonlocal begun
        if not begun:
            course.begin("calibrating", report.epochs)
            begun = True
        note = (
            f"{report.stage}  distance {report.distance_m * 1e3:.3f} mm  moved {report.position_change_px:.3f} px"
            f"  loss {report.loss:.4f}"
        )
        course.advance(report.epoch, note, report.share)

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
            probe=probe,
        )
    for line in calibration.plan:
        course.say(line)
    return calibration


def uncertainty(data: Ptychogram, calibration: Calibration, device: str, course: Course) -> Uncertainty | None:
    """Standard deviations with progress; None when Ctrl-C ended the calibration or this."""
    if calibration.interrupted or course.stopped():
        return None
    begun = False

    def shown(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            course.begin("uncertainties", total)
            begun = True
        course.advance(done)

    with course.interruptible():
        return uncertainty_of(data, calibration, device=device, report=shown, stop=course.stopped)


def storable(
    calibration: Calibration, errors: Uncertainty | None = None, visits: NDArray[np.int64] | None = None
) -> StoredCalibration:
    """A calibration as a run keeps it, with its standard deviations where they are known.

    `visits` (`RunFile.visits`) says from which visit to its point each frame is.
    """
    light = calibration.illumination
    pixel = light.geometry.object_pixel_m
    return StoredCalibration(
        probe=light.probe,
        probe_pixel_m=pixel,
        object=calibration.object,
        object_pixel_m=pixel,
        distance_m=light.geometry.distance_m,
        positions_m=light.positions_m,
        loss=calibration.loss,
        settings=calibration.summary(),
        software=software(),
        uncertainty=errors,
        visits=visits,
    )


def store(
    path: Path, calibration: Calibration, errors: Uncertainty | None = None, *, visits: NDArray[np.int64]
) -> None:
    """Put a calibration into its run, see `storable`."""
    store_calibration(path, storable(calibration, errors, visits))


def stored_illumination(path: Path) -> tuple[Illumination, int]:
    """The illumination that a run's calibration left in it, and the side of its lit window in pixels.

    Raises:
        DatasetError: the run is not calibrated, or was not as it is now.
    """
    stored = whole_calibration(path)
    with open_run(path) as run:
        data = run.streamed(1)
    geometry = replace(data.geometry, distance_m=stored.distance_m)
    light = Illumination(stored.probe, geometry, stored.positions_m, data.indices)
    return light, int(stored.settings["window_px"])


def draw(calibration: Calibration, data: Scan, left: Residuals, path: Path) -> Path:
    """The figure of a calibration and of what it leaves unexplained."""
    light = calibration.illumination
    pixel = light.geometry.object_pixel_m
    heading = f"{data.name}: distance {light.geometry.distance_m * 1e3:.4g} mm, {len(data)} frames"
    picture = CalibrationPicture(
        probe=light.probe,
        object=calibration.object,
        lit=illuminated(light.probe, light.positions_m / pixel, len(calibration.object)),
        pixel_m=pixel,
        camera_pixel_m=light.geometry.pixel_size_m,
        positions_m=light.positions_m,
        nominal_m=data.positions_m,
        loss=calibration.loss,
        distance_m=calibration.distance_m,
        stages=calibration.stages,
        unexplained=left.pixels,
        unexplained_frames=left.frames,
        points=light.indices,
    )
    return calibration_figure(picture, heading, path)


def _arrays(known: Uncertainty) -> dict[str, Any]:
    """An uncertainty for an npz file."""
    names = ("distance_sigma_m", "affine_sigma", "position_sigma_m", "probe_modes", "probe_sigma", "misfit")
    return {name: getattr(known, name) for name in names}


def for_run(
    settings: CalibrationSettings, repeatability_m: float, pixel_m: float, illumination_m: float
) -> CalibrationSettings:
    """Settings for a run of this program, whose stage and beam are known."""
    return replace(
        settings,
        probe_diameter_m=settings.probe_diameter_m or illumination_m,
        position_prior_m=max(repeatability_m, pixel_m / 10),
    )


def bright_scan(
    path: Path,
    probe_diameter_m: float | None,
    seed: int,
    overrides: Overrides,
    batch: int | None = None,
    modes: int = 1,
    processes: int = 1,
) -> tuple[Streamed, CalibrationSettings, Truth | None]:
    """What is calibrated in any readable file, to be closed by the caller, how, and the truth of a simulated run.

    Raises:
        UsageError: options for foreign files with a run, or a run without a bright scan.
        DatasetError: unreadable.
    """
    settings = CalibrationSettings(probe_diameter_m=probe_diameter_m, seed=seed, batch=batch, modes=modes)
    own = is_run(path)
    if own and overrides != Overrides():
        raise UsageError(f"{path}: a run knows its own geometry; --wavelength and the like are for foreign files")
    truth: Truth | None = None
    if own:
        with open_run(path) as run:
            if run.calibration_source:
                raise UsageError(f"{path}: is a low-dose run without a bright scan; it relies on another's calibration")
            truth, profile, illumination_m = run.truth(), run.profile, run.illumination_m
        data = open_any(path)
        settings = for_run(settings, profile["stage"]["repeatability_m"], data.geometry.pixel_size_m, illumination_m)
    else:
        data = open_any(path, overrides)
        # The origin of somebody else's stage may be anywhere; the object's grid is centred on the scan.
        data = replace(data, positions_m=data.positions_m - data.positions_m.mean(0))
        # Nothing is known of a foreign bench's stage and light: priors of two pixels and 5 % let the data decide.
        settings = replace(
            settings,
            position_prior_m=2 * data.geometry.object_pixel_m,
            flux_prior=0.05,
            refine_distance=False,
            batch=batch or (processes * math.ceil(FOREIGN_BATCH / processes) if len(data) >= FOREIGN_FRAMES else None),
            warm_epochs=2,
            joint_epochs=48,
            refine_epochs=0,
            full_epochs=0,
            object_rate=0.03,
        )
    try:
        settings.check(data)
    except DatasetError:
        data.close()
        raise
    return data, settings, truth


def looks_mirrored(
    data: Streamed,
    settings: CalibrationSettings,
    device: str,
    course: Course,
    probe: NDArray[np.complex64] | None = None,
) -> str:
    """A warning when a flipped or turned scan explains the frames clearly better than the scan as given, or "".

    A few epochs on the middle of the scan and on the coarsest pixels, for the orientations that are mistaken for the
    right one most easily; scans of few frames are not asked, because the answer would cost more than it is worth.
    """
    if len(data) < LEAST_FRAMES_TO_ASK:
        return ""
    course.begin("orientation", len(LIKELY) * sum(CHECK_EPOCHS))
    with course.interruptible():
        found = orient(
            data,
            replace(settings, batch=None),
            ways=LIKELY,
            frames=CHECK_FRAMES,
            epochs=CHECK_EPOCHS,
            device=device,
            report=lambda done, _, name: course.advance(done, name),
            stop=course.stopped,
            probe=probe,
        )
    if course.stopped() or found.as_given or found.margin < CHECK_MARGIN:
        return ""
    return (
        f"looks mirrored: {found.best.name} explains the frames better by {found.margin:.0%}; "
        "ask ptychoscope orient, and correct stage_to_object or the file"
    )


def calibrate_file(
    path: Path,
    out: Path | None,
    device: str,
    probe_diameter_m: float | None,
    epochs: int | None,
    seed: int,
    overrides: Overrides,
    checkpoint: Path | None = None,
    memory_bytes: float | None = None,
    batch: int | None = None,
    with_uncertainty: bool = True,
    modes: int = 1,
    probe_file: Path | None = None,
    flux_prior: float | None = None,
    background_prior: float | None = None,
) -> dict[str, Any]:
    """Calibrate a file and draw the result; a run of this program keeps the result, a foreign file is left as it is.

    Flux of each frame and background are searched where their priors are given (`CalibrationSettings`); the flux of a
    foreign file always.

    Under `torchrun` the processes share the frames; rank 0 alone draws, stores and returns the values of the command's
    JSON line, the others return nothing.

    Raises:
        Interrupted: somebody stopped it; says what is kept. A calibration that was ended before its time never takes
            the place of a complete one.
        UsageError: an option, or a file that cannot be written in the end.
    """
    begin = time.monotonic()
    folder = out or path.with_name(f"{path.stem}-calibration")
    require_folder("calibrate", folder)
    if checkpoint is not None:
        require_file("calibrate", checkpoint)
    probe = None if probe_file is None else read_probe(probe_file)
    with join(device) as (team, place):
        data, settings, truth = bright_scan(path, probe_diameter_m, seed, overrides, batch, modes, team.size)
        settings = replace(settings, flux_prior=flux_prior or settings.flux_prior, background_prior=background_prior)
        # Whatever is interrupted, what was found goes into the run and onto paper.
        with Course(quiet=team.rank != 0) as course, course.interruptible():
            # The file is closed before the result goes into it; nobody can write it until then.
            with data:
                visits = _visits(path)
                calibration = _calibrated(
                    path, data, settings, epochs, place, course, checkpoint, memory_bytes, team, probe
                )
                known = _errors(data, calibration, place, course, memory_bytes, team) if with_uncertainty else None
                left = residuals(data, calibration, place) if team.rank == 0 else None
            if left is None:
                return {}
            kept = not (calibration.interrupted and holds_complete(path if visits is not None else folder))
            values = _kept(path, folder, data, calibration, known, left, visits) if kept else {"figure": None}
        values = (
            _numbers(calibration, known, left, truth)
            | values
            | {
                "processes": team.size,
                "batch": batch_of(settings, len(data), team.size),
                "seconds": time.monotonic() - begin,
            }
        )
        if calibration.interrupted or course.stopped():
            missing = with_uncertainty and known is None
            where = folder / FOREIGN if visits is None else path
            raise Interrupted(what_is_left(calibration, kept, missing, where, checkpoint), values=values)
        return values


def _visits(path: Path) -> NDArray[np.int64] | None:
    """From which visits the bright scan of a run is; None for somebody else's file."""
    if not is_run(path):
        return None
    with open_run(path) as run:
        return run.visits(1)


def _calibrated(
    path: Path,
    data: Streamed,
    settings: CalibrationSettings,
    epochs: int | None,
    device: str,
    course: Course,
    checkpoint: Path | None,
    memory_bytes: float | None,
    team: Team,
    probe: NDArray[np.complex64] | None,
) -> Calibration:
    sums = team_sums(share_of(data, team), len(data), team, device)
    if epochs is not None:
        settings = with_epochs(data, settings, lit_window(data, settings.lit_energy, sums)[0], epochs)
    if team.size == 1 and (mirrored := looks_mirrored(data, settings, device, course, probe)):
        course.say(f"warning: {path}: {mirrored}")
    return calibrate_data(data, settings, device, course, checkpoint, team, sums, memory_bytes, probe)


def _errors(
    data: Streamed, calibration: Calibration, device: str, course: Course, memory_bytes: float | None, team: Team
) -> Uncertainty | None:
    """Standard deviations, which take all frames in one memory; where they do not fit a line says so."""
    if team.size > 1:
        course.say("standard deviations are left out: they take one process")
        return None
    held, budget = 4 * len(data) * data.geometry.shape[0] * data.geometry.shape[1], frame_budget(memory_bytes)
    if held > budget:
        course.say(
            f"standard deviations are left out: {held / 1e9:.1f} GB of frames, {budget / 1e9:.1f} GB to hold them"
        )
        return None
    found = uncertainty(data.load(), calibration, device, course)
    if found is not None and found.misfit > WORST_MISFIT:
        course.say(
            f"misfit {found.misfit:.2f}, over {WORST_MISFIT}: the frames hold what the model cannot explain, and the "
            "standard deviations are too small; does the pixel resolve the light at the frame's rim?"
        )
    return found


def _kept(
    path: Path,
    folder: Path,
    data: Streamed,
    calibration: Calibration,
    known: Uncertainty | None,
    left: Residuals,
    visits: NDArray[np.int64] | None,
) -> dict[str, Any]:
    """Store and draw a calibration; where it is drawn."""
    # Stored first: a folder that cannot be drawn into must not cost the calibration.
    if visits is not None:
        store(path, calibration, known, visits=visits)
    figure = draw(calibration, data, left, folder / "calibration.png")
    if visits is None:
        light = calibration.illumination
        np.savez(
            folder / FOREIGN,
            probe=light.probe,
            object=calibration.object,
            positions_m=light.positions_m,
            distance_m=light.geometry.distance_m,
            pixel_size_m=light.geometry.pixel_size_m,
            object_pixel_m=light.geometry.object_pixel_m,
            far_field=light.geometry.far_field,
            wavelength_m=light.geometry.wavelength_m,
            loss=calibration.loss,
            residual=left.pixels,
            residual_of_frames=left.frames,
            interrupted=calibration.interrupted,
            **({} if known is None else _arrays(known)),
        )
    return {"figure": str(figure)}


def _numbers(
    calibration: Calibration, known: Uncertainty | None, left: Residuals, truth: Truth | None
) -> dict[str, Any]:
    """A calibration's values for people and scripts."""
    values = calibration.summary()
    del values["settings"]
    values |= {"residual": float(left.frames.mean()), "odd_frames": left.odd()}
    if known is not None:
        values |= known.summary(calibration.illumination.geometry.object_pixel_m)
    return values if truth is None else values | asdict(score(calibration, truth))
