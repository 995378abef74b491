"""From a profile to a plan, and what a plan will cost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.acquire import fermat
from app.acquire.plan import Plan, Step, Stream
from app.profile import Profile, ProfileError, StageProfile
from drivers.base import StageInfo, StagePosition


def make_plan(profile: Profile, darks: bool = True) -> Plan:
    """All steps of a single-trajectory run.

    Darks of every distinct exposure, the beam blocked; the empty beam with the sample parked; then the scan points on
    a short path, at each the calibration frame (or frames, bracketed) and, at evaluation points, the whole ascending
    series before the stage moves on: a second visit would not find the same place; and perhaps the empty beam again.

    Args:
        darks: whether darks are taken; without them those of an earlier recording have to serve.
    """
    scan = profile.scan
    spacing = fermat.spacing_for_overlap(scan.positions, profile.geometry.pinhole_diameter_m, scan.overlap)
    points = fermat.spiral(scan.positions, spacing)
    chosen = fermat.every_kth(scan.positions, scan.evaluation_positions)
    series = scan.evaluation_exposures_s if chosen else ()
    steps: list[Step] = []

    def add(stream: Stream, index: int, target: StagePosition | None, exposure: float, light: bool, n: int = 1) -> None:
        steps.append(Step(len(steps), stream, index, target, exposure, light, n))

    bracket = scan.calibration_exposures_s or (scan.calibration_exposure_s,)
    parked = StagePosition(*profile.stage.park_m)
    if darks:
        for exposure in exposures_with_darks(profile):
            add(Stream.DARK, -1, None, exposure, False, scan.dark_frames)
    if scan.empty_frames:
        add(Stream.EMPTY, -1, parked, scan.empty_exposure_s, True, scan.empty_frames)
    to_stage = np.linalg.inv(np.array(profile.stage.stage_to_object))
    for index in fermat.visiting_order(points):
        y, x = np.array(profile.stage.centre_m) + to_stage @ points[index]
        target = StagePosition(float(y), float(x))
        for exposure in bracket:
            add(Stream.CALIBRATION, int(index), target, exposure, True)
        if int(index) in chosen:
            for exposure in series:
                add(Stream.EVALUATION, int(index), target, exposure, True)
    if scan.empty_after:
        add(Stream.EMPTY, -1, parked, scan.empty_exposure_s, True, scan.empty_frames)
    return Plan(
        steps=tuple(steps),
        positions_m=tuple((float(y), float(x)) for y, x in points),
        evaluation_indices=chosen,
        evaluation_exposures_s=series,
        calibration_exposure_s=scan.calibration_exposure_s,
        calibration_exposures_s=bracket,
    )


def make_low_dose_plan(
    profile: Profile, *, darks: bool = True, empty: bool = True, passes: int = 1, visit: int = 1
) -> Plan:
    """All steps of a scan of a new sample under an earlier calibration: no bright frame ever.

    Darks of every exposure, the beam blocked; perhaps the empty beam with the sample parked, for the flux; then the
    evaluation points alone on a short path, at each the ascending series, all of it so many times over.

    Args:
        darks: whether darks are taken; without them those of an earlier recording have to serve.
        empty: whether the empty beam is taken, where the profile has any.
        passes: how often the points are visited.
        visit: number of the first of these visits, above 0, which is the bright scan's.

    Raises:
        ProfileError: the profile has no evaluation points or exposures.
    """
    scan = profile.scan
    if not scan.evaluation_positions or not scan.evaluation_exposures_s:
        raise ProfileError(
            f"profile {profile.name!r}: a low-dose scan needs scan.evaluation_positions and evaluation_exposures_s"
        )
    spacing = fermat.spacing_for_overlap(scan.positions, profile.geometry.pinhole_diameter_m, scan.overlap)
    points = fermat.spiral(scan.positions, spacing)
    chosen = fermat.every_kth(scan.positions, scan.evaluation_positions)
    series = scan.evaluation_exposures_s
    steps: list[Step] = []
    exposures = {*series, scan.empty_exposure_s} if empty and scan.empty_frames else set(series)
    if darks:
        for exposure in sorted(exposures):
            steps.append(Step(len(steps), Stream.DARK, -1, None, exposure, False, scan.dark_frames))
    if empty and scan.empty_frames:
        parked = StagePosition(*profile.stage.park_m)
        steps.append(Step(len(steps), Stream.EMPTY, -1, parked, scan.empty_exposure_s, True, scan.empty_frames, visit))
    to_stage = np.linalg.inv(np.array(profile.stage.stage_to_object))
    order = [chosen[k] for k in fermat.visiting_order(points[list(chosen)])]
    for number in range(passes):
        for index in order:
            y, x = np.array(profile.stage.centre_m) + to_stage @ points[index]
            target = StagePosition(float(y), float(x))
            for exposure in series:
                steps.append(
                    Step(len(steps), Stream.EVALUATION, int(index), target, exposure, True, visit=visit + number)
                )
    return Plan(
        steps=tuple(steps),
        positions_m=tuple((float(y), float(x)) for y, x in points),
        evaluation_indices=chosen,
        evaluation_exposures_s=series,
        # Entry 1 of the file has to name one; it stays without frames.
        calibration_exposure_s=series[0],
        calibration_exposures_s=(),
        passes=passes,
    )


def exposures_with_darks(profile: Profile) -> tuple[float, ...]:
    """Every distinct exposure of a profile's run, ascending, s."""
    scan = profile.scan
    exposures = {scan.calibration_exposure_s, *scan.calibration_exposures_s}
    if scan.evaluation_positions:
        exposures.update(scan.evaluation_exposures_s)
    if scan.empty_frames:
        exposures.add(scan.empty_exposure_s)
    return tuple(sorted(exposures))


