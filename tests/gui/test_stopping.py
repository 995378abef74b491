"""STOP by button and by key: in a move, while homing, in a scan, with a dialog open, with a thread that hangs."""

from __future__ import annotations

import threading

from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QMessageBox

from app.acquire.observer import RunState
from app.live import orders
from app.live.asking import Question
from app.live.state import Doing
from drivers.base import Cancelled, LightState, StagePosition
from recon.files.read import open_run
from tests.gui.rigs import FAST, SLOW, Desk

MAIN = "MainThread"


def homed(desk: Desk, speed: float = SLOW) -> None:
    """A bench in real time whose stage is homed already."""
    desk.connect(FAST)
    desk.home()
    # The same stage in slow motion.
    desk.window.owner.setup.devices.clock.speed = speed


def far_away(desk: Desk) -> None:
    desk.window.owner.give(orders.move_to(StagePosition(20e-3, 20e-3)))
    desk.until(lambda: desk.bench.activity.doing is Doing.MOVING)
    desk.until(lambda: len(desk.stage.motions) == 2)


def stands(desk: Desk) -> None:
    """It has ended before its target, and no call came from another thread than the window's."""
    desk.until(lambda: desk.bench.idle)
    assert desk.bench.stage.position.y < 19e-3
    assert MAIN in desk.stage.stops
    assert "stopped" in desk.messages()


def test_the_button_stops_a_move(at_desk):
    homed(at_desk)
    far_away(at_desk)
    at_desk.bot.mousePress(at_desk.window.top.stop, Qt.LeftButton)
    place = at_desk.window.owner.setup.devices.stage.position()
    stands(at_desk)
    assert at_desk.bench.stage.position == place


def test_a_stop_that_failed_is_not_said_to_have_worked(at_desk, monkeypatch):
    for worked, said in ((False, "MAY STILL BE MOVING"), (True, "the stage stands"), (None, "the stage stands")):
        before = at_desk.window.journal.count
        monkeypatch.setattr(at_desk.window.owner, "stop", lambda worked=worked: worked)
        at_desk.window.stop()
        told = " ".join(message.text for message in at_desk.window.journal.since(before))
        assert said in told
        assert ("stands" in told) is (worked is not False)


def test_escape_stops_a_move_wherever_the_focus_is(at_desk):
    homed(at_desk)
    far_away(at_desk)
    at_desk.window.camera.exposure.setFocus()
    at_desk.bot.keyClick(at_desk.window.camera.exposure, Qt.Key_Escape)
    stands(at_desk)


def test_escape_stops_with_a_modal_dialog_open(at_desk):
    homed(at_desk)
    box = QMessageBox(at_desk.window)
    box.setModal(True)
    box.show()
    far_away(at_desk)
    at_desk.bot.keyClick(box, Qt.Key_Escape)
    stands(at_desk)
    assert not box.isVisible()


def test_the_windows_own_dialogs_leave_the_button_free(at_desk):
    homed(at_desk)
    at_desk.window.ask_connect()
    at_desk.window.ask_recording()
    assert at_desk.window.dialog.isVisible()
    assert not at_desk.window._app.activeModalWidget()
    far_away(at_desk)
    at_desk.bot.mousePress(at_desk.window.top.stop, Qt.LeftButton)
    stands(at_desk)
    at_desk.window.dialog.reject()


def test_escape_stops_homing(at_desk):
    at_desk.connect(SLOW)
    at_desk.click(at_desk.window.stage.home)
    at_desk.click(at_desk.window.stage.confirm.yes)
    at_desk.until(lambda: at_desk.stage.motions == ["home"])
    at_desk.bot.keyClick(at_desk.window, Qt.Key_Escape)
    at_desk.until(lambda: at_desk.bench.idle)
    assert not at_desk.bench.stage.homed
    assert MAIN in at_desk.stage.stops


