"""The thread that owns the devices, without a window: orders, refusals, STOP, faults, its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from app.acquire.frame import Frame
from app.acquire.observer import Progress, RunState
from app.acquire.scan import Scan
from app.live import orders
from app.live.journal import Journal, Severity
from app.live.order import Order
from app.live.orders import ScanRequest
from app.live.owner import DeviceOwner
from app.live.pace import PacedClock
from app.live.planner import Ask, Planner, planned
from app.live.setup import Setup
from app.live.state import Doing, Health, RunStatus
from app.profile import load_profile
from drivers.base import StagePosition
from drivers.clock import SystemClock, VirtualClock
from recon.files.read import open_run

PATIENCE_S = 20.0


class Done:
    """An order's end."""

    def __init__(self, owner: DeviceOwner):
        self.owner = owner

    def after(self, order: Order) -> None:
        """Give the order and wait until it is over."""
        over = threading.Event()

        def act(owner: DeviceOwner) -> None:
            try:
                order.act(owner)
            finally:
                over.set()

        assert self.owner.give(Order(order.name, act, order.key, order.doing))
        assert over.wait(PATIENCE_S)
        # One more turn of the thread, so that everything is published.
        turn = threading.Event()
        while not self.owner.give(Order("turn", lambda _: turn.set())):
            pass
        assert turn.wait(PATIENCE_S)

    def idle(self) -> None:
        """Wait until the order that was given is over."""
        until(lambda: self.owner._current is None and not self.owner._queue)


def until(condition: Callable[[], bool]) -> None:
    """For what nobody tells of."""
    never, end = threading.Event(), SystemClock().monotonic() + PATIENCE_S
    while not condition():
        assert SystemClock().monotonic() < end
        never.wait(0.01)


@pytest.fixture
def owner() -> Iterator[DeviceOwner]:
    clock = SystemClock()
    made = DeviceOwner(clock, Journal(clock))
    made.start()
    yield made
    made.end()
    made.join(PATIENCE_S)
    assert not made.alive


@pytest.fixture
def connected(owner) -> Done:
    done = Done(owner)
    done.after(orders.connect(lambda ask: Setup.of_profile("tiny", ask, 0, clock=VirtualClock(1.7e9))))
    return done


def texts(owner: DeviceOwner) -> str:
    return "\n".join(message.text for message in owner.journal.since(0))


def test_connecting_tells_everything_and_moves_nothing(connected, owner):
    state = owner.state
    assert {d.health for d in (state.camera.device, state.stage.device, state.beam.device)} == {Health.CONNECTED}
    assert not state.stage.homed
    assert state.stage.position == StagePosition(0.0, 0.0)
    assert state.camera.exposure_s == 0.1


def test_orders_without_a_bench_are_told(owner):
    Done(owner).after(orders.home())
    assert "stage: is not connected" in texts(owner)


def test_at_a_limit_one_can_still_jog_along_it(connected, owner):
    connected.after(orders.home())
    stage = owner.setup.devices.stage
    for y in (stage.info.y_m.low, stage.info.y_m.high):
        connected.after(orders.move_to(StagePosition(y, 12.5e-3)))
        # As a controller that rounds to the nearest microstep counts there.
        stage.carriage.turn(0, round(y / stage.info.step_m))
        connected.after(orders.jog(0.0, 1e-5))
        assert "outside" not in texts(owner)
        assert stage.position().x == pytest.approx(12.51e-3, abs=1e-9)


def test_home_move_and_jog(connected, owner):
    connected.after(orders.jog(1e-6, 0.0))
    assert "is not homed" in texts(owner)
    connected.after(orders.home())
    connected.after(orders.jog(1e-6, 0.0))
    assert "outside 0.0005 .. 0.0245 m; go inside with Go to" in texts(owner)
    connected.after(orders.move_to(StagePosition(12e-3, 13e-3)))
    connected.after(orders.jog(-50e-6, 20e-6))
    assert owner.state.stage.position.distance_to(StagePosition(11.95e-3, 13.02e-3)) < 1e-8


