import threading

import numpy as np
import pytest

from app.acquire.observer import RunState
from app.acquire.plan import Stream
from app.acquire.preflight import PreflightError
from drivers.base import Cancelled, ConnectionLost, LightState
from recon.dataset import DatasetError
from recon.files.read import open_run
from recon.files.write import RunWriter
from tests.acquire.fakes import FakeBench, small_profile
from tests.files.compare import assert_same_measurement


class Watcher:
    """Writes down states and progress; acts once after a number of frames."""

    def __init__(self, after: int = -1, action=lambda: None):
        self.states: list[RunState] = []
        self.progress = []
        self.frames = []
        self._after = after
        self._action = action
        self.acted = threading.Event()

    def state_changed(self, state):
        self.states.append(state)

    def frame_committed(self, frame, progress):
        self.frames.append(frame)
        self.progress.append(progress)
        if len(self.frames) == self._after:
            self._action()
            self.acted.set()


def test_a_run_takes_every_frame_in_order_and_records_it(tmp_path):
    bench, watcher = FakeBench(), Watcher()
    runner = bench.run(tmp_path / "run.h5", watcher)
    assert runner.state is RunState.COMPLETED
    assert watcher.states == [RunState.PREFLIGHT, RunState.RUNNING, RunState.COMPLETED]
    assert [(f.step.number, f.repeat) for f in watcher.frames] == [
        (step.number, repeat) for step in bench.plan.steps for repeat in range(step.repeats)
    ]
    assert [p.done for p in watcher.progress] == list(range(1, bench.plan.frames + 1))
    assert watcher.progress[-1].remaining_s == 0.0
    assert all(a.remaining_s >= b.remaining_s for a, b in zip(watcher.progress, watcher.progress[1:], strict=False))
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "completed"
        assert run.steps_committed == len(bench.plan.steps)
        assert list(run.ptychogram().indices) == [
            s.position_index for s in bench.plan.steps if s.stream is Stream.CALIBRATION
        ]


def test_the_light_follows_the_steps_and_the_stage_is_homed_once(tmp_path):
    bench = FakeBench()
    bench.run(tmp_path / "run.h5")
    assert bench.log.count("home") == 1
    assert bench.log.count("block") == bench.log.count("unblock") == 1
    assert bench.log.index("block") < bench.log.index("expose 0.0003") < bench.log.index("unblock")
    assert bench.light.state is LightState.OPEN
    assert bench.log[-1] == "stop"


def test_every_point_is_approached_from_below_and_left_only_after_its_series(tmp_path):
    bench = FakeBench()
    bench.run(tmp_path / "run.h5")
    moves = [tuple(map(float, line.split()[1:])) for line in bench.log if line.startswith("move")]
    assert len(moves) == 2 * (1 + 3)  # the empty beam and three points, two moves each
    for begin, end in zip(moves[::2], moves[1::2], strict=True):
        assert np.subtract(end, begin) == pytest.approx([5e-5, 5e-5], abs=2e-6)


def test_without_an_approach_moves_are_direct(tmp_path):
    raw = small_profile().model_dump()
    raw["stage"]["approach_m"] = 0.0
    bench = FakeBench(type(small_profile()).model_validate(raw))
    bench.run(tmp_path / "run.h5")
    assert sum(line.startswith("move") for line in bench.log) == 4


@pytest.mark.parametrize("after", [1, 4, 10, 11, 12, 14])
def test_an_aborted_run_resumes_to_the_same_file(tmp_path, after):
    FakeBench().run(tmp_path / "whole.h5")
    bench = FakeBench()
    runner = bench.runner(lambda: bench.create(tmp_path / "run.h5"))
    taken = []

    def abort_in_time():
        taken.append(1)
        if len(taken) == after:
            runner.abort()

    bench.camera.on_acquire = abort_in_time
    assert runner.run() is RunState.ABORTED
    assert bench.log[-1] == "stop" or not any(line.startswith(("home", "move")) for line in bench.log)
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "aborted"
        assert run.steps_committed < len(bench.plan.steps)
    again = FakeBench()
    assert again.resume(tmp_path / "run.h5").state is RunState.COMPLETED
    assert_same_measurement(tmp_path / "run.h5", tmp_path / "whole.h5")
    with open_run(tmp_path / "run.h5") as run:
        assert any("resumed" in line for line in run.log)


def test_resuming_a_completed_run_does_nothing(tmp_path):
    FakeBench().run(tmp_path / "run.h5")
    before = (tmp_path / "run.h5").read_bytes()
    bench = FakeBench()
    assert bench.resume(tmp_path / "run.h5").state is RunState.COMPLETED
    assert bench.log == []
    assert (tmp_path / "run.h5").read_bytes() == before


