"""A disk that takes nothing any more holds nobody up."""

import _thread
import threading

import pytest

from app.acquire import runner as module
from app.acquire.observer import RunState
from app.acquire.plan import Stream
from app.acquire.recorder import QUEUE_FRAMES
from app.stopping import recorder_given_up
from drivers.base import Cancelled
from recon.dataset import DatasetError
from recon.files.read import open_run
from tests.acquire.fakes import FakeBench, small_profile

SHORT_S = 0.1
PATIENCE_S = 60.0


class HungBench(FakeBench):
    """A bench whose disk takes nothing from its third bright frame on, until `mended`.

    When the scan has exposed as far ahead as it dares to and waits for a place, `waits` is called.
    """

    def __init__(self):
        super().__init__(small_profile(positions=12, dark_frames=2))
        self.mended, self.waits = threading.Event(), lambda: None
        self.frames = 0
        self.exposed = threading.Semaphore(0)
        self.camera.on_acquire = self.exposed.release
        bright = [s.number for s in self.plan.steps if s.stream is Stream.CALIBRATION][2]
        self.ahead = sum(s.repeats for s in self.plan.steps[: bright + 1]) + QUEUE_FRAMES + 1

    def hang(self, where: str) -> None:
        if where.startswith("before /entry_1/instrument_1/detector_1/data"):
            self.frames += 1
            if self.frames == 3:
                for _ in range(self.ahead):
                    assert self.exposed.acquire(timeout=PATIENCE_S)
                self.waits()
                self.mended.wait(PATIENCE_S)

    def start(self, path):
        runner = self.runner(lambda: self.create(path, self.hang))
        runner._patience_s = SHORT_S
        return runner


def wait_for_the_recorder() -> None:
    for thread in threading.enumerate():
        if thread.name == "recorder":
            thread.join(PATIENCE_S)


@pytest.fixture
def hung():
    bench = HungBench()
    yield bench
    bench.mended.set()
    wait_for_the_recorder()


def test_an_abort_ends_a_scan_that_waits_for_a_hung_disk(tmp_path, hung):
    runner = hung.start(tmp_path / "run.h5")
    hung.waits = runner.abort
    stopped = []
    stop = hung.stage.stop
    hung.stage.stop = lambda: (stopped.append(not hung.mended.is_set()), stop())
    with pytest.raises(DatasetError, match=r"the disk has taken nothing for 0\.1 s; .*resume"):
        runner.run()
    assert runner.state is RunState.FAILED
    assert stopped == [True]
    # It comes back: the file is whole, and ends as it should.
    hung.mended.set()
    wait_for_the_recorder()
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "aborted"
    assert FakeBench(hung.profile).resume(tmp_path / "run.h5").state is RunState.COMPLETED


def test_a_second_interrupt_leaves_although_the_disk_hangs(tmp_path, hung, monkeypatch):
    monkeypatch.setattr(module, "LAST_PATIENCE_S", SHORT_S)
    runner = hung.start(tmp_path / "run.h5")
    hung.waits = _thread.interrupt_main
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert runner.state is RunState.FAILED
    assert hung.log[-1] == "stop"
    assert recorder_given_up()


def test_nobody_waits_for_a_place_after_an_abort(tmp_path, hung):
    from app.acquire.frame import Frame
    from app.acquire.recorder import Recorder

    step = hung.plan.steps[0]
    frame = Frame(step, 0, hung.camera.acquire(), None, None)
    writer = hung.create(tmp_path / "run.h5")
    busy, go_on = threading.Event(), threading.Event()

    def committed(_):
        busy.set()
        go_on.wait(PATIENCE_S)

    recorder = Recorder(writer, committed)
    recorder.put(frame)
    assert busy.wait(PATIENCE_S)
    for _ in range(QUEUE_FRAMES):
        recorder.put(frame)
    with pytest.raises(Cancelled, match="the disk was waited for"):
        recorder.put(frame, lambda: True)
    go_on.set()
    recorder.finish("aborted")
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "aborted"
