"""Every fault in every phase of a scan: one line for the operator, nothing moving, nothing lost, and a file to resume.

A fault is armed when the scan enters a phase; the device or disk fails at the next thing that is asked of it. What the
drivers raise when the real libraries fail is tested in `tests/drivers`, and whole scans over failing wires in
`tests/test_emulated.py`.
"""

from __future__ import annotations

import errno
import os
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import pytest

from app.acquire.observer import RunState
from app.acquire.recorder import QUEUE_FRAMES
from app.acquire.runner import Runner
from app.errors import known_message
from drivers.base import (
    AcquisitionError,
    Cancel,
    Cancelled,
    ConnectionLost,
    DeviceTimeout,
    Exposure,
    InstrumentError,
    LightState,
    MotionError,
    StagePosition,
    never,
)
from drivers.clock import VirtualClock
from recon.files.read import open_run
from tests.acquire.fakes import FakeBench, FakeCamera, FakeStage
from tests.files.compare import assert_same_measurement

KILLED = 77
PATIENCE_S = 20.0


class Phase(StrEnum):
    HOMING = "homing"
    MOVING = "moving"
    EXPOSING = "exposing"
    WRITING = "writing"
    PAUSED = "paused"


# In the classes and words of the drivers (`drivers/apt_axis.py`, `apt_watch.py`, `basler.py`).
STAGE = {
    "stage silent": ConnectionLost(
        "stage x", "has not answered for 0.7 s; check its cable and power, then close and open it"
    ),
    "stage stalled": MotionError(
        "stage",
        "y is stalled at 0.0101 m on its way to 0.0125 m, its counter stands still for 0.5 s; look at it, then home it",
    ),
    "wrong arrival": MotionError(
        "stage", "x arrived at 0.012 m instead of 0.0125 m, -1092267 microsteps; look at it, then home it"
    ),
    "limit switch hit": MotionError(
        "stage", "y was stopped at a limit switch at 0.0101 m on its way to 0.0125 m; look at it, then home it"
    ),
    "garbage on the wire": ConnectionLost(
        "stage x", "sends nonsense, 120 bytes of it in a second; check its cable, switch it off and on"
    ),
    "controller unplugged": ConnectionLost("stage x", "has been closed; open it again"),
}
CAMERA = {
    "grab time-out": DeviceTimeout(
        "camera", "no frame within 1.3 s of a trigger for 0.3 s; check its cable and port, then try again"
    ),
    "incomplete buffer": AcquisitionError(
        "camera", "two frames in a row did not arrive intact (incomplete); check cable, port and usbfs memory"
    ),
    "camera gone": ConnectionLost("camera", "acA2440-35um 24012345 was unplugged; plug it in, then open it again"),
    "camera stuck": DeviceTimeout(
        "camera", "is not ready for a trigger after 1.3 s; unplug it, plug it in and try again"
    ),
}
DISK = {
    "disk full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "read-only file system": OSError(errno.EROFS, os.strerror(errno.EROFS), "run.h5"),
}


@dataclass
class Trigger:
    """Calls `action` once, when the scan enters `phase` for the time number `visit` (homing and pause: the first)."""

    phase: Phase
    action: Callable[[], None]
    visit: int = 3
    seen: int = 0
    fired: threading.Event = field(default_factory=threading.Event)

    def enter(self, phase: Phase) -> None:
        if phase is not self.phase:
            return
        self.seen += 1
        due = 1 if phase in (Phase.HOMING, Phase.PAUSED) else self.visit
        if self.seen == due:
            self.fired.set()
            self.action()


class Motor(FakeStage):
    """A stage that is on its way until it arrives or is stopped, and that says when it sets out."""

    def __init__(self, log: list[str]):
        super().__init__(log)
        self.moving = False
        self.enter: Callable[[Phase], None] = lambda phase: None
        self.broken: InstrumentError | None = None

    def _use(self) -> None:
        if self.broken is not None:
            raise self.broken

    def position(self) -> StagePosition:
        self._use()
        return super().position()

    def home(self, cancel: Cancel = never) -> None:
        self.moving = True
        self.enter(Phase.HOMING)
        self._use()
        super().home(cancel)
        self.moving = False

    def move_to(self, target: StagePosition, cancel: Cancel = never) -> StagePosition:
        self.moving = True
        self.enter(Phase.MOVING)
        self._use()
        if cancel():
            raise Cancelled("stage", "stopped")
        arrived = super().move_to(target, cancel)
        self.moving = False
        return arrived

    def stop(self) -> None:
        super().stop()
        self.moving = False


