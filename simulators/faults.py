"""Devices that fail on purpose, at the call they are told to: for tests of what the program does then."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from drivers.base import (
    Camera,
    CameraInfo,
    Cancel,
    Exposure,
    Facts,
    InstrumentError,
    Region,
    Stage,
    StageInfo,
    StagePosition,
    never,
)


@dataclass(frozen=True)
class Fault:
    """One failure.

    Attributes:
        method: name of the device's method or property.
        call: which call of it fails, counted from 1.
        error: what is raised instead of doing anything.
        repeats: how many calls fail from there on.
    """

    method: str
    call: int
    error: InstrumentError
    repeats: int = 1


class _Faults:
    def __init__(self, faults: tuple[Fault, ...]):
        self._faults = faults
        self._calls: Counter[str] = Counter()

    def count(self, method: str) -> None:
        self._calls[method] += 1
        for fault in self._faults:
            if fault.method == method and 0 <= self._calls[method] - fault.call < fault.repeats:
                raise fault.error


class FaultyCamera:
    """A camera that fails as told; everything else reaches the camera inside."""

    def __init__(self, camera: Camera, *faults: Fault):
        self._camera = camera
        self._faults = _Faults(faults)

    def open(self) -> None:
        self._faults.count("open")
        self._camera.open()

    def close(self) -> None:
        self._faults.count("close")
        self._camera.close()

    @property
    def info(self) -> CameraInfo:
        self._faults.count("info")
        return self._camera.info

    def set_exposure(self, seconds: float) -> float:
        self._faults.count("set_exposure")
        return self._camera.set_exposure(seconds)

    def set_region(self, region: Region) -> Region:
        self._faults.count("set_region")
        return self._camera.set_region(region)

    def start_live(self) -> None:
        self._faults.count("start_live")
        self._camera.start_live()

    def newest(self, timeout_s: float) -> Exposure | None:
        self._faults.count("newest")
        return self._camera.newest(timeout_s)

    def stop_live(self) -> None:
        self._faults.count("stop_live")
        self._camera.stop_live()

    def describe(self) -> Facts:
        self._faults.count("describe")
        return self._camera.describe()

    def acquire(self, cancel: Cancel = never) -> Exposure:
        self._faults.count("acquire")
        return self._camera.acquire(cancel)


class FaultyStage:
    """A stage that fails as told; everything else reaches the stage inside."""

    def __init__(self, stage: Stage, *faults: Fault):
        self._stage = stage
        self._faults = _Faults(faults)

    def open(self) -> None:
        self._faults.count("open")
        self._stage.open()

    def close(self) -> None:
        self._faults.count("close")
        self._stage.close()

    @property
    def info(self) -> StageInfo:
        self._faults.count("info")
        return self._stage.info

    @property
    def homed(self) -> bool:
        self._faults.count("homed")
        return self._stage.homed

    def position(self) -> StagePosition:
        self._faults.count("position")
        return self._stage.position()

    def home(self, cancel: Cancel = never) -> None:
        self._faults.count("home")
        self._stage.home(cancel)

    def move_to(self, target: StagePosition, cancel: Cancel = never) -> StagePosition:
        self._faults.count("move_to")
        return self._stage.move_to(target, cancel)

    def stop(self) -> None:
        self._faults.count("stop")
        self._stage.stop()

    def describe(self) -> Facts:
        self._faults.count("describe")
        return self._stage.describe()