def test_stop_in_a_scan_leaves_a_run_that_can_be_resumed(at_desk, tmp_path):
    at_desk.connect(30.0)
    at_desk.ready_to_scan(tmp_path / "run.h5")
    at_desk.start_scan()
    at_desk.until(lambda: at_desk.bench.run is not None and at_desk.bench.run.done > 3)
    at_desk.bot.keyClick(at_desk.window, Qt.Key_Escape)
    at_desk.until(lambda: at_desk.bench.idle and not at_desk.bench.run.running)
    assert at_desk.bench.run.state is RunState.ABORTED
    assert MAIN in at_desk.stage.stops
    with open_run(tmp_path / "run.h5") as run:
        assert run.outcome == "aborted"


def test_stop_while_the_devices_thread_hangs_reaches_the_stage(at_desk):
    at_desk.connect()
    at_desk.stage.hang = True
    at_desk.until(at_desk.stage.hung.is_set)
    before = len(at_desk.stage.stops)
    at_desk.bot.keyClick(at_desk.window, Qt.Key_Escape)
    assert at_desk.stage.stops[before:] == [MAIN]


def test_orders_that_wait_are_forgotten_by_a_stop(at_desk):
    at_desk.connect()
    at_desk.stage.hang = True
    at_desk.until(at_desk.stage.hung.is_set)
    at_desk.window.owner.give(orders.home())
    at_desk.window.stop()
    at_desk.stage.released.set()
    at_desk.until(lambda: "home: not begun because of STOP" in at_desk.messages())
    assert at_desk.stage.motions == []


def test_steps_do_not_pile_up_behind_a_key_that_is_held_down(at_desk):
    homed(at_desk)
    pad = at_desk.window.stage.pad
    at_desk.click(at_desk.window.stage.centre)
    at_desk.window.owner.setup.devices.clock.speed = FAST
    at_desk.click(at_desk.window.stage.confirm.yes)
    at_desk.until(lambda: at_desk.bench.idle and at_desk.bench.stage.position.y > 12e-3)
    at_desk.window.owner.setup.devices.clock.speed = SLOW
    pad.setFocus()
    at_desk.until(pad.arrows["+x"].isEnabled)
    moves = len(at_desk.stage.motions)
    for _ in range(20):
        at_desk.bot.keyClick(pad, Qt.Key_Right)
    at_desk.until(lambda: len(at_desk.stage.motions) > moves)
    at_desk.until(lambda: at_desk.bench.idle)
    assert len(at_desk.stage.motions) == moves + 1


def test_a_question_about_the_light_is_ended_by_a_stop(at_desk):
    at_desk.connect()
    owner = at_desk.window.owner
    answers = []

    def act(owner):
        answers.append(owner.question("block the beam"))

    owner.give(orders.Order("light", act, doing=Doing.MEASURING))
    at_desk.until(at_desk.window.notices.confirm.isVisible)
    assert "block the beam" in at_desk.window.notices.confirm.words
    at_desk.window.stop()
    at_desk.until(lambda: at_desk.bench.idle)
    assert answers == []
    stale = at_desk.window.notices.confirm
    owner.give(orders.Order("light", act, doing=Doing.MEASURING))
    # The same words are a new question: it is shown anew, whatever became of the bar of the old one.
    at_desk.until(lambda: owner.question.asked is not None and at_desk.window._asked is owner.question.asked)
    at_desk.until(stale.isVisible)
    at_desk.click(stale.yes)
    at_desk.until(lambda: answers == [True])


def test_an_answer_to_a_question_that_has_ended_is_left_alone():
    ended = threading.Event()
    question = Question(ended.is_set)
    answers = []

    def ask():
        try:
            answers.append(question("block the beam"))
        except Cancelled:
            answers.append(None)

    def asked():
        thread = threading.Thread(target=ask)
        thread.start()
        while question.asked is None:
            thread.join(0.001)
        return thread, question.asked

    first, old = asked()
    ended.set()
    first.join()
    ended.clear()
    second, new = asked()
    question.answer(old, True)
    question.answer(new, False)
    second.join()
    assert answers == [None, False]
    assert old != new


def test_the_light_is_switched_by_its_buttons(at_desk):
    at_desk.connect()
    at_desk.click(at_desk.window.light.block)
    at_desk.until(lambda: at_desk.bench.beam.state is LightState.BLOCKED)
    at_desk.click(at_desk.window.light.open)
    at_desk.until(lambda: at_desk.bench.beam.state is LightState.OPEN)