class Shutter(FakeCamera):
    """A camera that says when it begins to expose."""

    def __init__(self, log: list[str], clock: VirtualClock):
        super().__init__(log, clock)
        self.enter: Callable[[Phase], None] = lambda phase: None
        self.broken: InstrumentError | None = None

    def acquire(self, cancel: Cancel = never) -> Exposure:
        self.enter(Phase.EXPOSING)
        if self.broken is not None:
            raise self.broken
        return super().acquire(cancel)


class Bench(FakeBench):
    """A fake bench that can be told where to fail, in whatever phase."""

    def __init__(self, phase: Phase | None = None, arm: Callable[[Bench], None] = lambda bench: None):
        super().__init__()
        self.motor, self.shutter = Motor(self.log), Shutter(self.log, self.clock)
        self.shutter.open()
        self.stage, self.camera = self.motor, self.shutter
        self.devices = type(self.devices)(
            self.camera,
            self.stage,
            self.light,
            self.clock,
            true_position=self._true_position,
            truth=self._truth,
            seed_frame=self.camera.seed_next,
        )
        self.disk: Callable[[], None] = lambda: None
        self.phase = phase
        self.trigger = Trigger(phase or Phase.HOMING, lambda: arm(self))
        if phase is not None:
            self.motor.enter = self.shutter.enter = self.trigger.enter
        if phase is Phase.WRITING:
            self.motor.enter = lambda _: self._let_the_recorder_catch_up()
        if phase is Phase.PAUSED:
            self.shutter.enter = lambda _: self._pause_halfway()

    def _let_the_recorder_catch_up(self) -> None:
        """Before the move after the frame whose writing is the phase: this scan is short, and the recorder behind."""
        if self.light.state is LightState.OPEN and self.exposed_to_light >= self.trigger.visit:
            assert self.trigger.fired.wait(PATIENCE_S)

    @property
    def exposed_to_light(self) -> int:
        log = self.log[self.log.index("unblock") :] if "unblock" in self.log else []
        return sum(line.startswith("expose") for line in log)

    def write_fault(self, where: str) -> None:
        """What the writer calls around every write."""
        if where.startswith("before /"):
            if self.phase is Phase.WRITING and where.endswith("/data"):
                self.trigger.enter(Phase.WRITING)
            self.disk()

    def state_changed(self, state: RunState) -> None:
        if state is RunState.PAUSED and self.phase is Phase.PAUSED:
            self.trigger.enter(Phase.PAUSED)
            self.scan.proceed()

    def frame_committed(self, frame, progress) -> None:
        pass

    def _pause_halfway(self) -> None:
        if len(self.log) == self.plan.frames // 2:
            self.scan.pause()

    def go(self, path) -> Runner:
        """A scan into `path`, to whatever end. A pause, where one is due, comes halfway."""
        self.scan = self.runner(lambda: self.create(path, self.write_fault), self)
        try:
            self.scan.run()
        finally:
            self.ended = self.scan.state
        return self.scan


