"""Opening, connecting, selecting and zooming never move anything; longer ways ask first."""

from __future__ import annotations

from PyQt5.QtCore import QPoint, Qt
from PyQt5.QtGui import QWheelEvent

from app.gui.connect import Choice
from app.live import orders
from app.live.state import Health, Kind
from drivers.base import StagePosition
from tests.gui.rigs import Desk


def wheel(desk: Desk, view) -> None:
    place = view.viewport().rect().center()
    event = QWheelEvent(
        place, view.mapToGlobal(place), QPoint(), QPoint(0, 240), Qt.NoButton, Qt.NoModifier, Qt.NoScrollPhase, False
    )
    desk.window._app.sendEvent(view.viewport(), event)


def test_nothing_moves_on_open_connect_select_and_zoom(at_desk, tmp_path):
    at_desk.connect()
    window = at_desk.window
    for name in window.docks:
        window.show_panel(name)
    for view in (window.stage.map, window.scan.map, window.camera.canvas):
        wheel(at_desk, view)
        at_desk.bot.mouseClick(view.viewport(), Qt.LeftButton)
        at_desk.bot.mouseDClick(view.viewport(), Qt.LeftButton)
    at_desk.ready_to_scan(tmp_path / "run.h5")
    point = window.scan.map.dots.points()[0]
    window.scan.map.dots.sigClicked.emit(window.scan.map.dots, [point], None)
    at_desk.until(window.align.plan.isEnabled)
    window.align.plan.click()
    at_desk.until(lambda: "places each along y and x" in window.align.moves.text())
    window.align.confirm.no.click()
    for step in window.stage.pad.steps.buttons():
        step.click()
    window.stage.origin.click()
    window.stage.pad.setFocus()
    at_desk.bot.keyClick(window.stage.pad, Qt.Key_Right)
    window.set_theme("light")
    window.set_theme("dark")
    window.owner.give(orders.reconnect("camera", "stage", "light"))
    at_desk.until(lambda: at_desk.bench.idle and at_desk.bench.stage.device.health is Health.CONNECTED)
    assert at_desk.stage.motions == []


def test_home_and_go_to_ask_first_and_no_means_no(at_desk):
    at_desk.connect()
    stage = at_desk.window.stage
    at_desk.click(stage.home)
    assert stage.confirm.isVisible()
    assert "ends of their travel" in stage.confirm.words
    at_desk.click(stage.confirm.no)
    assert not stage.confirm.isVisible()
    assert at_desk.stage.motions == []
    at_desk.home()
    for place in (stage.park, stage.load, stage.unload, stage.centre, stage.go):
        at_desk.click(place)
        assert "Move to" in stage.confirm.words
        at_desk.click(stage.confirm.no)
    assert at_desk.stage.motions == ["home"]


def test_go_to_goes_to_what_was_typed(at_desk):
    at_desk.connect()
    at_desk.home()
    stage = at_desk.window.stage
    for field, text in ((stage.to_y, "11 mm"), (stage.to_x, "13.5")):
        field.selectAll()
        at_desk.bot.keyClicks(field, text)
    at_desk.click(stage.go)
    at_desk.click(stage.confirm.yes)
    at_desk.until(
        lambda: at_desk.bench.idle and at_desk.bench.stage.position.distance_to(StagePosition(11e-3, 13.5e-3)) < 1e-8
    )


def test_a_target_outside_the_limits_is_refused_in_words(at_desk):
    at_desk.connect()
    at_desk.home()
    stage = at_desk.window.stage
    stage.to_y.setValue(25e-3)
    at_desk.click(stage.go)
    at_desk.click(stage.confirm.yes)
    at_desk.until(lambda: "y position 0.025 m is outside 0.0005 .. 0.0245 m" in at_desk.messages())
    assert at_desk.stage.motions == ["home"]


def test_a_step_by_button_and_by_key(at_desk):
    at_desk.connect()
    at_desk.home()
    stage = at_desk.window.stage
    at_desk.click(stage.centre)
    at_desk.click(stage.confirm.yes)
    at_desk.until(lambda: at_desk.bench.idle and at_desk.bench.stage.position.y > 12e-3)
    stage.pad.choose_step(20e-6)
    at_desk.click(stage.pad.arrows["+x"])
    at_desk.until(lambda: at_desk.bench.idle and at_desk.bench.stage.position.x > 12.51e-3)
    stage.pad.setFocus()
    at_desk.bot.keyClick(stage.pad, Qt.Key_PageUp)
    assert stage.pad.step_m == 50e-6
    at_desk.until(stage.pad.arrows["+x"].isEnabled)
    at_desk.bot.keyClick(stage.pad, Qt.Key_Up)
    at_desk.until(lambda: at_desk.bench.idle and at_desk.bench.stage.position.y < 12.46e-3)
    here = at_desk.bench.stage.position
    assert here.distance_to(StagePosition(12.45e-3, 12.52e-3)) < 1e-8


def test_the_zero_that_is_shown_changes_no_target(at_desk):
    at_desk.connect()
    at_desk.home()
    stage = at_desk.window.stage
    at_desk.click(stage.centre)
    at_desk.click(stage.confirm.yes)
    at_desk.until(lambda: at_desk.bench.idle and at_desk.bench.stage.position.y > 12e-3)
    # The panel, too, has seen where the stage is.
    at_desk.until(lambda: stage.position.text().startswith("y 12.5"))
    at_desk.click(stage.origin)
    at_desk.until(lambda: stage.position.text().startswith("y 0.0000"))
    stage.to_y.setValue(1e-3)
    stage.to_x.setValue(0.0)
    at_desk.click(stage.go)
    assert "y 13.5000, x 12.5000 mm" in stage.confirm.words
    at_desk.click(stage.confirm.no)


def test_the_title_says_what_it_is(at_desk):
    assert at_desk.window.windowTitle() == "Ptychoscope"
    at_desk.window.connect_bench(Choice("tiny", speed=100.0))
    at_desk.until(lambda: at_desk.bench.name == "tiny" and at_desk.bench.idle)
    at_desk.until(lambda: "SIMULATED" in at_desk.window.windowTitle())
    assert at_desk.bench.kind is Kind.SIMULATED


def test_a_profile_that_is_wrong_is_a_message_and_no_bench(at_desk):
    at_desk.window.connect_bench(Choice("nowhere"))
    at_desk.until(lambda: "profile 'nowhere': does not exist" in at_desk.messages())
    at_desk.until(at_desk.window.notices.banner.isVisible)
    assert at_desk.bench.name == ""