def test_a_waiting_order_is_replaced_by_a_newer_one_with_its_key(connected, owner):
    held, go_on = threading.Event(), threading.Event()
    owner.give(Order("hold", lambda _: (held.set(), go_on.wait(PATIENCE_S))))
    assert held.wait(PATIENCE_S)
    for seconds in (0.01, 0.02, 0.03):
        owner.give(orders.set_exposure(seconds))
    waiting = len(owner._queue)
    go_on.set()
    connected.after(Order("after", lambda _: None))
    assert waiting == 1
    assert owner.state.camera.exposure_s == 0.03


def test_a_second_motion_is_refused_while_one_is_under_way(connected, owner):
    held, go_on = threading.Event(), threading.Event()
    owner.give(Order("a long way", lambda _: (held.set(), go_on.wait(PATIENCE_S)), doing=Doing.MOVING))
    assert held.wait(PATIENCE_S)
    assert not owner.give(orders.home())
    assert "home: not now, a long way is under way" in texts(owner)
    assert owner.give(orders.set_exposure(0.01))
    go_on.set()


def test_stop_without_anything_is_harmless(owner):
    owner.stop()
    Done(owner).after(orders.disconnect())
    owner.stop()


def test_stop_says_whether_the_stage_took_it(connected, owner, monkeypatch):
    assert owner.stop()
    connected.after(orders.reconnect("stage"))
    monkeypatch.setattr(owner.setup.devices.stage, "stop", lambda: 1 / 0)
    assert not owner.stop()
    assert "STOP: ZeroDivisionError" in texts(owner)


def test_a_bench_that_cannot_be_made_leaves_the_one_that_is_there(connected, owner):
    connected.after(orders.home())
    before, told = owner.setup, []
    owner.at_connecting.append(lambda: told.append(len(told)))
    connected.after(orders.connect(lambda ask: Setup.of_profile("nowhere", ask)))
    assert texts(owner).count("profile 'nowhere': does not exist") == 1
    assert owner.setup is before
    assert owner.state.stage.homed
    assert (owner.state.name, told) == ("tiny", [])
    connected.after(orders.connect(lambda ask: Setup.of_profile("tiny", ask, 0, clock=VirtualClock(1.7e9))))
    assert owner.setup is not before
    assert not owner.state.stage.homed
    assert told == [0]


class Held:
    """Holds up the making of a run in the devices' thread, until it is let go."""

    def __init__(self, monkeypatch, name: str = "scan", after: int = 0):
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.made = 0
        kind = ScanRequest if name == "scan" else Scan
        real = getattr(kind, name)

        def made(*args, **options):
            self.made += 1
            if self.made == after + 1:
                self.reached.set()
                assert self.go_on.wait(PATIENCE_S)
            return real(*args, **options)

        monkeypatch.setattr(kind, name, made)


class Ends:
    """Notices how runs end, and when one is paused."""

    def __init__(self, owner: DeviceOwner):
        self.paused, self.over = threading.Event(), threading.Event()
        self.states: list[RunState] = []
        owner.listeners.append(self)

    def run_begins(self, scan):
        return self

    def state_changed(self, state: RunState) -> None:
        self.states.append(state)
        if state is RunState.PAUSED:
            self.paused.set()
        if state in (RunState.COMPLETED, RunState.ABORTED, RunState.FAILED):
            self.over.set()

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        pass


def test_an_abort_while_a_run_is_being_made_ends_it(connected, owner, tmp_path, monkeypatch):
    held, ends = Held(monkeypatch), Ends(owner)
    owner.give(orders.scan(ScanRequest(tmp_path / "run.h5", owner.state.profile)))
    assert held.reached.wait(PATIENCE_S)
    owner.abort()
    held.go_on.set()
    assert ends.over.wait(PATIENCE_S)
    assert ends.states[-1] is RunState.ABORTED
    with open_run(tmp_path / "run.h5") as run:
        assert (run.outcome, run.steps_committed) == ("aborted", 0)
    connected.idle()
    # It was that scan's abort and nobody else's.
    connected.after(orders.scan(ScanRequest(tmp_path / "run.h5", owner.state.profile, resume=True)))
    assert ends.states[-1] is RunState.COMPLETED