@pytest.fixture(autouse=True)
def _no_waiting_for_the_platter(monkeypatch):
    """What the system has is not lost when a process fails or dies; the platter would only make this slow."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def whole(folder):
    path = folder / "whole.h5"
    Bench().go(path)
    return path


def check_aftermath(bench: Bench, error: BaseException, path, folder) -> None:
    """What every failed scan owes its operator."""
    assert bench.trigger.fired.is_set()
    message = known_message(error)
    assert message is not None
    assert "\n" not in message
    assert bench.ended is RunState.FAILED
    assert not bench.motor.moving
    with open_run(path) as run:
        assert run.outcome in ("failed", "running")  # on a dead disk the outcome cannot be written either
        committed = run.frames_committed
        assert run.steps_committed < len(bench.plan.steps)
    taken = sum(line.startswith("expose") for line in bench.log)
    assert committed <= taken
    again = FakeBench()
    assert again.resume(path).state is RunState.COMPLETED
    assert_same_measurement(path, whole(folder))


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("fault", STAGE)
def test_stage(tmp_path, fault, phase):
    def arm(bench: Bench) -> None:
        bench.motor.broken = STAGE[fault]

    bench = Bench(phase, arm)
    with pytest.raises(type(STAGE[fault])) as caught:
        bench.go(tmp_path / "run.h5")
    assert str(caught.value) == str(STAGE[fault])
    check_aftermath(bench, caught.value, tmp_path / "run.h5", tmp_path)
    with open_run(tmp_path / "run.h5") as run:
        assert any(str(STAGE[fault]) in line for line in run.log)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("fault", CAMERA)
def test_camera(tmp_path, fault, phase):
    def arm(bench: Bench) -> None:
        bench.shutter.broken = CAMERA[fault]

    bench = Bench(phase, arm)
    with pytest.raises(type(CAMERA[fault])) as caught:
        bench.go(tmp_path / "run.h5")
    assert str(caught.value) == str(CAMERA[fault])
    check_aftermath(bench, caught.value, tmp_path / "run.h5", tmp_path)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("fault", DISK)
def test_disk(tmp_path, fault, phase):
    def fail() -> None:
        raise DISK[fault]

    def arm(bench: Bench) -> None:
        bench.disk = fail

    bench = Bench(phase, arm)
    with pytest.raises(OSError, match=os.strerror(DISK[fault].errno)) as caught:
        bench.go(tmp_path / "run.h5")
    check_aftermath(bench, caught.value, tmp_path / "run.h5", tmp_path)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_slow_disk_holds_the_scan_up_and_loses_nothing(tmp_path, phase):
    """Each write lets the scan expose as far ahead as it dares to: no further than the recorder's queue."""
    exposed, ahead = threading.Semaphore(0), []
    committed = [0]

    def arm(bench: Bench) -> None:
        def slow() -> None:
            while exposed.acquire(timeout=0.005):
                pass
            ahead.append(sum(line.startswith("expose") for line in bench.log) - committed[0])

        bench.disk = slow

    bench = Bench(phase, arm)
    bench.camera.on_acquire = exposed.release
    bench.frame_committed = lambda frame, progress: committed.__setitem__(0, progress.done)
    assert bench.go(tmp_path / "run.h5").state is RunState.COMPLETED
    assert not bench.motor.moving
    # The queue, the frame being written, and the one that waits for a place.
    assert 1 < max(ahead) <= QUEUE_FRAMES + 2
    assert_same_measurement(tmp_path / "run.h5", whole(tmp_path))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to kill a scan")
@pytest.mark.parametrize("phase", list(Phase))
def test_a_killed_process(tmp_path, phase):
    path = tmp_path / "run.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if child == 0:
        try:
            Bench(phase, lambda bench: os._exit(KILLED)).go(path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED
    with open_run(path) as run:
        assert run.outcome == "running"
    assert FakeBench().resume(path).state is RunState.COMPLETED
    assert_same_measurement(path, whole(tmp_path))


@pytest.mark.parametrize("phase", list(Phase))
def test_an_abort(tmp_path, phase):
    bench = Bench(phase, lambda bench: bench.scan.abort())
    assert bench.go(tmp_path / "run.h5").state is RunState.ABORTED
    assert bench.trigger.fired.is_set()
    assert not bench.motor.moving
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "aborted"
    FakeBench().resume(tmp_path / "run.h5")
    assert_same_measurement(tmp_path / "run.h5", whole(tmp_path))


def test_an_error_while_stopping_does_not_hide_the_first_one(tmp_path):
    """A controller that is gone cannot be told to stop either; the operator hears of what happened first."""

    class Deaf(Motor):
        def stop(self) -> None:
            raise ConnectionLost("stage", "cannot be told to stop")

    bench = Bench(Phase.EXPOSING, lambda bench: setattr(bench.shutter, "broken", CAMERA["camera gone"]))
    deaf = Deaf(bench.log)
    bench.devices = type(bench.devices)(**{**bench.devices.__dict__, "stage": deaf})
    with pytest.raises(ConnectionLost, match="24012345 was unplugged"):
        bench.go(tmp_path / "run.h5")
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "failed"
        assert any("24012345 was unplugged" in line for line in run.log)
        assert any("cannot be told to stop" in line for line in run.log)
