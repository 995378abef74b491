"""What a person at the window may ask of a bench. Each order runs in the thread that owns the devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from app.acquire.drift import record_drift
from app.acquire.frame import Frame
from app.acquire.observer import DarkObserver, DoseJudge, Enough, Observer, Progress, RunState
from app.acquire.plan import Plan
from app.acquire.preflight import Finding
from app.acquire.scan import Label, Scan
from app.bench.exposing import find_exposure
from app.bench.motion import words
from app.errors import known_message
from app.live.order import Look, Order
from app.live.owner import DeviceOwner
from app.live.session import session_of
from app.live.setup import MakeSetup, Setup
from app.live.state import Doing, RunStatus
from app.profile import Profile
from app.runs import points_left
from drivers.base import LimitError, NotReadyError, Region, StagePosition
from recon.files.darks import DarkSummary
from recon.files.read import open_run

SUGGESTED = 0.7
"""Brightest pixels of a suggested exposure, of the range."""

T = TypeVar("T")
Then = Callable[[T], None]
"""Called with an order's result, in the devices' thread; be quick."""


def connect(make: MakeSetup) -> Order:
    """Open another bench; nothing moves."""
    return Order("connect", lambda owner: owner.connect(make), doing=Doing.CONNECTING)


def disconnect() -> Order:
    """Close all devices."""
    return Order("disconnect", lambda owner: owner.watched.close(), doing=Doing.CONNECTING)


def reconnect(*names: str) -> Order:
    """Close and open some devices; nothing moves."""
    name = f"reconnect {' and '.join(names)}"
    return Order(name, lambda owner: owner.watched.reconnect(*names), doing=Doing.CONNECTING)


def live(wanted: bool) -> Order:
    return Order("live", lambda owner: owner.watched.set_live(wanted), key="live")


def set_exposure(seconds: float) -> Order:
    def act(owner: DeviceOwner) -> None:
        owner.watched.require("camera")
        owner.watched.camera_changed(owner.setup.devices.camera.set_exposure(seconds))

    return Order("exposure", act, key="exposure")


def set_region(region: Region) -> Order:
    """Read out this part of the sensor from now on."""

    def act(owner: DeviceOwner) -> None:
        with owner.watched.still_camera():
            owner.setup.devices.camera.set_region(region)
        owner.watched.camera_changed()

    return Order("region", act, key="region")


def suggest_exposure(then: Then[float] | None = None) -> Order:
    """The exposure at which the brightest pixels reach 70 % of the range, set."""

    def act(owner: DeviceOwner) -> None:
        with owner.watched.still_camera():
            camera = owner.setup.devices.camera
            found, _ = find_exposure(session_of(owner), camera.info.black_level_adu, SUGGESTED, 0)
        seconds = camera.info.exposure_s.low if found < camera.info.exposure_s.low else float(f"{found:.2g}")
        owner.watched.camera_changed(camera.set_exposure(min(seconds, camera.info.exposure_s.high)))
        owner.journal.info(f"camera: {seconds:.4g} s brings the brightest pixels to about {100 * SUGGESTED:.0f} %")
        if then is not None:
            then(seconds)

    return Order("suggest an exposure", act, doing=Doing.MEASURING)


def move_to(target: StagePosition, name: str = "") -> Order:
    """To a displacement, directly."""

    def act(owner: DeviceOwner) -> None:
        owner.watched.require("stage")
        stage = owner.setup.devices.stage
        stage.info.require(target)
        start = stage.position()
        owner.tell(f"to {name or words(target)}, about {stage.info.move_duration_s(start, target):.1f} s")
        here = stage.move_to(target, owner.stopped)
        owner.journal.info(f"stage: at {name + ', ' if name else ''}{words(here)}")

    return Order("move", act, doing=Doing.MOVING)


def jog(y_m: float, x_m: float) -> Order:
    """By so much from where the stage is."""

    def act(owner: DeviceOwner) -> None:
        owner.watched.require("stage")
        stage = owner.setup.devices.stage
        if not stage.homed:
            raise NotReadyError("stage", "is not homed, positions mean nothing; home it first")
        here = stage.position()
        info = stage.info
        for axis, place, limit in info.axes(here):
            if not info.within(place, limit):
                raise LimitError(
                    "stage",
                    f"{axis} stands at {place:.6g} m, outside {limit.low:.6g} .. {limit.high:.6g} m; go inside with "
                    "Go to, which moves both axes",
                )
        stage.move_to(StagePosition(here.y + y_m, here.x + x_m), owner.stopped)

    return Order("jog", act, doing=Doing.MOVING)


def home() -> Order:
    """Both axes to the ends of their travel."""

    def act(owner: DeviceOwner) -> None:
        owner.watched.require("stage")
        owner.tell("homing both axes")
        owner.setup.devices.stage.home(owner.stopped)
        owner.journal.info("stage: homed")

    return Order("home", act, doing=Doing.MOVING)


def light(wanted_open: bool) -> Order:
    """Let the beam through, or block it."""

    def act(owner: DeviceOwner) -> None:
        owner.watched.require("light")
        beam = owner.setup.devices.light
        if wanted_open:
            beam.unblock()
        else:
            beam.block()

    return Order("light", act, doing=Doing.MEASURING)


@dataclass(frozen=True)
class ScanRequest:
    """A scan as it is asked for.

    Attributes:
        path: the run file.
        profile: with the scan's numbers as they were changed; the bench's own decides on the devices.
        resume: complete the run in `path`; all else follows from it.
        darks: file with darks to use, or None.
        calibration: of a low-dose scan, the run that it relies on.
        lent: of another, the run whose calibration serves until this one has its own.
        passes, empty: of a low-dose scan.
        label: sample name and notes.
    """

    path: Path
    profile: Profile
    resume: bool = False
    darks: Path | None = None
    calibration: Path | None = None
    lent: Path | None = None
    passes: int = 1
    empty: bool = True
    label: Label = field(default_factory=Label)

    def scan(self, setup: Setup) -> Scan:
        """The scan with the bench's own devices. Raises what `Scan` raises."""
        devices = setup.devices
        if self.resume:
            return Scan.interrupted(self.path, devices=devices)
        if self.calibration is not None:
            return Scan.low_dose(
                self.profile,
                self.path,
                self.calibration,
                measured=setup.measured,
                darks=self.darks,
                empty=self.empty,
                passes=self.passes,
                label=self.label,
                devices=devices,
            )
        return Scan.new(
            self.profile,
            self.path,
            measured=setup.measured,
            darks=self.darks,
            label=self.label,
            devices=devices,
            lent=self.lent,
        )


