"""Points are taken again of the run that the map shows, never of another plan."""

from __future__ import annotations

from app.acquire.observer import RunState
from app.gui.scan import ScanPanel
from tests.gui.rigs import Desk


def click_point(scan: ScanPanel, index: int) -> None:
    point = next(spot for spot in scan.map.dots.points() if spot.data() == index)
    scan.map.dots.sigClicked.emit(scan.map.dots, [point], None)


def completed(desk: Desk, path) -> ScanPanel:
    """A run is complete, and the map shows it."""
    desk.connect()
    desk.ready_to_scan(path)
    desk.start_scan()
    desk.until(lambda: desk.bench.run is not None and desk.bench.run.state is RunState.COMPLETED and desk.bench.idle)
    scan = desk.window.scan
    desk.until(lambda: scan.map._plan is desk.bench.run.plan and scan.begin.isEnabled())
    return scan


def test_points_that_were_chosen_are_forgotten_with_the_plan(at_desk, tmp_path):
    scan = completed(at_desk, tmp_path / "run.h5")
    click_point(scan, 2)
    at_desk.until(lambda: scan.again.isEnabled() and scan.again.text() == "Take 1 again")
    scan.form.overlap.setValue(20.0)
    at_desk.until(lambda: scan.map._plan is not at_desk.bench.run.plan)
    at_desk.until(lambda: not scan.again.isEnabled())
    assert scan.map.selected == set()


def test_points_of_another_plan_are_not_taken_again(at_desk, tmp_path):
    scan = completed(at_desk, tmp_path / "run.h5")
    run = at_desk.bench.run.plan
    scan.form.overlap.setValue(20.0)
    at_desk.until(lambda: scan.map._plan is not run)
    click_point(scan, 2)
    scan._selection()
    assert not scan.again.isEnabled()
    assert scan.map.selected == set()
    assert "show the run" in scan.shown.text()
    # The way back to the run, and again to what was typed.
    at_desk.click(scan.switch)
    at_desk.until(lambda: scan.map._plan is run and scan.map.choosable)
    click_point(scan, 2)
    at_desk.until(scan.again.isEnabled)
    at_desk.click(scan.again)
    assert "Take 1 point of run.h5 again?" in scan.confirm.words
    at_desk.click(scan.confirm.no)
    assert scan.switch.text() == "Show the plan"
    at_desk.click(scan.switch)
    at_desk.until(lambda: scan.map._plan is not run and not scan.again.isEnabled())


def test_an_edit_withdraws_the_question(at_desk, tmp_path):
    scan = completed(at_desk, tmp_path / "run.h5")
    click_point(scan, 2)
    at_desk.click(scan.again)
    assert scan.confirm.isVisibleTo(scan)
    scan.form.positions.setValue(5)
    assert not scan.confirm.isVisibleTo(scan)


def test_an_aborted_run_says_why_no_point_can_be_taken_again(at_desk, tmp_path):
    at_desk.connect(speed=30.0)
    at_desk.ready_to_scan(tmp_path / "run.h5")
    scan = at_desk.window.scan
    at_desk.start_scan()
    at_desk.until(lambda: at_desk.bench.run is not None and at_desk.bench.run.done > 0)
    at_desk.until(lambda: "in progress" in scan.shown.text())
    at_desk.click(scan.abort)
    at_desk.until(lambda: "aborted: complete it" in scan.shown.text())
    click_point(scan, 2)
    at_desk.until(lambda: scan.again.text() == "Take 1 again")
    assert not scan.again.isEnabled()
