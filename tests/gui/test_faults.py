"""Devices that fail while somebody watches: lamps and words, a window that stays alive, and Reconnect."""

from __future__ import annotations

from app.acquire.observer import RunState
from app.live.state import Health
from drivers.base import AcquisitionError, ConnectionLost, DeviceTimeout
from simulators.faults import Fault, FaultyCamera
from tests.gui.rigs import Desk


def lamp(desk: Desk, name: str) -> Health:
    return desk.window.top.lamps[name].health


def test_a_camera_that_is_unplugged_while_live_is_a_fault_and_can_be_reconnected(at_desk):
    gone = ConnectionLost("camera", "was unplugged; plug it in and reconnect")
    at_desk.connect(camera=lambda camera: FaultyCamera(camera, Fault("newest", 5, gone)))
    window = at_desk.window
    at_desk.until(lambda: lamp(at_desk, "camera") is Health.FAULT)
    assert "was unplugged" in window.top.lamps["camera"].toolTip()
    at_desk.until(lambda: "was unplugged" in window.notices.banner.words.text())
    assert lamp(at_desk, "stage") is Health.CONNECTED
    at_desk.until(lambda: not window.camera.live.isEnabled())
    at_desk.until(lambda: not window.scan.begin.isEnabled())
    at_desk.home()
    at_desk.click(window.top.reconnect)
    at_desk.until(lambda: lamp(at_desk, "camera") is Health.CONNECTED)
    seen = window.owner.watched.frames.newest().number
    at_desk.until(lambda: window.owner.watched.frames.newest().number > seen + 2)


def test_a_stage_that_is_lost_is_a_fault_and_the_camera_goes_on(at_desk):
    at_desk.connect()
    window = at_desk.window
    at_desk.stage.gone = ConnectionLost("stage", "has not answered for 1 s; check its cable")
    at_desk.until(lambda: lamp(at_desk, "stage") is Health.FAULT)
    assert at_desk.bench.stage.position is None
    at_desk.until(lambda: not window.stage.home.isEnabled())
    seen = window.owner.watched.frames.newest().number
    at_desk.until(lambda: window.owner.watched.frames.newest().number > seen + 2)
    before = len(at_desk.stage.stops)
    window.stop()
    assert len(at_desk.stage.stops) == before + 1
    at_desk.stage.gone = None
    at_desk.click(window.top.reconnect)
    at_desk.until(lambda: lamp(at_desk, "stage") is Health.CONNECTED)
    assert at_desk.stage.motions == []


def test_a_device_that_does_not_open_leaves_the_others_usable(at_desk):
    wrong = ConnectionLost("camera", "no camera was found; plug one in")
    at_desk.connect(camera=lambda camera: FaultyCamera(camera, Fault("open", 1, wrong)))
    assert lamp(at_desk, "camera") is Health.FAULT
    at_desk.home()
    at_desk.click(at_desk.window.top.reconnect)
    at_desk.until(lambda: lamp(at_desk, "camera") is Health.CONNECTED)


def test_a_stage_that_hangs_is_silent_and_the_window_lives(at_desk, tmp_path):
    at_desk.connect()
    # The checks ask the stage as well; after them it is only looked at.
    at_desk.ready_to_scan(tmp_path / "run.h5")
    at_desk.stage.hang = True
    at_desk.until(at_desk.stage.hung.is_set)
    at_desk.clock.shift_s = 10.0
    at_desk.until(lambda: lamp(at_desk, "stage") is Health.STALE)
    assert "has not answered" in at_desk.window.top.lamps["stage"].toolTip()
    assert lamp(at_desk, "camera") is Health.CONNECTED
    assert at_desk.window.stage.words.text().startswith("10.")
    at_desk.window.camera.freeze.click()
    at_desk.stage.hang = False
    at_desk.stage.released.set()
    at_desk.until(lambda: lamp(at_desk, "stage") is Health.CONNECTED)


def test_live_frames_that_are_lost_are_counted_and_end_nothing(at_desk):
    broken = AcquisitionError("camera", "frame 7 arrived damaged; look at the cable")
    at_desk.connect(camera=lambda camera: FaultyCamera(camera, Fault("newest", 3, broken, repeats=4)))
    at_desk.until(lambda: at_desk.bench.camera.lost == 4)
    at_desk.until(lambda: "4 lost" in at_desk.window.camera.status.text())
    assert lamp(at_desk, "camera") is Health.CONNECTED
    assert at_desk.messages().count("arrived damaged") == 1


def test_a_camera_that_dies_in_a_scan_leaves_a_failed_run_that_reconnecting_resumes(at_desk, tmp_path):
    dead = DeviceTimeout("camera", "sent no frame in 1.3 s; reconnect it")
    at_desk.connect(camera=lambda camera: FaultyCamera(camera, Fault("acquire", 15, dead)))
    at_desk.ready_to_scan(tmp_path / "run.h5")
    window = at_desk.window
    at_desk.start_scan()
    at_desk.until(lambda: at_desk.bench.run is not None and at_desk.bench.run.state is RunState.FAILED)
    at_desk.until(lambda: lamp(at_desk, "camera") is Health.FAULT)
    assert "sent no frame" in at_desk.bench.run.error
    at_desk.click(window.top.reconnect)
    at_desk.until(lambda: lamp(at_desk, "camera") is Health.CONNECTED and at_desk.bench.idle)
    window.scan.resume_run(tmp_path / "run.h5")
    at_desk.click(window.scan.confirm.yes)
    at_desk.until(lambda: at_desk.bench.run.state is RunState.COMPLETED)


def test_a_bug_in_an_order_is_a_message_and_the_thread_goes_on(at_desk):
    from app.live.order import Order

    at_desk.connect()
    at_desk.window.owner.give(Order("nonsense", lambda owner: 1 / 0))
    at_desk.until(lambda: "ZeroDivisionError" in at_desk.messages())
    at_desk.home()
