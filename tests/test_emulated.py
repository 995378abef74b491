"""Whole scans through pypylon and thorlabs-apt-device on emulated wires, whole and failing.

What comes through the real libraries is what the simulated devices give, bit for bit; and whatever fails on a wire, in
whatever phase, the operator gets one line, the motors stand, and the file is completed later to the very same run.
"""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import h5py
import numpy as np
import pytest

from app.acquire.observer import RunState
from app.acquire.planning import make_plan
from app.acquire.scan import Scan
from app.devices import Devices, open_devices
from app.errors import known_message
from app.profile import Profile, load_profile
from drivers.base import InstrumentError
from drivers.thorlabs import ThorlabsStage
from recon.files import schema
from recon.files.read import open_run
from tests.files.compare import assert_same_measurement, measurement

pytest.importorskip("pty", reason="emulated controllers need a POSIX system")

from simulators.apt_protocol import Id
from simulators.apt_wire import AptWire, FaultKind
from simulators.apt_wire import WireFault as StageFault
from simulators.pylon_wire import PylonWire
from simulators.pylon_wire import WireFault as CameraFault

SEED = 5
WHO = {schema.CAMERA, schema.CAMERA_SERIAL, schema.NODE_MAP, schema.STAGE, schema.STAGE_SERIAL}
"""What tells devices apart."""
ABOUT = {schema.PROFILE, schema.TITLE, schema.REGION, *WHO}


def profile(driver: str, controller: str = "kst101", **scan: object) -> Profile:
    """`tiny` with these devices and as few steps as make sense."""
    raw = load_profile("tiny").model_dump()
    raw["camera"]["driver"] = raw["stage"]["driver"] = driver
    raw["stage"] |= {"controller": controller, "settling_s": 0.0}
    raw["emulation"] = {"speed": 100, "longest_exposure_s": 0.0}
    raw["scan"] |= {
        "positions": 3,
        "evaluation_positions": 1,
        "evaluation_exposures_s": (3e-2,),
        "dark_frames": 2,
        "empty_frames": 1,
    } | scan
    return Profile.model_validate(raw)


SHORT = profile("emulated")

MIDDLE = 6
"""A frame of the bright scan of `SHORT`, after four darks and the empty beam; two more places are still to come."""


class Phase(StrEnum):
    HOMING = "homing"
    MOVING = "moving"
    EXPOSING = "exposing"
    WRITING = "writing"
    PAUSED = "paused"


