"""A whole scan: from a profile to a finished file, or from an interrupted file to a finished one."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from app.acquire.plan import Plan, Stream
from app.acquire.planning import make_plan
from app.acquire.preflight import Finding, preflight, require
from app.acquire.runner import Observer, Runner
from app.devices import Devices, open_devices
from app.profile import Profile
from drivers.base import HasNodeMap
from recon.dataset import DatasetError, Geometry
from recon.files.layout import CameraRecord, RunDescription, StageRecord
from recon.files.read import open_run
from recon.files.write import RunWriter

PACKAGES = ("ptychoscope", "numpy", "scipy", "h5py", "pypylon")
FULL_WELL_SIGMAS = 8.0
"""A pixel this many read noises below its full well may have been clipped already."""


def describe(plan: Plan, profile: Profile, devices: Devices) -> RunDescription:
    """What the run file has to know before the first frame; devices are open."""
    camera, stage, scan = devices.camera.info, devices.stage.info, profile.scan
    full = camera.black_level_adu + profile.camera.full_well_e / camera.electrons_per_adu
    margin = FULL_WELL_SIGMAS * profile.camera.read_noise_e / camera.electrons_per_adu
    empty_frames = sum(step.repeats for step in plan.steps if step.stream is Stream.EMPTY)
    return RunDescription(
        title=f"Ptychoscope {profile.name}" + (" (simulated)" if profile.simulated else ""),
        simulated=profile.simulated,
        geometry=Geometry(
            profile.geometry.wavelength_m, profile.geometry.distance_m, camera.pixel_size_m, camera.shape
        ),
        illumination_m=profile.geometry.pinhole_diameter_m,
        camera=CameraRecord(
            model=camera.model,
            serial=camera.serial,
            electrons_per_adu=camera.electrons_per_adu,
            black_level_adu=camera.black_level_adu,
            saturation_adu=min(float(camera.saturation_adu), full - margin),
            quantum_efficiency=profile.camera.quantum_efficiency,
            node_map=devices.camera.node_map() if isinstance(devices.camera, HasNodeMap) else "",
        ),
        stage=StageRecord(stage.model, stage.serial, profile.stage.stage_to_object, profile.stage.centre_m),
        positions=len(plan.positions_m),
        calibration_exposure_s=plan.calibration_exposure_s,
        calibration_frames=sum(step.repeats for step in plan.steps if step.stream is Stream.CALIBRATION),
        evaluation_exposures_s=plan.evaluation_exposures_s,
        evaluation_frames=len(plan.evaluation_indices),
        empty_exposure_s=scan.empty_exposure_s,
        empty_frames=empty_frames,
        dark_exposures_s=tuple(step.exposure_s for step in plan.steps if step.stream is Stream.DARK),
        keep_darks=scan.keep_darks,
        plan_json=plan.to_json(),
        profile_json=profile.model_dump_json(),
        seed=devices.seed,
        sample=devices.sample,
        software=software_versions(),
        truth=None if devices.truth is None else devices.truth(plan),
    )


def software_versions() -> dict[str, str]:
    """Names and versions of what makes a run's numbers."""
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def data_bytes(plan: Plan, profile: Profile) -> int:
    """Size of a run's frames and darks on disk, uncompressed."""
    pixels = profile.camera.shape[0] * profile.camera.shape[1]
    darks = sum(step.stream is Stream.DARK for step in plan.steps)
    light = sum(step.repeats for step in plan.steps if step.stream is not Stream.DARK)
    return pixels * (2 * (light + darks * profile.scan.keep_darks) + 8 * darks)


def check(
    plan: Plan, profile: Profile, devices: Devices, output: Path | None = None, *, resume: bool = False
) -> list[Finding]:
    """The preflight of a plan: all findings, errors and warnings."""
    return preflight(plan, profile, devices, output, data_bytes(plan, profile), resume=resume)


@dataclass(frozen=True)
class Scan:
    """A scan that is ready to run.

    Attributes:
        plan, profile: what will be done.
        devices: with what, still closed.
        path: the run file.
        resume: whether the file exists and is to be completed.
    """

    plan: Plan
    profile: Profile
    devices: Devices
    path: Path
    resume: bool = False

    @classmethod
    def new(cls, profile: Profile, path: Path, seed: int = 0, sample: str | None = None) -> Scan:
        """A scan into a new file. Raises what `open_devices` raises, and `DatasetError` when the file exists."""
        if path.exists():
            raise DatasetError(f"{path}: exists already; choose another name, or resume it")
        return cls(make_plan(profile), profile, open_devices(profile, seed, sample), path)

    @classmethod
    def interrupted(cls, path: Path) -> Scan:
        """The rest of an interrupted scan, with the plan, profile, sample and seed in its file.

        Raises:
            DatasetError: not a run, or damaged.
        """
        with open_run(path) as run:
            plan_json, profile_json, seed, sample = run.plan_json, run.profile_json, run.seed, run.sample
        try:
            plan = Plan.from_json(plan_json)
            profile = Profile.model_validate_json(profile_json)
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{path}: its plan or profile cannot be read ({type(error).__name__}); "
                "it is damaged or of another version"
            ) from None
        return cls(plan, profile, open_devices(profile, seed, sample or None), path, resume=True)

    def runner(self, observer: Observer | None = None) -> Runner:
        """The runner of this scan; its `run` needs open devices (`with scan.devices`)."""
        return Runner(
            plan=self.plan,
            devices=self.devices,
            approach_m=self.profile.stage.approach_m,
            preflight=self._preflight,
            open_writer=self._open_writer,
            observer=observer,
            overhead_s=self.profile.camera.frame_overhead_s,
        )

    def _preflight(self) -> None:
        require(check(self.plan, self.profile, self.devices, self.path, resume=self.resume))
        if self.resume and not os.access(self.path, os.W_OK):
            raise DatasetError(f"{self.path}: is not writable; change its permissions to resume it")

    def _open_writer(self) -> RunWriter:
        if self.resume:
            return RunWriter.resume(self.path, self.devices.clock)
        return RunWriter.create(self.path, describe(self.plan, self.profile, self.devices), self.devices.clock)