def approach_point(target: StagePosition, approach_m: float) -> StagePosition:
    """Where a one-sided approach begins: below the target on both axes, so that the last move always grows."""
    return StagePosition(target.y - approach_m, target.x - approach_m)


def lowest_point(target: StagePosition, stage: StageProfile) -> StagePosition:
    """How low the stage may come on its way to a target: where its approach begins, and on a downward move there the
    controller's own correction goes below that. Simulated stages have none."""
    correction = 0.0 if stage.driver == "simulated" else stage.backlash_correction_m
    return approach_point(target, stage.approach_m + correction)


@dataclass(frozen=True)
class PlanCost:
    """What a plan takes.

    Attributes:
        duration_s: exposures, read-out, moves with their approaches and settling; homing is not counted.
        travel_m: of the stage between the scan points, without approaches.
        frames: exposures, darks included.
        sample_photons: dose of the sample: photons in the illumination before the object while a calibration or
            evaluation frame is exposed.
        beam_photons: the same over all exposures with the beam on, the empty ones included.
    """

    duration_s: float
    travel_m: float
    frames: int
    sample_photons: float
    beam_photons: float


def step_durations(plan: Plan, stage: StageInfo, approach_m: float, overhead_s: float) -> tuple[float, ...]:
    """Seconds that each step takes, the move to it included."""
    durations = []
    present: StagePosition | None = None
    for step in plan.steps:
        seconds = step.repeats * (step.exposure_s + overhead_s)
        if step.target is not None and step.target != present:
            begin = step.target if approach_m == 0 else approach_point(step.target, approach_m)
            if present is not None:
                seconds += stage.move_duration_s(present, begin) + stage.settling_s
            if approach_m > 0:
                seconds += stage.move_duration_s(begin, step.target) + stage.settling_s
            present = step.target
        durations.append(seconds)
    return tuple(durations)


def plan_cost(plan: Plan, stage: StageInfo, profile: Profile) -> PlanCost:
    """Duration, travel and dose of a plan on this stage."""
    durations = step_durations(plan, stage, profile.stage.approach_m, profile.camera.frame_overhead_s)
    points = Stream.EVALUATION if plan.low_dose else Stream.CALIBRATION
    scan = [step for step in plan.steps if step.stream is points and step.target is not None]
    targets = np.array([step.target.as_tuple() for step in scan if step.target is not None]).reshape(-1, 2)
    rate = profile.light.photons_per_second
    lit = [step for step in plan.steps if step.light_on]
    sample = (s for s in lit if s.stream in (Stream.CALIBRATION, Stream.EVALUATION))
    return PlanCost(
        duration_s=sum(durations),
        travel_m=fermat.path_length(targets),
        frames=plan.frames,
        sample_photons=rate * sum(s.repeats * s.exposure_s for s in sample),
        beam_photons=rate * sum(s.repeats * s.exposure_s for s in lit),
    )