class Bench:
    """An emulated bench, a scan on it, and something that happens to it in one phase.

    Attributes:
        devices, scan: as the program makes them.
        apt, pylon: the wires, to break them.
    """

    def __init__(self, path: Path, used: Profile = SHORT, resume: bool = False):
        self.devices: Devices = open_devices(used, SEED)
        self.scan = Scan(make_plan(used), used, self.devices, path, resume)
        (self.apt,) = self.devices.wires
        assert isinstance(self.apt, AptWire)
        self.pylon = self.devices.camera._wire
        assert isinstance(self.pylon, PylonWire)
        self.happened = False

    def run(self, phase: Phase | None = None, happen: Callable[[Bench], None] = lambda bench: None) -> RunState:
        """The scan to its end, whatever that is."""
        self.phase, self.happen = phase, happen
        frames = itertools.count(1)
        seed = self.devices.seed_frame

        def seed_frame(code: int, index: int) -> None:
            assert seed is not None
            seed(code, index)
            number = next(frames)
            if number == MIDDLE and phase is Phase.PAUSED:
                self.runner.pause()
            if number == MIDDLE and phase is Phase.EXPOSING:
                self.act()

        object.__setattr__(self.devices, "seed_frame", seed_frame)
        with self.devices:
            self.runner = self.scan.runner(self)
            if phase in (Phase.HOMING, Phase.MOVING):
                self._when_the_stage_is_sent()
            return self.runner.run()

    def act(self) -> None:
        if not self.happened:
            self.happened = True
            self.happen(self)

    def _when_the_stage_is_sent(self) -> None:
        """Act on the controller's hearing the message that begins the phase."""
        wanted = Id.MOVE_HOME if self.phase is Phase.HOMING else Id.MOVE_ABSOLUTE
        heard = self.apt._happen
        # A fault that does nothing but call back: the wire's own way of acting on a message.
        mark = StageFault(FaultKind.DELAYED, axis=0, message=wanted, count=1 if wanted == Id.MOVE_HOME else 5)

        def happen(fault: StageFault) -> None:
            if fault is mark:
                self.happened = True
                self.happen(self)
            else:
                heard(fault)

        self.apt._happen = happen
        self.apt._faults.append(mark)

    def state_changed(self, state: RunState) -> None:
        if state is RunState.PAUSED:
            self.act()
            self.runner.proceed()

    def frame_committed(self, frame, progress) -> None:
        if self.phase is Phase.WRITING and progress.done == MIDDLE:
            self.act()

    def moving(self) -> bool:
        return any(self.apt.motor(axis).due is not None for axis in (0, 1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An undisturbed run on the emulated wires."""
    path = tmp_path_factory.mktemp("emulated") / "whole.h5"
    assert Bench(path).run() is RunState.COMPLETED
    return path


@pytest.fixture(autouse=True)
def _quick_and_clean(monkeypatch) -> Iterator[None]:
    """No waiting for the platter; and each camera's two dozen pipes are closed before the next one has its own."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    yield
    gc.collect()


# ---- The same run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("controller", ["kst101", "bsc203"])
def test_a_scan_through_the_real_libraries_is_the_simulated_one(tmp_path, controller):
    """Every frame, dark, commanded, read-back and true position, bit for bit."""
    used = profile("emulated", controller, positions=5, evaluation_positions=2, evaluation_exposures_s=(3e-4, 3e-2))
    emulated = Bench(tmp_path / "emulated.h5", used)
    assert emulated.run() is RunState.COMPLETED
    assert not emulated.moving()
    raw = used.model_dump()
    raw["camera"]["driver"] = raw["stage"]["driver"] = "simulated"
    simulated = Profile.model_validate(raw)
    devices = open_devices(simulated, SEED)
    with devices:
        Scan(make_plan(simulated), simulated, devices, tmp_path / "simulated.h5").runner().run()
    one, other = measurement(tmp_path / "emulated.h5"), measurement(tmp_path / "simulated.h5")
    assert one.keys() == other.keys()
    compared = 0
    for name, value in one.items():
        if name.rsplit("/", 1)[-1] not in ABOUT:
            np.testing.assert_array_equal(value, other[name], err_msg=name)
            compared += 1
    assert compared > 100
    with h5py.File(tmp_path / "emulated.h5") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        assert b"Emulation" in bytes(detector[schema.CAMERA][()])
        assert b"ExposureTime" in bytes(detector[schema.NODE_MAP][()])
        assert file["entry_1"][schema.SIMULATED][()] == 1
        stage = bytes(file["entry_1"][schema.STAGE][()]).decode()
    assert stage == ("KST101 + KST101" if controller == "kst101" else "BSC203")


def test_the_shipped_profile_is_quick_on_emulated_wires():
    emulated, quick = load_profile("emulated").model_dump(), load_profile("quick").model_dump()
    assert emulated.pop("name") == "emulated"
    quick.pop("name")
    assert emulated["camera"].pop("driver") == emulated["stage"].pop("driver") == "emulated"
    assert quick["camera"].pop("driver") == quick["stage"].pop("driver") == "simulated"
    assert emulated["stage"].pop("settling_s") < quick["stage"].pop("settling_s")
    emulated.pop("emulation")
    quick.pop("emulation")
    assert emulated == quick


# ---- Failing wires ---------------------------------------------------------------------------------------------------


def fails(bench: Bench, phase: Phase, happen: Callable[[Bench], None]) -> str:
    """Run into the failure; the operator's line."""
    with pytest.raises(InstrumentError) as caught:
        bench.run(phase, happen)
    assert bench.happened
    assert bench.runner.state is RunState.FAILED
    message = known_message(caught.value)
    assert message is not None
    assert "\n" not in message
    assert "; " in message  # what happened, and what to do
    return message


def completed_later(path: Path, message: str, whole: Path) -> None:
    """The file says what happened, holds every committed frame, and is completed on a mended bench to the same run."""
    with open_run(path) as run:
        assert run.outcome == "failed"
        assert any(message[:60] in line for line in run.log)
    assert Bench(path, resume=True).run() is RunState.COMPLETED
    assert_same_measurement(path, whole, other_visits=True)


def a_stage_fault(kind: FaultKind) -> Callable[[Bench], None]:
    return lambda bench: bench.apt._happen(StageFault(kind, axis=1))


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("kind", [FaultKind.SILENT, FaultKind.GARBAGE, FaultKind.UNPLUGGED])
def test_a_stage_that_is_lost(tmp_path, whole, kind, phase):
    """Silent, sending nonsense, or unplugged: each is noticed in every phase, with its own words."""

    def happen(bench: Bench) -> None:
        if phase in (Phase.HOMING, Phase.MOVING):
            a_stage_fault(kind)(bench)  # in the wire's own thread already
        else:
            bench.apt.inject(StageFault(kind, axis=1))

    bench = Bench(tmp_path / "run.h5")
    message = fails(bench, phase, happen)
    assert message.startswith("stage x: ")
    completed_later(tmp_path / "run.h5", message, whole)


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        (FaultKind.STALLED, Phase.HOMING),  # and no other: homing ends at its switch, wherever that is
        (FaultKind.STALLED, Phase.MOVING),
        (FaultKind.WRONG_ARRIVAL, Phase.MOVING),
        (FaultKind.LIMIT_SWITCH, Phase.MOVING),
    ],
)
def test_a_motion_that_goes_wrong(tmp_path, whole, kind, phase, monkeypatch):
    # The emulated motors are faster than programmed; what a stalled homing waits for is the programmed time.
    monkeypatch.setattr(ThorlabsStage, "_homing_times", lambda stage, axis: (2.0, 20.0))
    bench = Bench(tmp_path / "run.h5")
    message = fails(bench, phase, a_stage_fault(kind))
    assert message.startswith("stage: x ")
    assert not bench.moving()
    completed_later(tmp_path / "run.h5", message, whole)