def test_a_pause_while_a_run_is_being_made_holds_it(connected, owner, tmp_path, monkeypatch):
    held, ends = Held(monkeypatch), Ends(owner)
    owner.give(orders.scan(ScanRequest(tmp_path / "run.h5", owner.state.profile)))
    assert held.reached.wait(PATIENCE_S)
    owner.pause()
    held.go_on.set()
    assert ends.paused.wait(PATIENCE_S)
    assert owner.state.run.done == 0
    owner.proceed()
    assert ends.over.wait(PATIENCE_S)
    assert ends.states[-1] is RunState.COMPLETED


def test_a_pause_that_was_taken_back_or_of_an_earlier_scan_holds_nothing(connected, owner, tmp_path, monkeypatch):
    held, ends = Held(monkeypatch), Ends(owner)
    owner.pause()
    owner.give(orders.scan(ScanRequest(tmp_path / "run.h5", owner.state.profile)))
    assert held.reached.wait(PATIENCE_S)
    owner.pause()
    owner.proceed()
    held.go_on.set()
    assert ends.over.wait(PATIENCE_S)
    assert RunState.PAUSED not in ends.states
    connected.idle()
    owner.pause()
    connected.after(orders.scan(ScanRequest(tmp_path / "next.h5", owner.state.profile)))
    assert RunState.PAUSED not in ends.states
    assert ends.states.count(RunState.COMPLETED) == 2


def test_an_abort_between_two_points_takes_none_of_those_to_come(connected, owner, tmp_path, monkeypatch):
    path = tmp_path / "run.h5"
    connected.after(orders.scan(ScanRequest(path, owner.state.profile)))
    ends, held = Ends(owner), Held(monkeypatch, "interrupted", after=1)
    frames = owner.watched.frames.newest().number
    owner.give(orders.retake(path, (1, 2, 3)))
    assert held.reached.wait(PATIENCE_S)
    of_one = owner.watched.frames.newest().number - frames
    owner.abort()
    held.go_on.set()
    connected.idle()
    assert held.made == 2
    assert owner.watched.frames.newest().number - frames == of_one
    # The one that was being made began and ended at once.
    assert ends.states[-1] is RunState.ABORTED
    assert "point 2 taken again, aborted" in texts(owner)


def test_an_abort_at_the_end_of_a_point_takes_none_of_those_to_come(connected, owner, tmp_path):
    path = tmp_path / "run.h5"
    connected.after(orders.scan(ScanRequest(path, owner.state.profile)))
    ends = Ends(owner)
    changed = ends.state_changed

    def late(state: RunState) -> None:
        changed(state)
        if state is RunState.COMPLETED:
            owner.abort()

    ends.state_changed = late
    connected.after(orders.retake(path, (1, 2, 3)))
    assert ends.states.count(RunState.RUNNING) == 1
    assert "scan: aborted, not taken again: 2, 3" in texts(owner)
    with open_run(path) as run:
        assert run.outcome == "completed"


class Listener:
    """Follows runs as a live reconstruction would."""

    def __init__(self) -> None:
        self.scans, self.states, self.frames = [], [], 0

    def run_begins(self, scan):
        self.scans.append(scan.path)
        return self

    def state_changed(self, state: RunState) -> None:
        self.states.append(state)

    def frame_committed(self, frame: Frame, progress: Progress) -> None:
        self.frames += 1


def test_listeners_follow_a_run_from_its_beginning(connected, owner, tmp_path):
    listener = Listener()
    owner.listeners.append(listener)
    request = ScanRequest(tmp_path / "run.h5", owner.state.profile)
    connected.after(orders.scan(request))
    assert listener.scans == [tmp_path / "run.h5"]
    assert listener.states == [RunState.PREFLIGHT, RunState.RUNNING, RunState.COMPLETED]
    assert listener.frames == owner.state.run.total == 28
    assert owner.state.run.state is RunState.COMPLETED


def test_live_view_rests_during_a_scan_and_comes_back(connected, owner, tmp_path):
    connected.after(orders.live(True))
    assert owner.state.camera.live
    connected.after(orders.scan(ScanRequest(tmp_path / "run.h5", owner.state.profile)))
    assert owner.state.run.state is RunState.COMPLETED
    assert owner.state.camera.live