def test_a_pause_waits_between_steps_and_goes_on(tmp_path):
    bench = FakeBench()
    watcher = Watcher()
    runner = bench.runner(lambda: bench.create(tmp_path / "run.h5"), watcher)
    paused = threading.Event()
    state_changed = watcher.state_changed

    def watch(state):
        state_changed(state)
        if state is RunState.PAUSED:
            paused.set()

    watcher.state_changed = watch
    bench.camera.on_acquire = runner.pause
    thread = threading.Thread(target=runner.run)
    thread.start()
    assert paused.wait(10)
    assert runner.state is RunState.PAUSED
    assert len([line for line in bench.log if line.startswith("expose")]) == 3  # the first step is finished
    bench.camera.on_acquire = lambda: None
    runner.proceed()
    thread.join(10)
    assert watcher.states == [
        RunState.PREFLIGHT,
        RunState.RUNNING,
        RunState.PAUSED,
        RunState.RUNNING,
        RunState.COMPLETED,
    ]


def test_a_paused_run_can_be_aborted(tmp_path):
    bench = FakeBench()
    runner = bench.runner(lambda: bench.create(tmp_path / "run.h5"))
    paused = threading.Event()
    runner._observer = Watcher()
    runner._observer.state_changed = lambda state: paused.set() if state is RunState.PAUSED else None
    runner.pause()
    thread = threading.Thread(target=runner.run)
    thread.start()
    assert paused.wait(10)
    runner.abort()
    thread.join(10)
    assert runner.state is RunState.ABORTED
    assert not any(line.startswith(("expose", "move")) for line in bench.log)


@pytest.mark.parametrize("where", ["camera", "stage"])
def test_a_failing_device_stops_everything_and_leaves_a_file_to_resume(tmp_path, where):
    bench = FakeBench()
    calls = []

    def fail():
        calls.append(1)
        if len(calls) == 5:
            raise ConnectionLost(where, "does not answer; check its cable")

    if where == "camera":
        bench.camera.on_acquire = fail
    else:
        bench.stage.on_move = fail
    runner = bench.runner(lambda: bench.create(tmp_path / "run.h5"))
    with pytest.raises(ConnectionLost, match=f"{where}: does not answer"):
        runner.run()
    assert runner.state is RunState.FAILED
    assert bench.log[-1] == "stop"
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "failed"
        assert any("does not answer" in line for line in run.log)
    FakeBench().resume(tmp_path / "run.h5")
    FakeBench().run(tmp_path / "whole.h5")
    assert_same_measurement(tmp_path / "run.h5", tmp_path / "whole.h5")


def test_a_stage_that_cancels_by_itself_is_a_failure(tmp_path):
    bench = FakeBench()

    def stopped():
        raise Cancelled("stage", "was stopped by hand; home it")

    bench.stage.on_move = stopped
    runner = bench.runner(lambda: bench.create(tmp_path / "run.h5"))
    with pytest.raises(Cancelled):
        runner.run()
    assert runner.state is RunState.FAILED


def test_a_full_disk_stops_the_scan_and_is_reported(tmp_path):
    bench = FakeBench()
    seen = []

    def fault(where):
        seen.append(where)
        if len(seen) > 60 and where.startswith("before /"):
            raise OSError(28, "No space left on device")

    runner = bench.runner(lambda: bench.create(tmp_path / "run.h5", fault))
    with pytest.raises(OSError, match="No space left"):
        runner.run()
    assert runner.state is RunState.FAILED
    assert bench.log[-1] == "stop"
    FakeBench().resume(tmp_path / "run.h5")
    FakeBench().run(tmp_path / "whole.h5")
    assert_same_measurement(tmp_path / "run.h5", tmp_path / "whole.h5")


def test_a_failed_preflight_moves_and_writes_nothing(tmp_path):
    bench = FakeBench()

    def refuse():
        raise PreflightError("no")

    runner = bench.runner(lambda: bench.create(tmp_path / "run.h5"))
    runner._preflight = refuse
    with pytest.raises(PreflightError):
        runner.run()
    assert runner.state is RunState.FAILED
    assert bench.log == []
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError, match="make a new one"):
        runner.run()


def test_a_run_is_never_written_over(tmp_path):
    FakeBench().run(tmp_path / "run.h5")
    bench = FakeBench()
    with pytest.raises(DatasetError, match="exists already"):
        bench.run(tmp_path / "run.h5")
    assert bench.log == []
    with pytest.raises(DatasetError, match="does not exist"):
        RunWriter.resume(tmp_path / "none.h5", bench.clock)