@dataclass(frozen=True)
class Checked(Generic[T]):
    """What a preflight found.

    Attributes:
        request: what was asked for.
        findings: all; none when something could not even be planned.
        error: why it could not, or "".
    """

    request: T
    findings: tuple[Finding, ...] = ()
    error: str = ""


def check(request: ScanRequest, then: Then[Checked[ScanRequest]]) -> Order:
    """Check a scan with the devices as they are; they are only asked."""

    def act(owner: DeviceOwner) -> None:
        try:
            owner.watched.require("camera", "stage", "light")
            found = Checked(request, tuple(request.scan(owner.setup).findings()))
        except Exception as error:
            words = known_message(error)
            if words is None:
                raise
            found = Checked(request, error=words)
        then(found)

    return Order("check", act, key="check")


def scan(request: ScanRequest) -> Order:
    """Carry a scan out, or complete one."""

    def act(owner: DeviceOwner) -> None:
        owner.watched.require("camera", "stage", "light")
        left = _left(request.path) if request.resume else ()
        if left:
            _taken_again(owner, request.path, left, whole=True)
            return
        made = request.scan(owner.setup)
        outcome = _carried_out(owner, made)
        told = f"scan: {outcome.value}, {made.path}"
        owner.journal.info(told + ("; it can be resumed" if outcome is RunState.ABORTED else ""))
        if outcome is RunState.COMPLETED:
            drift = record_drift(made.path)
            warning = None if drift is None else drift.warning()
            if warning is not None:
                owner.journal.warning(warning)

    return Order("scan", act, doing=Doing.SCANNING)


