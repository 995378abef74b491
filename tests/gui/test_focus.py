"""The keyboard's focus stays where a person has put it, so that no key presses what nobody chose."""

from __future__ import annotations

import pytest
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QAbstractButton, QApplication

from app.live.state import Doing
from drivers.base import LightState
from tests.gui.rigs import SLOW, Desk


@pytest.fixture
def desk(at_desk: Desk) -> Desk:
    """One whose window has the keyboard."""
    at_desk.window.activateWindow()
    at_desk.until(at_desk.window.isActiveWindow)
    at_desk.connect()
    at_desk.home()
    return at_desk


def test_a_question_gives_the_focus_back(desk):
    stage = desk.window.stage
    desk.until(stage.go.isEnabled)
    stage.to_y.setFocus()
    desk.click(stage.park)
    stage.to_y.setFocus()
    stage.park.click()
    desk.until(lambda: QApplication.focusWidget() is stage.confirm.no)
    desk.click(stage.confirm.no)
    assert QApplication.focusWidget() is stage.to_y


def test_a_question_that_ends_by_itself_takes_no_focus_from_a_field(desk):
    stage = desk.window.stage
    desk.click(stage.park)
    desk.window.camera.exposure.setFocus()
    stage.confirm.cancel()
    assert QApplication.focusWidget() is desk.window.camera.exposure


def test_after_a_move_space_switches_no_light(desk):
    window = desk.window
    stage = window.stage
    desk.until(lambda: window.light.block.isEnabled())
    window.owner.setup.devices.clock.speed = SLOW
    desk.click(stage.centre)
    desk.click(stage.confirm.yes)
    desk.until(lambda: desk.bench.activity.doing is Doing.MOVING)
    desk.until(lambda: not stage.centre.isEnabled())
    in_the_move = QApplication.focusWidget()
    assert not isinstance(in_the_move, QAbstractButton)
    desk.bot.keyClick(in_the_move, Qt.Key_Space)
    window.stop()
    desk.until(lambda: desk.bench.idle)
    desk.until(stage.centre.isEnabled)
    desk.until(lambda: QApplication.focusWidget() is stage.centre)
    assert desk.bench.beam.state is LightState.OPEN
    assert not stage.origin.isChecked()


def test_a_field_gets_its_focus_back_after_the_move(desk):
    stage = desk.window.stage
    desk.until(stage.go.isEnabled)
    stage.to_x.setFocus()
    stage.go.click()
    desk.click(stage.confirm.yes)
    desk.until(lambda: len(desk.stage.motions) == 2 and desk.bench.idle)
    desk.until(lambda: stage.to_x.isEnabled() and stage.to_x.hasFocus())
