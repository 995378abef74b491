"""Scanning asks before it homes or where nobody looks; a question is about the bench that it was asked of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PyQt5.QtCore import Qt

from app.live import orders
from app.profile import load_profile
from tests.gui.rigs import Desk


def ready(desk: Desk, path, homed: bool) -> None:
    desk.connect()
    if homed:
        desk.home()
    desk.ready_to_scan(path)


def press_key(desk: Desk) -> None:
    """Ctrl+Return, from wherever one is."""
    desk.window.activateWindow()
    desk.until(lambda: desk.window._app.activeWindow() is desk.window)
    desk.bot.keyClick(desk.window, Qt.Key_Return, Qt.ControlModifier)


@pytest.mark.parametrize("homed", [False, True])
def test_a_scan_from_another_panel_asks_and_shows_what_it_asks(at_desk, tmp_path, homed):
    ready(at_desk, tmp_path / "run.h5", homed)
    scan = at_desk.window.scan
    at_desk.window.show_panel("stage")
    at_desk.until(scan.visibleRegion().isEmpty)
    motions = list(at_desk.stage.motions)
    press_key(at_desk)
    assert scan.confirm.isVisibleTo(scan)
    at_desk.until(lambda: not scan.confirm.visibleRegion().isEmpty())
    assert scan.confirm.words.startswith("Scan?" if homed else "Home both axes and scan?")
    assert f"{scan.numbers['Frames'].text()} frames, " in scan.confirm.words
    press_key(at_desk)
    assert scan.confirm.isVisibleTo(scan)
    assert at_desk.bench.idle
    at_desk.click(scan.confirm.no)
    at_desk.until(scan.begin.isEnabled)
    assert at_desk.stage.motions == motions
    assert at_desk.bench.run is None
    at_desk.click(scan.begin)
    if not homed:
        at_desk.click(scan.confirm.yes)
    at_desk.until(lambda: at_desk.bench.run is not None and not at_desk.bench.run.running and at_desk.bench.idle)


def test_homing_is_asked_for_in_the_panel_too(at_desk, tmp_path):
    ready(at_desk, tmp_path / "run.h5", homed=False)
    scan = at_desk.window.scan
    at_desk.click(scan.begin)
    assert "Look that nothing is in their way" in scan.confirm.words
    # What is asked for now is something else.
    scan.form.darks.setValue(6)
    assert not scan.confirm.isVisibleTo(scan)
    at_desk.until(scan.begin.isEnabled)
    assert at_desk.stage.motions == []


def test_an_open_question_to_scan_is_withdrawn_when_the_stage_moves(at_desk, tmp_path):
    ready(at_desk, tmp_path / "run.h5", homed=False)
    scan = at_desk.window.scan
    at_desk.click(scan.begin)
    assert at_desk.window.owner.give(orders.home())
    at_desk.until(lambda: not scan.confirm.isVisibleTo(scan))
    at_desk.until(lambda: at_desk.bench.idle)
    assert at_desk.bench.run is None


def test_questions_do_not_outlive_their_bench(at_desk, tmp_path):
    at_desk.connect()
    window = at_desk.window
    window.show_panel("align")
    at_desk.click(window.align.plan)
    at_desk.until(lambda: window.align.confirm.isVisibleTo(window.align))
    window.scan.resume_run(tmp_path / "run.h5")
    assert window.scan.confirm.isVisibleTo(window.scan)
    at_desk.connect(profile="quick")
    at_desk.until(lambda: not window.align.confirm.isVisibleTo(window.align))
    at_desk.until(lambda: not window.scan.confirm.isVisibleTo(window.scan))
    at_desk.until(lambda: window.align.moves.text() == "Not planned yet")
    assert window.align._start is None
    assert at_desk.stage.motions == []


def test_questions_end_with_the_bench(at_desk, tmp_path):
    at_desk.connect()
    window = at_desk.window
    at_desk.click(window.align.plan)
    at_desk.until(lambda: window.align.confirm.isVisibleTo(window.align))
    window.scan.resume_run(tmp_path / "run.h5")
    window.owner.give(orders.disconnect())
    at_desk.until(lambda: not window.align.confirm.isVisibleTo(window.align))
    at_desk.until(lambda: not window.scan.confirm.isVisibleTo(window.scan))


def test_moves_that_were_planned_are_not_confirmed_after_others(at_desk):
    at_desk.connect()
    align = at_desk.window.align
    at_desk.click(align.plan)
    at_desk.until(lambda: align.confirm.isVisibleTo(align))
    at_desk.window.owner.give(orders.home())
    at_desk.until(lambda: not align.confirm.isVisibleTo(align))
    at_desk.until(lambda: at_desk.bench.idle)
    assert at_desk.stage.motions == ["home"]


def test_moves_that_another_bench_planned_late_are_not_asked_about(at_desk):
    at_desk.connect()
    align = at_desk.window.align
    align._plan()
    at_desk.until(lambda: align.confirm.isVisibleTo(align))
    align._plans.put(["of the bench before"])
    align.refresh(replace(at_desk.bench, known=load_profile("quick")), 0.0)
    assert not align.confirm.isVisibleTo(align)
    assert align.moves.text() == "Not planned yet"
