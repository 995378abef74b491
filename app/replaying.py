"""A recorded run as devices: to show it again in a window, or to drive the runner with it. No driver is ever opened."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.acquire.command import ConsoleProgress
from app.acquire.plan import Plan, Step, Stream
from app.acquire.runner import FRAMES_PER_VISIT, REPEATS_PER_STEP, STREAM_CODES
from app.acquire.scan import Label, Scan
from app.bench.characterisation import Measured, parse
from app.devices import Devices
from app.live.pace import PacedClock
from app.profile import Profile
from app.runs import stored_plan
from app.stopping import Interrupt
from drivers.base import CameraInfo, Interval, Region, StageInfo, StagePosition
from drivers.clock import Clock, SystemClock, VirtualClock
from recon.dataset import DatasetError, Truth
from recon.files.read import open_run
from recon.files.recorded import RecordedFrames
from recon.files.reuse import Source
from simulators.replay import Moment, Playhead, ReplayCamera, ReplayLight, ReplayStage


@dataclass(frozen=True)
class Recorded:
    """A run's frames and what they were taken with. Implements `simulators.replay.Recording`.

    Attributes:
        path: the run.
        camera, stage: as recorded; nothing is exposed and nothing moves, so both count as simulated.
        plan: the recorded plan as far as it was carried out, without darks: of them only statistics are kept.
        profile: of the run.
        measured: its characterisation, or None.
        seed, sample, label, outcome: of the run.
        calibration: of a low-dose run, what it relies on.
        truth: of a simulated run.
        moments: every frame, in the plan's order.
    """

    path: Path
    camera: CameraInfo
    stage: StageInfo
    plan: Plan
    profile: Profile
    measured: Measured | None
    seed: int
    sample: str
    label: Label
    outcome: str
    calibration: Source | None
    truth: Truth | None
    moments: tuple[Moment, ...]
    _places: tuple[tuple[int, int], ...]
    _frames: RecordedFrames

    def image(self, number: int) -> NDArray[np.uint16]:
        """(rows, columns) raw digital numbers. Raises `DatasetError`."""
        return self._frames.image(*self._places[number])

    def step_of(self, number: int) -> Step:
        """The plan's step of a frame."""
        return self.plan.steps[self.moments[number].step]

    def close(self) -> None:
        self._frames.close()

    @classmethod
    def open(cls, path: Path) -> Recorded:
        """The run in a file, which stays open until `close`.

        Raises:
            DatasetError: not a run, being written, damaged, or without a single frame.
        """
        with open_run(path) as run:
            plan, profile = stored_plan(run.plan_json, run.profile_json, str(path))
            measured = parse(run.characterisation, f"in {path}") if run.characterisation else None
            source, done, taken = run.calibration_source, run.steps_committed, run.series_committed
            camera, stage = _camera(run.camera, profile), _stage(run.stage, profile)
            label, truth = Label(run.sample_name, run.notes), run.truth()
            seed, sample, outcome = run.seed, run.sample, run.outcome
        gone = set(plan.left_out(done, taken))
        steps = [step for step in plan.steps[:done] if step.stream is not Stream.DARK and step not in gone]
        plan = replace(plan, steps=tuple(replace(step, number=k) for k, step in enumerate(steps)))
        if not steps:
            raise DatasetError(f"{path}: holds no frame; complete it with scan --resume")
        frames = RecordedFrames(path)
        try:
            moments, places = _moments(plan, frames)
        except BaseException:
            frames.close()
            raise
        return cls(
            path,
            camera,
            stage,
            plan,
            profile,
            measured,
            seed,
            sample,
            label,
            outcome,
            Source.from_json(source) if source else None,
            truth,
            moments,
            places,
            frames,
        )


def _moments(plan: Plan, frames: RecordedFrames) -> tuple[tuple[Moment, ...], tuple[tuple[int, int], ...]]:
    """Every frame of the plan's steps, and (entry, index) of each."""
    facts = {entry: frames.facts(entry) for entry in frames.entries}
    places = plan.places()
    moments = []
    for (number, repeat), (entry, index) in places.items():
        known, step = facts[entry], plan.steps[number]
        moments.append(
            Moment(
                key=(STREAM_CODES[step.stream], step.visit * FRAMES_PER_VISIT + number * REPEATS_PER_STEP + repeat),
                exposure_s=float(known.exposures_s[index]),
                asked_s=step.exposure_s,
                time=float(known.times[index]),
                commanded=step.target,
                readback=_place(known.readback_m[index]),
                lit=step.light_on,
                visit=step.visit,
                step=number,
            )
        )
    return tuple(moments), tuple(places.values())


def _place(pair: NDArray[np.float64]) -> StagePosition | None:
    return StagePosition(float(pair[0]), float(pair[1])) if np.isfinite(pair).all() else None