@pytest.mark.parametrize("phase", [Phase.EXPOSING, Phase.WRITING, Phase.PAUSED])
@pytest.mark.parametrize("fault", [CameraFault.TIME_OUT, CameraFault.INCOMPLETE, CameraFault.GONE, CameraFault.STUCK])
def test_a_camera_that_fails(tmp_path, whole, fault, phase):
    bench = Bench(tmp_path / "run.h5")
    message = fails(bench, phase, lambda bench: bench.pylon.inject(fault, frames=2))
    assert message.startswith("camera: ")
    assert not bench.moving()
    completed_later(tmp_path / "run.h5", message, whole)


def test_one_incomplete_buffer_is_taken_again(tmp_path, whole):
    bench = Bench(tmp_path / "run.h5")
    assert bench.run(Phase.EXPOSING, lambda bench: bench.pylon.inject(CameraFault.INCOMPLETE)) is RunState.COMPLETED
    assert bench.happened
    assert_same_measurement(tmp_path / "run.h5", whole)


@pytest.mark.parametrize("phase", list(Phase))
def test_an_abort_stops_the_real_motors(tmp_path, whole, phase):
    bench = Bench(tmp_path / "run.h5")
    assert bench.run(phase, lambda bench: bench.runner.abort()) is RunState.ABORTED
    assert bench.happened
    assert not bench.moving()
    assert Bench(tmp_path / "run.h5", resume=True).run() is RunState.COMPLETED
    assert_same_measurement(tmp_path / "run.h5", whole, other_visits=True)
