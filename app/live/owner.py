"""The thread that owns a bench's devices: orders in, snapshots out; whoever shows them never waits for a device.

One thread makes all device calls. Orders are queued; those that move or measure are refused while another is under way,
so that nothing piles up behind a key that is held down. Snapshots and frames go out through slots where the latest
wins. The one exception is `stop`: it goes from the thread that calls it straight to the stage.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from app.acquire.runner import Runner
from app.live.asking import Question
from app.live.journal import Journal
from app.live.order import Given, Order, RunListener, device_of, line_of, lost
from app.live.setup import MakeSetup, Setup
from app.live.state import Activity, BenchState, Doing
from app.live.watched import WatchedDevices
from app.replaying import Replay
from drivers.base import Cancelled, InstrumentError
from drivers.clock import Clock

REST_S = 0.02
"""Longest rest between two looks at the queue."""
LIVE_S = 0.01
"""Least time between two live frames that are taken from the camera."""
OWNER_THREAD = "devices"


class DeviceOwner:
    """See above. `start` it once, `end` it once; everything in between from any thread.

    Args:
        clock: real time, for ages and pacing.
        journal: where messages go.

    Attributes:
        watched: its devices and what they show.
        question: what a person is asked.
        listeners: told of every run that begins.
        at_connecting: called in the devices' thread whenever another bench takes the place of the one before; be quick.
    """

    def __init__(self, clock: Clock, journal: Journal):
        self.journal = journal
        self.watched = WatchedDevices(clock, journal)
        self.listeners: list[RunListener] = []
        self.at_connecting: list[Callable[[], None]] = []
        self._wake = threading.Condition()
        self._queue: deque[Given] = deque()
        self._current: Given | None = None
        self._ending = False
        self._stops = self._aborts = 0
        self._pausing = False
        self._pause_lock = threading.Lock()
        self._runner: Runner | None = None
        self.question = Question(self._unasked)
        self._thread = threading.Thread(target=self._run, name=OWNER_THREAD, daemon=True)

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
        runner, setup = self._runner, self.watched.connected
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
    def state(self) -> BenchState:
        """The newest snapshot."""
        return self.watched.state

    @property
    def replay(self) -> Replay | None:
        """The run that is replayed; its playhead may be moved from any thread."""
        return self.watched.replay

    # ---- For orders, in the devices' thread --------------------------------------------------------------------------

    @property
    def setup(self) -> Setup:
        """The bench. Raises `NotReadyError` without one."""
        return self.watched.setup

    def stopped(self) -> bool:
        """The `Cancel` of an order: whether STOP was pressed since it was given. Looks at the bench meanwhile."""
        self.watched.watch()
        return self._current is None or self._stops != self._current.stops or self._ending

    @property
    def aborted(self) -> bool:
        """Whether Abort was pressed since the order in progress was given."""
        return self._current is not None and self._aborts != self._current.aborts

    def _unasked(self) -> bool:
        """Whether nobody needs to answer any more."""
        runner = self._runner
        return self.stopped() or self.aborted or (runner is not None and runner.abort_wanted)

    def tell(self, words: str, done: int = 0, total: int = 0) -> None:
        """Progress of the order in progress."""
        self.watched.publish(activity=replace(self.state.activity, words=words, done=done, total=total))

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
        self.watched.close()
        for act in self.at_connecting:
            act()
        self.watched.hold(setup)

    # ---- The thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._queue and not self._ending:
                    self._wake.wait(LIVE_S if self.state.camera.live else REST_S)
                if self._ending and not self._queue:
                    break
                self._current = self._queue.popleft() if self._queue else None
            if self._current is not None:
                self._obey(self._current)
                with self._wake:
                    self._current = None
            self.watched.look_idly(None if self._queue else REST_S)
        self.watched.close()

    def _obey(self, given: Given) -> None:
        order = given.order
        if given.stops != self._stops and order.doing is not Doing.NOTHING:
            self.journal.warning(f"{order.name}: not begun because of STOP")
            return
        if order.doing is Doing.SCANNING:
            # A pause of an earlier scan is none of this one.
            self._pausing = False
        if order.doing is not Doing.NOTHING:
            self.watched.publish(activity=Activity(order.doing, order.name))
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
            self.watched.publish(activity=Activity())
            self.watched.look()

    def _failed(self, name: str, error: Exception) -> None:
        if isinstance(error, InstrumentError) and lost(error):
            self.watched.fault(device_of(error), error)
            return
        self.journal.error(f"{name}: {line_of(error)}")