def _camera(own: Any, profile: Profile) -> CameraInfo:
    region = Region(*own.region)
    known = profile.simulation
    whole = known.sensor_shape if known is not None and known.sensor_shape else (0, 0)
    return CameraInfo(
        model=own.model,
        serial=own.serial,
        # Of the sensor a run keeps no more than the region that was read out.
        sensor_shape=(max(whole[0], region.top + region.rows), max(whole[1], region.left + region.columns)),
        region=region,
        pixel_size_m=profile.camera.pixel_size_m,
        bit_depth=profile.camera.bit_depth,
        electrons_per_adu=own.electrons_per_adu,
        black_level_adu=own.black_level_adu,
        gain_db=own.gain_db,
        exposure_s=Interval(0.0, math.inf, "s"),
        simulated=True,
    )


def _stage(identity: tuple[str, str], profile: Profile) -> StageInfo:
    s = profile.stage
    return StageInfo(
        model=identity[0],
        serial=identity[1],
        y_m=Interval(*s.limits_y_m, "m"),
        x_m=Interval(*s.limits_x_m, "m"),
        velocity_m_s=s.velocity_m_s,
        acceleration_m_s2=s.acceleration_m_s2,
        step_m=1.0 / s.microsteps_per_m,
        settling_s=s.settling_s,
        simulated=True,
    )


@dataclass(frozen=True)
class Replay:
    """A run that is shown again.

    Attributes:
        recorded: the run.
        playhead: what moves through it.
        devices: recorded ones, closed.
    """

    recorded: Recorded
    playhead: Playhead
    devices: Devices

    @classmethod
    def open(cls, path: Path, clock: Clock | None = None) -> Replay:
        """The run in a file, from its first frame. Raises `DatasetError`.

        Args:
            clock: where the devices' time comes from; default: virtual time from the first frame's on.
        """
        recorded = Recorded.open(path)
        playhead = Playhead([moment.time for moment in recorded.moments], SystemClock())
        own = clock or VirtualClock(recorded.moments[0].time)
        return cls(recorded, playhead, _devices(recorded, playhead, own))

    def devices_with(self, clock: Clock) -> Devices:
        """The same devices, closed, in another time."""
        return _devices(self.recorded, self.playhead, clock)

    def close(self) -> None:
        self.recorded.close()

    def scan(self, out: Path) -> Scan:
        """The recorded plan with the recorded devices, into a new file, with the darks of the recording."""
        own = self.recorded
        return Scan(
            plan=own.plan,
            profile=own.profile,
            devices=self.devices,
            path=out,
            measured=own.measured,
            darks=own.path,
            calibration=own.calibration,
            label=own.label,
            replay_of=own.path.name,
        )


def _devices(recorded: Recorded, playhead: Playhead, clock: Clock) -> Devices:
    camera, stage = ReplayCamera(recorded, playhead, clock), ReplayStage(recorded, playhead)
    truth = recorded.truth

    def true_position() -> tuple[float, float]:
        assert truth is not None
        y, x = truth.positions_m[recorded.step_of(playhead.number).position_index]
        return float(y), float(x)

    return Devices(
        camera=camera,
        stage=stage,
        light=ReplayLight(recorded, playhead),
        clock=clock,
        sample=recorded.sample,
        seed=recorded.seed,
        true_position=None if truth is None else true_position,
        truth=None if truth is None else lambda plan: truth,
        seed_frame=camera.seed_next,
        seed_visit=stage.seed_visit,
    )


def replay_run(path: Path, out: Path, speed: float | None, interrupt: Interrupt) -> dict[str, Any]:
    """`ptychoscope replay`: the runner executes the recorded plan with recorded devices, into a new file.

    Args:
        path: the run.
        out: the file to write.
        speed: recorded seconds a second; None: as fast as it goes.
        interrupt: knows afterwards whether somebody stopped it.

    Raises: what `Replay.open` and `Runner.run` raise.
    """
    begin = time.monotonic()
    first = Replay.open(path)
    clock = None if speed is None else PacedClock(speed, first.recorded.moments[0].time)
    replay = first if clock is None else replace(first, devices=first.devices_with(clock))
    observer = ConsoleProgress(sys.stderr, True)
    try:
        with replay.devices:
            runner = replay.scan(out).runner(observer)
            observer.runner = runner
            with interrupt.listening(runner.abort):
                outcome = runner.run()
    finally:
        replay.close()
    with open_run(out) as run:
        frames = run.frames_committed
    return {
        "run": str(out),
        "replayed": str(path),
        "outcome": outcome.value,
        "frames": frames,
        "seconds": time.monotonic() - begin,
    }
