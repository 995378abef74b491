"""Small devices without optics, for tests of the runner: fast, and they write down what was asked of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from app.acquire.observer import Observer
from app.acquire.plan import Plan
from app.acquire.planning import make_plan
from app.acquire.runner import Runner
from app.acquire.scan import describe
from app.devices import Devices
from app.profile import Profile, load_profile
from drivers.base import (
    CameraInfo,
    Cancel,
    Cancelled,
    Exposure,
    Facts,
    Interval,
    LightState,
    LimitError,
    NotReadyError,
    Region,
    StageInfo,
    StagePosition,
    never,
)
from drivers.clock import VirtualClock
from recon.dataset import Truth
from recon.files.write import Fault, RunWriter, no_fault

SHAPE = (6, 8)


def small_profile(**scan: object) -> Profile:
    """`tiny` with 6 x 8 pixels and as few steps as make sense."""
    raw = load_profile("tiny").model_dump()
    raw["camera"]["shape"] = SHAPE
    raw["scan"] |= {
        "positions": 3,
        "evaluation_positions": 1,
        "evaluation_exposures_s": (3e-4, 3e-2),
        "dark_frames": 3,
        "empty_frames": 2,
    } | scan
    return Profile.model_validate(raw)


class FakeCamera:
    """Frames that depend on the seed given for each and on nothing else."""

    def __init__(self, log: list[str], clock: VirtualClock):
        self.log = log
        self.clock = clock
        self.exposure = 0.1
        self.code = (0, 0)
        self.opened = False
        self.on_acquire: Callable[[], None] = lambda: None

    def open(self) -> None:
        self.opened = True

    def close(self) -> None:
        self.opened = False

    @property
    def info(self) -> CameraInfo:
        if not self.opened:
            raise NotReadyError("camera", "is closed; open it")
        return CameraInfo(
            model="fake",
            serial="1",
            sensor_shape=SHAPE,
            region=Region.centred(SHAPE, SHAPE),
            pixel_size_m=13.8e-6,
            bit_depth=16,
            electrons_per_adu=0.11,
            black_level_adu=200,
            gain_db=0.0,
            exposure_s=Interval(1e-6, 10, "s"),
            simulated=True,
        )

    def set_exposure(self, seconds: float) -> float:
        self.info.exposure_s.require(seconds, "camera", "exposure")
        self.exposure = seconds
        return seconds

    def seed_next(self, stream_code: int, index: int) -> None:
        self.code = (stream_code, index)

    def set_region(self, region: Region) -> Region:
        raise LimitError("camera", f"{region}: a fake has one region only")

    def start_live(self) -> None:
        raise NotReadyError("camera", "a fake has no live view")

    def newest(self, timeout_s: float) -> Exposure | None:
        raise NotReadyError("camera", "a fake has no live view")

    def stop_live(self) -> None:
        pass

    def describe(self) -> Facts:
        return {"model": "fake"}

    def acquire(self, cancel: Cancel = never) -> Exposure:
        self.on_acquire()
        if cancel():
            raise Cancelled("camera", "cancelled")
        self.log.append(f"expose {self.exposure:g}")
        self.clock.sleep(self.exposure)
        image = np.random.default_rng(self.code).integers(190, 60000, SHAPE, np.uint16)
        return Exposure(image, self.exposure, self.clock.now())


class FakeStage:
    """A stage that arrives at once."""

    def __init__(self, log: list[str]):
        self.log = log
        self.at = StagePosition(0.0, 0.0)
        self.homed = False
        self.on_move: Callable[[], None] = lambda: None

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    @property
    def info(self) -> StageInfo:
        limit = Interval(0.5e-3, 24.5e-3, "m")
        return StageInfo("fake", "2", limit, limit, 1.5e-3, 1e-3, 1e-9, 0.1, True)

    def position(self) -> StagePosition:
        return self.at

    def home(self, cancel: Cancel = never) -> None:
        self.log.append("home")
        self.homed = True

    def move_to(self, target: StagePosition, cancel: Cancel = never) -> StagePosition:
        self.info.require(target)
        self.on_move()
        self.log.append(f"move {target.y:.6f} {target.x:.6f}")
        self.at = target
        return target

    def stop(self) -> None:
        self.log.append("stop")

    def describe(self) -> Facts:
        return {"model": "fake"}


class FakeLight:
    def __init__(self, log: list[str]):
        self.log = log
        self.state = LightState.OPEN

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def block(self) -> None:
        self.log.append("block")
        self.state = LightState.BLOCKED

    def unblock(self) -> None:
        self.log.append("unblock")
        self.state = LightState.OPEN

    def describe(self) -> Facts:
        return {"model": "fake"}


class FakeBench:
    """Fake devices, their common log, and runners on a file."""

    def __init__(self, profile: Profile | None = None):
        self.profile = profile or small_profile()
        self.plan: Plan = make_plan(self.profile)
        self.log: list[str] = []
        self.clock = VirtualClock()
        self.camera = FakeCamera(self.log, self.clock)
        self.stage = FakeStage(self.log)
        self.light = FakeLight(self.log)
        self.devices = Devices(
            self.camera,
            self.stage,
            self.light,
            self.clock,
            true_position=self._true_position,
            truth=self._truth,
            seed_frame=self.camera.seed_next,
        )
        self.devices.open()

    def _true_position(self) -> tuple[float, float]:
        return (self.stage.at.y * 2, self.stage.at.x * 2)

    def _truth(self, plan: Plan) -> Truth:
        field = np.ones((4, 4), np.complex64)
        return Truth(field, 1e-6, field, 1e-6, 0.02, np.full((len(plan.positions_m), 2), np.nan))

    def create(self, path: Path, fault: Fault = no_fault, compression: str = "none") -> RunWriter:
        run = describe(self.plan, self.profile, self.devices)
        return RunWriter.create(path, run, self.clock, fault=fault, compression=compression)

    def runner(self, open_writer: Callable[[], RunWriter], observer: Observer | None = None) -> Runner:
        return Runner(self.plan, self.devices, self.profile.stage.approach_m, lambda: None, open_writer, observer)

    def run(self, path: Path, observer: Observer | None = None) -> Runner:
        """A new run into `path`, to its end."""
        runner = self.runner(lambda: self.create(path), observer)
        runner.run()
        return runner

    def resume(self, path: Path) -> Runner:
        """The rest of the run in `path`."""
        runner = self.runner(lambda: RunWriter.resume(path, self.clock))
        runner.run()
        return runner