def test_a_low_dose_scan_without_a_calibrated_run_says_so(connected, owner, tmp_path):
    first = ScanRequest(tmp_path / "run.h5", owner.state.profile)
    connected.after(orders.scan(first))
    request = ScanRequest(tmp_path / "low.h5", owner.state.profile, calibration=tmp_path / "run.h5")
    found = []
    connected.after(orders.check(request, found.append))
    assert "calibrat" in found[0].error
    assert planned(Ask(request, owner.state.known, owner.state.stage.info)).plan is None


def test_a_check_finds_what_the_command_line_finds(connected, owner, tmp_path):
    (tmp_path / "there.h5").write_text("")
    found = []
    connected.after(orders.check(ScanRequest(tmp_path / "run.h5", owner.state.profile), found.append))
    connected.after(orders.check(ScanRequest(tmp_path / "there.h5", owner.state.profile), found.append))
    connected.after(orders.check(ScanRequest(tmp_path / "run.dat", owner.state.profile), found.append))
    assert found[0].findings == ()
    assert "exists already" in found[1].error
    assert "must end in .h5" in found[2].findings[0].message


def test_the_planner_answers_the_newest_question(connected, owner, tmp_path):
    planner = Planner(SystemClock())
    state = owner.state
    for positions in (20, 30, 40):
        scan = state.profile.scan.model_copy(update={"positions": positions})
        profile = state.profile.model_copy(update={"scan": scan})
        planner.ask(Ask(ScanRequest(tmp_path / "run.h5", profile), profile, state.stage.info))
    planner.start()
    deadline = SystemClock().monotonic() + PATIENCE_S
    while planner.answers.newest() is None and SystemClock().monotonic() < deadline:
        pass
    planner.end()
    answer = planner.answers.newest()
    assert answer.number == 1
    assert len(answer.item.plan.positions_m) == 40
    assert answer.item.cost.frames == answer.item.plan.frames


def test_the_journal_forgets_the_oldest_and_counts_on():
    journal = Journal(VirtualClock(), capacity=3)
    for number in range(5):
        journal.info(f"line\n {number}")
    journal.error("bad")
    assert [message.text for message in journal.since(0)] == ["line 3", "line 4", "bad"]
    assert [message.number for message in journal.since(5)] == [6]
    assert journal.since(5)[0].severity is Severity.ERROR
    assert journal.count == 6


def test_a_paced_clock_runs_faster_and_begins_where_it_is_told():
    clock, real = PacedClock(1000.0, start=50.0), SystemClock()
    begin, real_begin = clock.monotonic(), real.monotonic()
    clock.sleep(2.0)
    assert clock.monotonic() - begin >= 2.0
    assert clock.now() >= 52.0
    assert (clock.monotonic() - begin) >= 900.0 * (real.monotonic() - real_begin) - 1.0
    with pytest.raises(ValueError, match="is not a finite number above 0"):
        PacedClock(0.0)


class Announcing:
    """A lock that says when somebody else wants it."""

    def __init__(self, wanted: threading.Event):
        self._lock, self._wanted = threading.Lock(), wanted

    def __enter__(self) -> None:
        if self._lock.locked():
            self._wanted.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_a_pause_is_not_lost_to_the_frame_that_is_told_meanwhile(owner, tmp_path, monkeypatch):
    """Runner and recorder tell at the same moment: the pause comes while a frame's status is being made."""
    made = Scan.new(load_profile("tiny"), tmp_path / "run.h5", 0)
    watcher = orders._Watcher(owner, made)
    watcher.state_changed(RunState.RUNNING)
    had_its_turn = threading.Event()
    watcher._lock = Announcing(had_its_turn)

    def paused() -> None:
        watcher.state_changed(RunState.PAUSED)
        had_its_turn.set()

    runner = threading.Thread(target=paused)

    def replaced(status: RunStatus, **changes: object) -> RunStatus:
        if "done" in changes:
            runner.start()
            assert had_its_turn.wait(PATIENCE_S)
        return replace(status, **changes)

    monkeypatch.setattr(orders, "replace", replaced)
    watcher._put(done=3)
    runner.join(PATIENCE_S)
    assert not runner.is_alive()
    assert owner.state.run.state is RunState.PAUSED
    assert owner.state.run.done == 3
