"""A whole scan: from a profile to a finished file, or from an interrupted file to a finished one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from app.acquire.darkness import DarkCheck
from app.acquire.observer import Enough, Observer
from app.acquire.plan import Plan, Stream
from app.acquire.planning import make_low_dose_plan, make_plan
from app.acquire.preflight import Finding, Severity, preflight, require
from app.acquire.runner import Runner
from app.acquire.sameness import asked, other_devices
from app.bench.characterisation import Measured, electrons_per_adu, parse
from app.bench.darks import SensorGuess, guess_of
from app.devices import Devices, open_devices
from app.profile import Profile
from app.runs import stored_plan
from drivers.base import CameraInfo, HasNodeMap
from drivers.manual import Ask, nobody
from recon.dataset import DatasetError, Geometry
from recon.files.dark_sets import read_dark_set
from recon.files.darks import DarkSummary
from recon.files.layout import CameraRecord, RunDescription, StageRecord
from recon.files.read import open_run
from recon.files.reuse import Source, differences
from recon.files.write import RunWriter

PACKAGES = ("ptychoscope", "numpy", "scipy", "h5py", "pypylon")
FULL_WELL_SIGMAS = 8.0
"""A pixel this many read noises below its full well may have been clipped already."""


@dataclass(frozen=True)
class Label:
    """What people write on a run.

    Attributes:
        sample: its name.
        notes: anything.
    """

    sample: str = ""
    notes: str = ""


def describe(
    plan: Plan,
    profile: Profile,
    devices: Devices,
    measured: Measured | None = None,
    darks: Mapping[float, DarkSummary] | None = None,
    darks_source: str = "",
    calibration_source: str = "",
    replay_of: str = "",
    label: Label | None = None,
    spare_visits: int = 0,
) -> RunDescription:
    """What the run file has to know before the first frame; devices are open.

    Args:
        plan, profile, devices: of the run.
        measured: what is known of this bench; it takes the place of what the profile assumes.
        darks: darks of an earlier recording by exposure, for exposures without dark steps.
        darks_source: where they are from.
        calibration_source: JSON of the calibration that a low-dose run relies on.
        replay_of: the run that is replayed; "" for a measurement.
        label: what people call the sample, and their notes.
        spare_visits: so many points may have to be taken again besides those whose visit is interrupted.
    """
    camera, stage, scan = devices.camera.info, devices.stage.info, profile.scan
    known = profile if measured is None else measured.content.applied_to(profile)
    node_map = devices.camera.node_map() if isinstance(devices.camera, HasNodeMap) else ""
    empty = [step.repeats for step in plan.steps if step.stream is Stream.EMPTY]
    reused = dict(darks or {})
    own_darks = {step.exposure_s for step in plan.steps if step.stream is Stream.DARK}
    return RunDescription(
        title=f"Ptychoscope {profile.name}"
        + (f" (replay of {replay_of})" if replay_of else " (simulated)" if profile.simulated else ""),
        simulated=profile.simulated or bool(replay_of),
        geometry=Geometry(
            profile.geometry.wavelength_m, profile.geometry.distance_m, camera.pixel_size_m, camera.shape
        ),
        illumination_m=profile.geometry.pinhole_diameter_m,
        camera=camera_record(profile, camera, measured, node_map),
        stage=StageRecord(stage.model, stage.serial, known.stage.stage_to_object, known.stage.centre_m),
        positions=len(plan.positions_m),
        calibration_exposure_s=plan.calibration_exposure_s,
        calibration_frames=sum(step.repeats for step in plan.steps if step.stream is Stream.CALIBRATION),
        evaluation_exposures_s=plan.evaluation_exposures_s,
        evaluation_frames=len(plan.evaluation_indices) * plan.passes,
        empty_exposure_s=scan.empty_exposure_s,
        empty_frames=sum(empty),
        empty_before=empty[0] if empty else 0,
        dark_exposures_s=tuple(sorted(own_darks | set(reused))),
        keep_darks=scan.keep_darks,
        plan_json=plan.to_json(),
        profile_json=profile.model_dump_json(),
        seed=devices.seed,
        sample=devices.sample,
        software=software_versions(),
        truth=None if devices.truth is None else devices.truth(plan),
        calibration_exposures_s=plan.calibration_exposures_s,
        darks=reused,
        darks_source=darks_source,
        calibration_source=calibration_source,
        characterisation="" if measured is None else measured.text,
        visit_frames=plan.longest_visit,
        steps=len(plan.steps) if plan.low_dose else 0,
        spare_visits=spare_visits,
        sample_name="" if label is None else label.sample,
        notes="" if label is None else label.notes,
    )


def camera_record(profile: Profile, camera: CameraInfo, measured: Measured | None, node_map: str = "") -> CameraRecord:
    """The camera as a run knows it: what was measured takes the place of what it says of itself."""
    content = None if measured is None else measured.content
    known = profile if content is None else content.applied_to(profile)
    measured_camera = None if content is None else content.camera
    gain = electrons_per_adu(measured, camera)
    full = camera.black_level_adu + known.camera.full_well_e / gain
    margin = FULL_WELL_SIGMAS * known.camera.read_noise_e / gain
    region = camera.region
    return CameraRecord(
        model=camera.model,
        serial=camera.serial,
        electrons_per_adu=gain,
        black_level_adu=camera.black_level_adu,
        saturation_adu=min(float(camera.saturation_adu), full - margin),
        quantum_efficiency=profile.camera.quantum_efficiency,
        node_map=node_map,
        gain_db=camera.gain_db,
        region=(region.top, region.left, region.rows, region.columns),
        read_noise_e=known.camera.read_noise_e,
        dark_current_e_s=known.camera.dark_current_e_s,
        exposure_offset_s=0.0 if measured_camera is None else measured_camera.exposure_offset_s,
        bit_depth=camera.bit_depth,
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


def data_bytes(plan: Plan, profile: Profile, reused_darks: int = 0) -> int:
    """Size of a run's frames and darks on disk, uncompressed; `reused_darks` exposures bring theirs along."""
    pixels = profile.camera.shape[0] * profile.camera.shape[1]
    darks = reused_darks + sum(step.stream is Stream.DARK for step in plan.steps)
    light = sum(step.repeats for step in plan.steps if step.stream is not Stream.DARK)
    return pixels * (2 * (light + darks * profile.scan.keep_darks) + 8 * darks)