def retake(path: Path, points: Sequence[int]) -> Order:
    """Take points of a complete run again, one after the other, each a revision of its file."""

    def act(owner: DeviceOwner) -> None:
        owner.watched.require("camera", "stage", "light")
        _taken_again(owner, path, points, whole=False)

    return Order("take again", act, doing=Doing.SCANNING)


def _left(path: Path) -> tuple[int, ...]:
    with open_run(path) as run:
        return points_left(run)


def _taken_again(owner: DeviceOwner, path: Path, points: Sequence[int], whole: bool) -> None:
    for place, point in enumerate(points):
        if owner.stopped() or owner.aborted:
            left = ", ".join(str(other) for other in points[place:])
            owner.journal.warning(f"scan: aborted, not taken again: {left}, {path}")
            return
        made = replace(Scan.interrupted(path, devices=owner.setup.devices), retaken=point, whole=whole)
        outcome = _carried_out(owner, made)
        owner.journal.info(f"scan: point {point} taken again, {outcome.value}, {path}")
        if outcome is not RunState.COMPLETED:
            return


def _carried_out(owner: DeviceOwner, made: Scan) -> RunState:
    """Run a scan, shown and watched. Raises what `Runner.run` raises."""
    made = _speaking(made, owner)
    watcher = _Watcher(owner, made)
    runner = made.runner(watcher, owner.watched.watch, watcher.enough)
    begun = [listener.run_begins(made) for listener in owner.listeners]
    watcher.others = [observer for observer in begun if observer is not None]
    with owner.watched.still_camera(), owner.running(runner):
        try:
            return runner.run()
        except Exception as error:
            watcher.failed(error)
            raise


def unfinished(path: Path) -> str | None:
    """Why the run in a file cannot be resumed, or None. Raises `DatasetError`: not a run."""
    with open_run(path) as run:
        # One that had enough light left something out, which can still be taken.
        taken = run.steps_committed >= len(Plan.from_json(run.plan_json).steps) and not points_left(run)
        return "it is complete" if run.outcome == RunState.COMPLETED and taken else None


def _speaking(made: Scan, owner: DeviceOwner) -> Scan:
    return replace(made, say=lambda line: owner.journal.warning(line.removeprefix("warning: ")))


class _Watcher:
    """Turns what a runner tells into snapshots and frames. Implements `app.acquire.observer.Observer`.

    The runner's thread tells its states, the recorder's the frames.
    """

    def __init__(self, owner: DeviceOwner, made: Scan):
        self._owner = owner
        self._scan = made
        self.others: list[Observer] = []
        self._lock = threading.Lock()
        self._status = RunStatus(made.plan, made.profile, made.path, RunState.IDLE, total=made.plan.frames)

    def state_changed(self, state: RunState) -> None:
        self._put(state=state)
        for other in self.others:
            other.state_changed(state)

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        info = self._owner.state.camera.info
        if info is not None:
            self._owner.watched.frames.put(Look(frame.exposure, info, frame))
        exposure = frame.exposure.exposure_s
        if self._owner.state.camera.exposure_s != exposure:
            self._owner.watched.publish(camera=replace(self._owner.state.camera, exposure_s=exposure))
        remaining_s = progress.remaining_s / self._owner.setup.speed
        self._put(step=frame.step, done=progress.done, total=progress.total, remaining_s=remaining_s)
        for other in self.others:
            other.frame_committed(frame, progress)

    def darks_committed(self, exposure_s: float, darks: DarkSummary) -> None:
        for other in self.others:
            if isinstance(other, DarkObserver):
                other.darks_committed(exposure_s, darks)

    def enough(self, step: int) -> Enough | None:
        judged = (other.enough(step) for other in self.others if isinstance(other, DoseJudge))
        return next((found for found in judged if found is not None), None)

    def failed(self, error: Exception) -> None:
        self._put(error=" ".join(str(error).split()))

    def _put(self, **changes: object) -> None:
        # Published inside too: an older status must not follow a newer one.
        with self._lock:
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]
            self._owner.watched.publish(run=self._status)
