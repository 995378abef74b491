"""One bench after another: nothing of the first is shown, subtracted or counted from under the name of the second."""

from __future__ import annotations

import pytest
from PyQt5.QtCore import Qt

from app.live import orders
from app.live.state import Health
from drivers.base import ConnectionLost
from simulators.faults import Fault, FaultyCamera
from tests.gui.rigs import Desk


def shown(desk: Desk) -> None:
    desk.until(lambda: desk.window.camera._view is not None)


def expose(desk: Desk, text: str, seconds: float) -> None:
    field = desk.window.camera.exposure
    desk.until(field.isEnabled)
    field.selectAll()
    desk.bot.keyClicks(field, text)
    desk.bot.keyClick(field, Qt.Key_Return)
    desk.until(lambda: desk.window.camera._view.look.exposure.exposure_s == pytest.approx(seconds))


def dark_taken(desk: Desk) -> None:
    desk.click(desk.window.camera.dark)
    desk.until(lambda: "dark subtracted" in desk.window.camera.status.text())


def test_after_disconnecting_there_is_no_picture_and_nothing_to_save(at_desk):
    at_desk.connect()
    shown(at_desk)
    camera = at_desk.window.camera
    at_desk.window.owner.give(orders.disconnect())
    at_desk.until(lambda: camera._view is None)
    at_desk.until(lambda: not camera.save.isEnabled())
    assert camera.status.text() == ""
    assert camera.picture.image is None
    # Frames of the bench that is gone stay away, also when they are drawn anew.
    views = at_desk.window.viewer.views
    before = views.newest().number
    camera.overlay.click()
    at_desk.until(lambda: views.newest().number > before)
    at_desk.window.refresh()
    assert camera._view is None
    at_desk.connect()
    shown(at_desk)


def test_a_dark_does_not_come_along_to_another_bench(at_desk):
    at_desk.connect()
    shown(at_desk)
    dark_taken(at_desk)
    at_desk.connect(seed=1)
    shown(at_desk)
    at_desk.until(lambda: not at_desk.window.camera.dark.isChecked())
    assert at_desk.window.viewer.settings.dark is None
    at_desk.until(lambda: at_desk.window.camera.status.text() != "")
    assert "dark" not in at_desk.window.camera.status.text()


def test_a_dark_is_subtracted_from_frames_of_its_own_exposure_only(at_desk):
    at_desk.connect()
    shown(at_desk)
    exposure_s = at_desk.bench.camera.exposure_s
    dark_taken(at_desk)
    expose(at_desk, "20 ms", 0.02)
    camera = at_desk.window.camera
    assert not camera._view.picture.subtracted
    at_desk.until(lambda: "dark NOT subtracted: it is of 100 ms" in camera.status.text())
    assert camera.dark.isChecked()
    expose(at_desk, f"{exposure_s} s", exposure_s)
    at_desk.until(lambda: "dark subtracted" in camera.status.text())


def test_the_zero_does_not_come_along_to_another_bench(at_desk):
    at_desk.connect()
    at_desk.home()
    stage = at_desk.window.stage
    at_desk.click(stage.origin)
    at_desk.until(stage.origin.isChecked)
    at_desk.click(stage.park)
    at_desk.connect(seed=1)
    at_desk.until(lambda: not stage.origin.isChecked())
    assert stage._origin.y == stage._origin.x == 0.0
    assert not stage.confirm.isVisible()
    at_desk.until(lambda: stage.to_y.text() == "12.5 mm")


def test_go_to_left_alone_means_the_same_place_whatever_the_zero(at_desk):
    at_desk.connect()
    at_desk.home()
    stage = at_desk.window.stage
    at_desk.click(stage.centre)
    at_desk.click(stage.confirm.yes)
    at_desk.until(lambda: stage.position.text().startswith("y 12.5"))
    at_desk.until(stage.go.isEnabled)
    at_desk.click(stage.origin)
    assert stage.to_y.text() == "0 m"
    at_desk.click(stage.go)
    assert "y 0.0000, x 0.0000 mm from the zero shown (on the stage y 12.5000, x 12.5000 mm)" in stage.confirm.words
    at_desk.click(stage.confirm.no)
    at_desk.click(stage.origin)
    assert stage.to_y.text() == "12.5 mm"


def test_enter_in_a_field_asks_to_go_there(at_desk):
    at_desk.connect()
    at_desk.home()
    stage = at_desk.window.stage
    at_desk.until(stage.go.isEnabled)
    stage.to_x.selectAll()
    at_desk.bot.keyClicks(stage.to_x, "13.5")
    at_desk.bot.keyClick(stage.to_x, Qt.Key_Return)
    at_desk.until(stage.confirm.isVisible)
    assert "x 13.5000 mm" in stage.confirm.words
    assert at_desk.stage.motions == ["home"]


def test_a_picture_that_is_not_live_tells_its_age(at_desk):
    at_desk.connect()
    shown(at_desk)
    camera = at_desk.window.camera
    camera.freeze.click()
    at_desk.clock.shift_s += 100.0
    at_desk.until(lambda: camera.status.text().startswith("FROZEN, 1 min 4"))
    camera.freeze.click()
    at_desk.until(lambda: "frames/s" in camera.status.text())
    at_desk.click(camera.live)
    at_desk.until(lambda: not at_desk.bench.camera.live)
    at_desk.clock.shift_s += 300.0
    at_desk.until(lambda: camera.status.text().startswith("5 min 0"))


def test_the_picture_of_a_camera_that_is_gone_tells_its_age(at_desk):
    gone = ConnectionLost("camera", "was unplugged; plug it in and reconnect")
    at_desk.connect(camera=lambda camera: FaultyCamera(camera, Fault("newest", 5, gone)))
    shown(at_desk)
    at_desk.until(lambda: at_desk.bench.camera.device.health is Health.FAULT)
    at_desk.clock.shift_s += 200.0
    at_desk.until(lambda: at_desk.window.camera.status.text().startswith("3 min 2"))
