"""The devices of a bench as their one thread watches them: which are connected, how they are, what they show live.

What fails is a fault of its device and told; the others go on. Snapshots and frames go out through slots where the
latest wins.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from app.acquire.observer import RunState
from app.live.journal import Journal
from app.live.order import DEVICES, Look, line_of
from app.live.setup import Setup
from app.live.slot import Slot
from app.live.state import (
    BeamState,
    BenchState,
    CameraState,
    DeviceState,
    Health,
    Kind,
    RunStatus,
    StageState,
)
from app.replaying import Replay
from drivers.base import AcquisitionError, Exposure, NotReadyError
from drivers.clock import Clock
from drivers.manual import ManualLight

LOOK_S = 0.1
"""How often an idle stage is asked where it is."""
WATCH_S = 0.08
"""How often while something works."""
WATCH_LIVE_S = 0.03
"""Least time between two live frames while something works."""
LIVELY_S = 0.1
"""Longest exposure that a bench begins its live view with."""


class WatchedDevices:
    """See above. All but `publish` and the properties belongs to the devices' thread.

    Args:
        clock: real time, for ages and pacing.
        journal: where messages go.

    Attributes:
        bench: the newest `BenchState`.
        frames: the newest frame.
        wants_live: whether live view is on, or comes back when a camera is connected.
        calling: the device that is being asked something at this moment; "" none.
    """

    def __init__(self, clock: Clock, journal: Journal):
        self.bench: Slot[BenchState] = Slot(clock)
        self.frames: Slot[Look] = Slot(clock)
        self.wants_live = False
        self.calling = ""
        self._clock = clock
        self._journal = journal
        self._state_lock = threading.Lock()
        self._state = BenchState()
        self._setup: Setup | None = None
        self._open: set[str] = set()
        self._looked = self._live_looked = clock.monotonic()
        self.bench.put(self._state)

    @property
    def state(self) -> BenchState:
        """The newest snapshot."""
        return self._state

    @property
    def setup(self) -> Setup:
        """The bench. Raises `NotReadyError` without one."""
        if self._setup is None:
            raise NotReadyError("bench", "is not connected; connect one first")
        return self._setup

    @property
    def connected(self) -> Setup | None:
        """The bench, or none."""
        return self._setup

    @property
    def replay(self) -> Replay | None:
        """The run that is replayed; its playhead may be moved from any thread."""
        setup = self._setup
        return None if setup is None else setup.replay

    def publish(self, **changes: Any) -> None:
        """Make a snapshot with these parts new. Any thread."""
        with self._state_lock:
            self._state = replace(self._state, **changes)
            self.bench.put(self._state)

    def require(self, *names: str) -> None:
        """Raise `NotReadyError` unless these devices are connected."""
        for name in names:
            if name not in self._open:
                raise NotReadyError(name, "is not connected; reconnect it first")

    def hold(self, setup: Setup) -> None:
        """A bench takes the place of the one before, which is closed; its devices are opened. Nothing moves."""
        self._setup = setup
        self.publish(name=setup.name, kind=setup.kind, profile=setup.profile, known=setup.known, run=None)
        self.reconnect(*DEVICES)

    def reconnect(self, *names: str) -> None:
        """Close and open these devices. Nothing moves."""
        setup = self.setup
        if "stage" in names:
            for wire in setup.devices.wires:
                self.guarded("stage", wire.open)
        for name in names:
            device = getattr(setup.devices, name)
            with contextlib.suppress(Exception):
                device.close()
            self._open.discard(name)
            if self.guarded(name, device.open):
                self._open.add(name)
        if "camera" in names and "camera" in self._open:
            if setup.replay is None:
                self.guarded("camera", lambda: self._first_exposure(setup))
            self.guarded("camera", lambda: self._live(self.wants_live or setup.kind is Kind.REPLAY))
        self.look()

    def _expose(self, seconds: float) -> None:
        self.camera_changed(self.setup.devices.camera.set_exposure(seconds))

    def _first_exposure(self, setup: Setup) -> None:
        """What was set before, else the bright scan's as far as that makes a lively picture."""
        camera = setup.devices.camera
        limits = camera.info.exposure_s
        wanted = self._state.camera.exposure_s or min(setup.profile.scan.calibration_exposure_s, LIVELY_S)
        self._expose(min(max(wanted, limits.low), limits.high))

    def close(self) -> None:
        """Close all devices, each also when another fails to."""
        setup, self._setup = self._setup, None
        if setup is None:
            return
        self._open.clear()
        devices = setup.devices
        closings = [device.close for device in (devices.camera, devices.stage, devices.light)]
        for shut in (*closings, *(wire.close for wire in devices.wires)):
            try:
                shut()
            except Exception as error:
                self._journal.warning(line_of(error))
        setup.close()
        self.publish(camera=CameraState(), stage=StageState(), beam=BeamState(), name="", profile=None, known=None)

    def set_live(self, wanted: bool) -> None:
        """Live frames from now on, or none. Raises what the camera raises."""
        self.require("camera")
        self._live(wanted)
        self.wants_live = wanted

    def _live(self, wanted: bool) -> None:
        camera = self.setup.devices.camera
        if wanted:
            camera.start_live()
        else:
            camera.stop_live()
        self.publish(camera=replace(self._state.camera, live=wanted))

    def camera_changed(self, exposure_s: float | None = None) -> None:
        """Tell what the camera is like by now."""
        camera = replace(self._state.camera, info=self.setup.devices.camera.info)
        self.publish(camera=camera if exposure_s is None else replace(camera, exposure_s=exposure_s))

    @contextmanager
    def still_camera(self) -> Iterator[None]:
        """Inside, the camera shows no live frames and can be triggered; afterwards all is as before."""
        self.require("camera")
        live, exposure_s = self._state.camera.live, self._state.camera.exposure_s
        if live:
            self._live(False)
        try:
            yield
        finally:
            if exposure_s is not None and "camera" in self._open:
                self.guarded("camera", lambda: self._expose(exposure_s))
            if live and "camera" in self._open:
                self.guarded("camera", lambda: self._live(True))

    def guarded(self, name: str, call: Callable[[], Any]) -> bool:
        """Make a call; a failure is a fault of the device and told. Returns whether it worked."""
        self.calling = name
        try:
            call()
        except Exception as error:
            self.fault(name, error)
            return False
        finally:
            self.calling = ""
        return True

    def fault(self, name: str, error: Exception) -> None:
        self._open.discard(name)
        state = DeviceState(Health.FAULT, line_of(error))
        if name == "camera":
            self.publish(camera=replace(self._state.camera, device=state, live=False))
        elif name == "stage":
            self.publish(stage=replace(self._state.stage, device=state, position=None, homed=False))
        elif name == "light":
            self.publish(beam=replace(self._state.beam, device=state))
        words = line_of(error)
        self._journal.error(words if "reconnect" in words.lower() else f"{words}; then press Reconnect")

    def watch(self) -> None:
        """Look at stage and live frames if it is time to; never raises."""
        if self._clock.monotonic() - self._looked >= WATCH_S:
            self.look()
        if self._state.camera.live and self._clock.monotonic() - self._live_looked >= WATCH_LIVE_S:
            self._look_live(0.0)

    def look_idly(self, live_patience_s: float | None) -> None:
        """The same while nothing works; live frames are waited for so long, or None leaves them."""
        if self._clock.monotonic() - self._looked >= LOOK_S:
            self.look()
        if self._state.camera.live and live_patience_s is not None:
            self._look_live(live_patience_s)

    def look(self) -> None:
        """Ask every connected device how it is, and publish."""
        self._looked = self._clock.monotonic()
        setup = self._setup
        changes: dict[str, Any] = {}
        if setup is not None:
            if "camera" in self._open and self.guarded("camera", lambda: self._see_camera(setup, changes)):
                changes["camera"] = changes.pop("seen")
            if "stage" in self._open and self.guarded("stage", lambda: self._see_stage(setup, changes)):
                changes["stage"] = changes.pop("seen")
            if "light" in self._open and self.guarded("light", lambda: self._see_light(setup, changes)):
                changes["beam"] = changes.pop("seen")
        self.publish(**changes)

    def _see_camera(self, setup: Setup, seen: dict[str, Any]) -> None:
        info = setup.devices.camera.info
        device = DeviceState(Health.CONNECTED, f"{info.model} {info.serial}")
        seen["seen"] = replace(self._state.camera, device=device, info=info)

    def _see_stage(self, setup: Setup, seen: dict[str, Any]) -> None:
        stage = setup.devices.stage
        info = self._state.stage.info or stage.info
        device = DeviceState(Health.CONNECTED, f"{info.model} {info.serial}")
        seen["seen"] = StageState(device, info, stage.position(), stage.homed)

    def _see_light(self, setup: Setup, seen: dict[str, Any]) -> None:
        light = setup.devices.light
        by_hand = isinstance(light, ManualLight)
        seen["seen"] = BeamState(DeviceState(Health.CONNECTED, light.describe()["model"]), light.state, by_hand)

    def _look_live(self, patience_s: float) -> None:
        """Take the newest live frame, if there is one within the patience (real time)."""
        setup = self._setup
        if setup is None or "camera" not in self._open:
            return
        self._live_looked = self._clock.monotonic()
        try:
            exposure = setup.devices.camera.newest(patience_s)
        except AcquisitionError as error:
            camera = self._state.camera
            if camera.lost == 0:
                self._journal.warning(f"{line_of(error)}; live frames that are lost are counted from now on")
            self.publish(camera=replace(camera, lost=camera.lost + 1))
            return
        except Exception as error:
            self.fault("camera", error)
            return
        if exposure is not None:
            number = None if setup.replay is None else setup.replay.playhead.number
            info = self._state.camera.info or setup.devices.camera.info
            self.frames.put(Look(exposure, info, number=number))
            if setup.replay is not None:
                self._replayed(setup.replay, exposure)

    def _replayed(self, replay: Replay, exposure: Exposure) -> None:
        """What a recorded frame says besides itself."""
        own, number = replay.recorded, replay.playhead.number
        run = RunStatus(
            own.plan, own.profile, own.path, RunState.COMPLETED, own.step_of(number), number + 1, len(own.moments)
        )
        self.publish(run=run, camera=replace(self._state.camera, exposure_s=exposure.exposure_s))
        self.look()
