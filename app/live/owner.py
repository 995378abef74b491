"""The thread that owns a bench's devices: orders in, snapshots out; whoever shows them never waits for a device.

One thread makes all device calls. Orders are queued; those that move or measure are refused while another is under way,
so that nothing piles up behind a key that is held down. Snapshots and frames go out through slots where the latest
wins. The one exception is `stop`: it goes from the thread that calls it straight to the stage.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from app.acquire.observer import RunState
from app.acquire.runner import Runner
from app.live.asking import Question
from app.live.journal import Journal
from app.live.order import DEVICES, Given, Look, Order, RunListener, device_of, line_of, lost
from app.live.setup import MakeSetup, Setup
from app.live.slot import Slot
from app.live.state import (
    Activity,
    BeamState,
    BenchState,
    CameraState,
    DeviceState,
    Doing,
    Health,
    Kind,
    RunStatus,
    StageState,
)
from app.replaying import Replay
from drivers.base import (
    AcquisitionError,
    Cancelled,
    Clock,
    Exposure,
    InstrumentError,
    NotReadyError,
)
from drivers.manual import ManualLight

LOOK_S = 0.1
"""How often an idle stage is asked where it is."""
WATCH_S = 0.08
"""How often while something works."""
WATCH_LIVE_S = 0.03
"""Least time between two live frames while something works."""
REST_S = 0.02
"""Longest rest between two looks at the queue."""
LIVE_S = 0.01
"""Least time between two live frames that are taken from the camera."""
LIVELY_S = 0.1
"""Longest exposure that a bench begins its live view with."""
OWNER_THREAD = "devices"


class DeviceOwner:
    """See above. `start` it once, `end` it once; everything in between from any thread.

    Args:
        clock: real time, for ages and pacing.
        journal: where messages go.

    Attributes:
        bench: the newest `BenchState`.
        frames: the newest frame.
        question: what a person is asked.
        listeners: told of every run that begins.
        at_connecting: called in the devices' thread whenever another bench takes the place of the one before; be quick.
        wants_live: whether live view is on, or comes back when a camera is connected.
    """

    def __init__(self, clock: Clock, journal: Journal):
        self.journal = journal
        self.bench: Slot[BenchState] = Slot(clock)
        self.frames: Slot[Look] = Slot(clock)
        self.listeners: list[RunListener] = []
        self.at_connecting: list[Callable[[], None]] = []
        self._clock = clock
        self._wake = threading.Condition()
        self._queue: deque[Given] = deque()
        self._current: Given | None = None
        self._ending = False
        self._stops = self._aborts = 0
        self._pausing = False
        self._pause_lock = threading.Lock()
        self._state_lock = threading.Lock()
        self._state = BenchState()
        self._setup: Setup | None = None
        self._open: set[str] = set()
        self.wants_live = False
        self._looked = self._live_looked = clock.monotonic()
        self._runner: Runner | None = None
        self._calling = ""
        self.question = Question(self._unasked)
        self._thread = threading.Thread(target=self._run, name=OWNER_THREAD, daemon=True)
        self.bench.put(self._state)

    # ---- From any thread ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def give(self, order: Order) -> bool:
        """Queue an order; false, with a message, when it cannot be done now."""
        with self._wake:
            if self._ending:
                return False
            busy = self._current.order if self._current is not None else None
            waiting = [other.order for other in self._queue if other.order.doing is not Doing.NOTHING]
            hindrance = busy if busy is not None and busy.doing is not Doing.NOTHING else None
            hindrance = hindrance or (waiting[0] if waiting else None)
            scanning = hindrance is not None and hindrance.doing is Doing.SCANNING
            if hindrance is not None and (scanning or order.doing is not Doing.NOTHING):
                self.journal.warning(f"{order.name}: not now, {hindrance.name} is under way; wait for it or press STOP")
                return False
            if order.key:
                self._queue = deque(other for other in self._queue if other.order.key != order.key)
            self._queue.append(Given(order, self._stops, self._aborts))
            self._wake.notify_all()
        return True

    def stop(self) -> bool:
        """STOP: whatever moves stands, a run is aborted and can be resumed, orders that wait are forgotten.

        Goes straight to the stage, in the calling thread, whatever the devices' thread is doing. Never raises.

        Returns:
            Whether the stage took it; also true where there is none. False: the journal says why.
        """
        # First the numbers, so that nobody who notices the stop goes on; then the run, so that it knows why its move
        # ends; then the stage.
        self._stops += 1
        runner, setup = self._runner, self._setup
        if runner is not None:
            runner.abort()
        # Also a stage that is at fault: it may be moving all the same.
        if setup is not None:
            try:
                setup.devices.stage.stop()
            except Exception as error:
                self.journal.error(f"STOP: {line_of(error)}")
                return False
        return True

    # A run that is still being made, and the points that are taken again one after the other, have no runner yet, or
    # none any more: what is wanted is kept for the next one of the same order.

    def pause(self) -> None:
        """Pause the run in progress before its next step."""
        with self._pause_lock:
            self._pausing = True
            if self._runner is not None:
                self._runner.pause()

    def proceed(self) -> None:
        """Let a paused run go on."""
        with self._pause_lock:
            self._pausing = False
            if self._runner is not None:
                self._runner.proceed()

    def abort(self) -> None:
        """End the run in progress now; it can be resumed."""
        # First the number, then the runner: see `running`.
        self._aborts += 1
        runner = self._runner
        if runner is not None:
            runner.abort()

    def end(self) -> None:
        """Stop everything, close the devices and let the thread end; `alive` tells when it has."""
        with self._wake:
            self._ending = True
            self._queue.clear()
            self._wake.notify_all()
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end."""
        self._thread.join(timeout_s)

    @property
    def calling(self) -> str:
        """The device that is being asked something at this moment; "" none."""
        return self._calling

    @property
    def replay(self) -> Replay | None:
        """The run that is replayed; its playhead may be moved from any thread."""
        setup = self._setup
        return None if setup is None else setup.replay

    # ---- For orders, in the devices' thread --------------------------------------------------------------------------

    @property
    def setup(self) -> Setup:
        """The bench. Raises `NotReadyError` without one."""
        if self._setup is None:
            raise NotReadyError("bench", "is not connected; connect one first")
        return self._setup

    @property
    def state(self) -> BenchState:
        return self._state

    def stopped(self) -> bool:
        """The `Cancel` of an order: whether STOP was pressed since it was given. Looks at the bench meanwhile."""
        self.watch()
        return self._current is None or self._stops != self._current.stops or self._ending

    @property
    def aborted(self) -> bool:
        """Whether Abort was pressed since the order in progress was given."""
        return self._current is not None and self._aborts != self._current.aborts

    def _unasked(self) -> bool:
        """Whether nobody needs to answer any more."""
        runner = self._runner
        return self.stopped() or self.aborted or (runner is not None and runner.abort_wanted)

    def watch(self) -> None:
        """Look at stage and live frames if it is time to; never raises."""
        if self._clock.monotonic() - self._looked >= WATCH_S:
            self._look()
        if self._state.camera.live and self._clock.monotonic() - self._live_looked >= WATCH_LIVE_S:
            self._look_live(0.0)

    def tell(self, words: str, done: int = 0, total: int = 0) -> None:
        """Progress of the order in progress."""
        self.publish(activity=replace(self._state.activity, words=words, done=done, total=total))

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
                self._guarded("camera", lambda: self._expose(exposure_s))
            if live and "camera" in self._open:
                self._guarded("camera", lambda: self._live(True))

    @contextmanager
    def running(self, runner: Runner) -> Iterator[None]:
        """Inside, this run can be paused and aborted from any thread."""
        with self._pause_lock:
            self._runner = runner
            if self._pausing:
                runner.pause()
        try:
            # A stop or an abort between the order and this line did not know of the runner.
            if self.stopped() or self.aborted:
                runner.abort()
            yield
        finally:
            self._runner = None

    def connect(self, make: MakeSetup) -> None:
        """Close what is open and open a bench, each device for itself. Nothing moves.

        Raises: what making it raises, all as it was; a device that does not open is a fault and no error.
        """
        # Made first, its devices closed: a typing error in a profile costs nobody the bench that is homed. Opened only
        # when the old ones are closed: no two drivers share a port.
        setup = make(self.question)
        self.close()
        for act in self.at_connecting:
            act()
        self._setup = setup
        self.publish(name=setup.name, kind=setup.kind, profile=setup.profile, known=setup.known, run=None)
        self.reconnect(*DEVICES)

    def reconnect(self, *names: str) -> None:
        """Close and open these devices. Nothing moves."""
        setup = self.setup
        if "stage" in names:
            for wire in setup.devices.wires:
                self._guarded("stage", wire.open)
        for name in names:
            device = getattr(setup.devices, name)
            with contextlib.suppress(Exception):
                device.close()
            self._open.discard(name)
            if self._guarded(name, device.open):
                self._open.add(name)
        if "camera" in names and "camera" in self._open:
            if setup.replay is None:
                self._guarded("camera", lambda: self._first_exposure(setup))
            self._guarded("camera", lambda: self._live(self.wants_live or setup.kind is Kind.REPLAY))
        self._look()

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
                self.journal.warning(line_of(error))
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

    # ---- The thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._queue and not self._ending:
                    self._wake.wait(LIVE_S if self._state.camera.live else REST_S)
                if self._ending and not self._queue:
                    break
                self._current = self._queue.popleft() if self._queue else None
            if self._current is not None:
                self._obey(self._current)
                with self._wake:
                    self._current = None
            if self._clock.monotonic() - self._looked >= LOOK_S:
                self._look()
            if self._state.camera.live and not self._queue:
                self._look_live(REST_S)
        self.close()

    def _obey(self, given: Given) -> None:
        order = given.order
        if given.stops != self._stops and order.doing is not Doing.NOTHING:
            self.journal.warning(f"{order.name}: not begun because of STOP")
            return
        if order.doing is Doing.SCANNING:
            # A pause of an earlier scan is none of this one.
            self._pausing = False
        if order.doing is not Doing.NOTHING:
            self.publish(activity=Activity(order.doing, order.name))
        try:
            order.act(self)
        except Cancelled as error:
            self.journal.warning(f"{order.name}: stopped. {line_of(error)}")
        except Exception as error:
            self._failed(order.name, error)
        finally:
            # First free, then said to be: who sees it idle may give the next order at once.
            with self._wake:
                self._current = None
            self.publish(activity=Activity())
            self._look()

    def _failed(self, name: str, error: Exception) -> None:
        if isinstance(error, InstrumentError) and lost(error):
            self._fault(device_of(error), error)
            return
        self.journal.error(f"{name}: {line_of(error)}")

    def _guarded(self, name: str, call: Callable[[], Any]) -> bool:
        """Make a call; a failure is a fault of the device and told. Returns whether it worked."""
        self._calling = name
        try:
            call()
        except Exception as error:
            self._fault(name, error)
            return False
        finally:
            self._calling = ""
        return True

    def _fault(self, name: str, error: Exception) -> None:
        self._open.discard(name)
        state = DeviceState(Health.FAULT, line_of(error))
        if name == "camera":
            self.publish(camera=replace(self._state.camera, device=state, live=False))
        elif name == "stage":
            self.publish(stage=replace(self._state.stage, device=state, position=None, homed=False))
        elif name == "light":
            self.publish(beam=replace(self._state.beam, device=state))
        words = line_of(error)
        self.journal.error(words if "reconnect" in words.lower() else f"{words}; then press Reconnect")

    def _look(self) -> None:
        """Ask every connected device how it is, and publish."""
        self._looked = self._clock.monotonic()
        setup = self._setup
        changes: dict[str, Any] = {}
        if setup is not None:
            if "camera" in self._open and self._guarded("camera", lambda: self._see_camera(setup, changes)):
                changes["camera"] = changes.pop("seen")
            if "stage" in self._open and self._guarded("stage", lambda: self._see_stage(setup, changes)):
                changes["stage"] = changes.pop("seen")
            if "light" in self._open and self._guarded("light", lambda: self._see_light(setup, changes)):
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
                self.journal.warning(f"{line_of(error)}; live frames that are lost are counted from now on")
            self.publish(camera=replace(camera, lost=camera.lost + 1))
            return
        except Exception as error:
            self._fault("camera", error)
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
        self._look()