def check(
    plan: Plan,
    profile: Profile,
    devices: Devices,
    output: Path | None = None,
    *,
    resume: bool = False,
    measured: Measured | None = None,
    reused_darks: int = 0,
) -> list[Finding]:
    """The preflight of a plan: all findings, errors and warnings."""
    known = profile if measured is None else measured.content.applied_to(profile)
    findings = preflight(
        plan,
        known,
        devices,
        output,
        data_bytes(plan, profile, reused_darks),
        resume=resume,
        gain=lambda camera: electrons_per_adu(measured, camera),
    )
    known_devices = asked(devices)
    if measured is None or known_devices is None:
        return findings
    return [*_errors(measured.differences(*known_devices)), *findings]


def _errors(lines: Sequence[str]) -> list[Finding]:
    return [Finding(Severity.ERROR, line) for line in lines]


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@dataclass(frozen=True)
class Scan:
    """A scan that is ready to run.

    Attributes:
        plan, profile: what will be done.
        devices: with what, still closed.
        path: the run file.
        resume: whether the file exists and is to be completed.
        measured: what is known of this bench beyond the profile, or None.
        darks: file with the darks to use instead of new ones, or None.
        calibration: the calibration that a new low-dose scan relies on, or None.
        say: told of every warning of the preflight.
        label: what people call the sample, and their notes.
        replay_of: the run whose recorded devices these are; "" for a measurement. Nothing is approached then.
        retaken: a point of a complete run that is taken again, with `resume`; None for a whole scan.
        whole: with `retaken`, what enough light left out there is taken as well.
        lent: of a single-trajectory scan, the calibration under which its images are made until it has its own; then
            enough light may leave exposures out. None: nobody lends one.
    """

    plan: Plan
    profile: Profile
    devices: Devices
    path: Path
    resume: bool = False
    measured: Measured | None = None
    darks: Path | None = None
    calibration: Source | None = None
    say: Callable[[str], None] = _to_stderr
    label: Label = Label()
    replay_of: str = ""
    retaken: int | None = None
    whole: bool = False
    lent: Source | None = None

    @classmethod
    def new(
        cls,
        profile: Profile,
        path: Path,
        seed: int = 0,
        sample: str | None = None,
        measured: Measured | None = None,
        darks: Path | None = None,
        ask: Ask = nobody,
        *,
        label: Label = Label(),
        devices: Devices | None = None,
        lent: Path | None = None,
    ) -> Scan:
        """A scan into a new file; `ask` reaches a person where the light is a manual one.

        With `devices` those are used, open or not, and `seed`, `sample` and `ask` are theirs already. `lent` is the run
        whose calibration serves until this one has its own.

        Raises: what `open_devices` raises, and `DatasetError` when the file exists or `lent` is not calibrated.
        """
        if path.exists():
            raise DatasetError(f"{path}: exists already; choose another name, or resume it")
        known = profile if measured is None else measured.content.applied_to(profile)
        bench = profile if measured is None else measured.content.for_devices(profile)
        devices = devices or open_devices(bench, seed, sample, ask=ask)
        plan = make_plan(known, darks is None)
        source = None if lent is None else Source.of(lent)
        return cls(plan, profile, devices, path, measured=measured, darks=darks, label=label, lent=source)

    @classmethod
    def low_dose(
        cls,
        profile: Profile,
        path: Path,
        calibration: Path,
        seed: int = 0,
        sample: str | None = None,
        measured: Measured | None = None,
        darks: Path | None = None,
        ask: Ask = nobody,
        *,
        empty: bool = True,
        passes: int = 1,
        label: Label = Label(),
        devices: Devices | None = None,
    ) -> Scan:
        """A low-dose scan of a new sample into a new file, under the calibration of the run `calibration`.

        Raises: what `new` raises; `DatasetError` when that run is not calibrated, `ProfileError` without a series.
        """
        if path.exists():
            raise DatasetError(f"{path}: exists already; choose another name, or resume it")
        source = Source.of(calibration)
        known = profile if measured is None else measured.content.applied_to(profile)
        bench = profile if measured is None else measured.content.for_devices(profile)
        devices = devices or open_devices(bench, seed, sample, ask=ask)
        # A visit that follows from what is scanned, so that the same command takes the same run.
        visit = 1 + int(sha256(f"{source.sha256} {devices.sample}".encode()).hexdigest()[:4], 16)
        plan = make_low_dose_plan(known, darks=darks is None, empty=empty, passes=passes, visit=visit)
        return cls(plan, profile, devices, path, measured=measured, darks=darks, calibration=source, label=label)

    @classmethod
    def interrupted(cls, path: Path, ask: Ask = nobody, *, devices: Devices | None = None) -> Scan:
        """The rest of an interrupted scan, with the plan, profile, sample and seed in its file.

        With `devices` those are used; the preflight compares them with the file's.

        Raises:
            DatasetError: not a run, or damaged.
        """
        with open_run(path) as run:
            plan_json, profile_json, seed, sample = run.plan_json, run.profile_json, run.seed, run.sample
            text = run.characterisation
        plan, profile = stored_plan(plan_json, profile_json, str(path))
        measured = parse(text, f"in {path}") if text else None
        bench = profile if measured is None else measured.content.for_devices(profile)
        if devices is not None and (devices.seed, devices.sample) != (seed, sample):
            raise DatasetError(
                f"{path}: was begun with seed {seed} and object {sample or '-'}, connected are seed {devices.seed} and "
                f"object {devices.sample or '-'}; connect the former"
            )
        devices = devices or open_devices(bench, seed, sample or None, ask=ask)
        return cls(plan, profile, devices, path, True, measured)

    def runner(
        self,
        observer: Observer | None = None,
        watch: Callable[[], None] | None = None,
        enough: Callable[[int], Enough | None] = lambda _: None,
        next_point: Callable[[int, tuple[int, ...]], int | None] = lambda _, points: None,
    ) -> Runner:
        """The runner of this scan; its `run` needs open devices (`with scan.devices`). For the rest see `Runner`."""
        return Runner(
            plan=self.plan,
            devices=self.devices,
            approach_m=0.0 if self.replay_of else self.profile.stage.approach_m,
            preflight=self._preflight,
            open_writer=self._open_writer,
            observer=observer,
            overhead_s=self.profile.camera.frame_overhead_s,
            inspect_dark=DarkCheck(self._sensor),
            watch=watch,
            retaken=self.retaken,
            whole=self.whole,
            enough=enough,
            next_point=next_point,
        )

    def _sensor(self) -> SensorGuess:
        known = self.profile if self.measured is None else self.measured.content.applied_to(self.profile)
        return guess_of(self.devices.camera.info, known.camera, self.measured)

    def findings(self) -> list[Finding]:
        """All that the preflight finds, errors and warnings; devices are open and only asked. Raises `DatasetError`."""
        findings = check(
            self.plan,
            self.profile,
            self.devices,
            self.path,
            resume=self.resume,
            measured=self.measured,
            reused_darks=0 if self.darks is None else len(self.plan.exposures_s),
        )
        for source in (self.calibration, self.lent):
            if source is not None:
                findings += self._same_bench(source)
        known_devices = asked(self.devices)
        if self.resume and known_devices is not None and self.path.is_file():
            with open_run(self.path) as run:
                # First: a camera that is set otherwise is why it would be too bright, or its frames have another shape.
                findings = [*_errors(other_devices(run, *known_devices)), *findings]
        return findings

    def _preflight(self) -> None:
        findings = self.findings()
        require(findings)
        for finding in findings:
            self.say(f"warning: {finding.message}")
        if not self.resume:
            self._reused_darks()
        if self.resume and not os.access(self.path, os.W_OK):
            raise DatasetError(f"{self.path}: is not writable; change its permissions to resume it")

    def _same_bench(self, source: Source) -> list[Finding]:
        """An error when the calibration is another bench's."""
        camera, region = self.devices.camera.info, self.devices.camera.info.region
        here = {
            "camera": camera.serial,
            "stage": self.devices.stage.info.serial,
            "pixel_size_m": camera.pixel_size_m,
            "wavelength_m": self.profile.geometry.wavelength_m,
            "region": [region.top, region.left, region.rows, region.columns],
        }
        different = differences(source.bench, here)
        if not different:
            return []
        advice = "calibrate this bench"
        if self.devices.stage.info.simulated:
            advice += " (a simulated one is another for each --seed)"
        return [Finding(Severity.ERROR, f"calibration {source.path}: is of {different}; {advice}")]

    def _open_writer(self) -> RunWriter:
        if self.resume:
            return RunWriter.resume(self.path, self.devices.clock)
        darks, source = self._reused_darks()
        calibration = "" if self.calibration is None else self.calibration.to_json()
        run = describe(
            self.plan,
            self.profile,
            self.devices,
            self.measured,
            darks,
            source,
            calibration,
            self.replay_of,
            self.label,
            # What is left out is taken later with the whole visits that it belongs to.
            0 if self.lent is None else len(self.plan.evaluation_indices),
        )
        return RunWriter.create(self.path, run, self.devices.clock)

    def _reused_darks(self) -> tuple[dict[float, DarkSummary], str]:
        """Darks of the file given, for every exposure of the plan, and where they are from. Raises `DatasetError`."""
        if self.darks is None:
            return {}, ""
        camera = self.devices.camera.info
        region = camera.region
        found = read_dark_set(self.darks)
        chosen = found.choose(
            self.plan.exposures_s,
            camera.model,
            camera.serial,
            camera.gain_db,
            (region.top, region.left, region.rows, region.columns),
            camera.black_level_adu,
            camera.bit_depth,
            str(self.darks),
        )
        return chosen, f"{self.darks}, recorded {found.recorded}"
