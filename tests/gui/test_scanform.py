"""What is on the screen is what is checked and what would be started."""

from __future__ import annotations

import pytest
from PyQt5.QtCore import QPoint, QPointF, Qt
from PyQt5.QtGui import QWheelEvent

from app.acquire.plan import Stream
from tests.gui.rigs import Desk

FIELDS = ("positions", "overlap", "evaluation", "darks", "empty", "bright", "passes")


def typed(desk: Desk, name: str, text: str) -> None:
    """Type into a field that keeps the focus."""
    field = getattr(desk.window.scan.form, name)
    field.setFocus()
    field.selectAll()
    desk.bot.keyClicks(field, text)


@pytest.mark.parametrize(("name", "text"), [("darks", "7"), ("positions", "12"), ("overlap", "55"), ("bright", "0.2")])
def test_a_number_that_is_typed_is_not_checked_yet(at_desk, tmp_path, name, text):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    scan = at_desk.window.scan
    typed(at_desk, name, text)
    assert not scan.begin.isEnabled()
    assert {label.text() for label in scan.numbers.values()} == {"…"}
    assert "Not checked yet" in scan.findings.item(0).text()
    at_desk.until(scan.begin.isEnabled)
    assert "it can start" in scan.findings.item(scan.findings.count() - 1).text()
    assert "…" not in {label.text() for label in scan.numbers.values()}


def test_what_was_typed_last_is_what_is_scanned(at_desk, tmp_path):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    typed(at_desk, "darks", "7")
    at_desk.start_scan()
    at_desk.until(lambda: at_desk.bench.run is not None and not at_desk.bench.run.running and at_desk.bench.idle)
    darks = [step.repeats for step in at_desk.bench.run.plan.steps if step.stream is Stream.DARK]
    assert darks
    assert set(darks) == {7}


def test_the_key_right_after_a_number_starts_nothing(at_desk, tmp_path):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    at_desk.home()
    at_desk.window.show_panel("scan")
    scan, given = at_desk.window.scan, []
    at_desk.until(scan.begin.isEnabled)
    at_desk.window.owner.give = given.append
    typed(at_desk, "darks", "7")
    scan.begin.click()
    scan._start()
    assert [order.name for order in given if order.name == "scan"] == []
    del at_desk.window.owner.give


@pytest.mark.parametrize(("name", "words"), [("positions", "points ''"), ("bright", "bright exposure ''")])
def test_an_empty_field_is_told_and_taken_back_when_it_is_left(at_desk, tmp_path, name, words):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    scan = at_desk.window.scan
    typed(at_desk, name, "5" if name == "positions" else "200ms")
    getattr(scan.form, name).selectAll()
    at_desk.bot.keyClick(getattr(scan.form, name), Qt.Key_Delete)
    assert not scan.begin.isEnabled()
    at_desk.until(lambda: f"{words} is no number" in scan.findings.item(0).text())
    assert not scan.begin.isEnabled()
    scan.form.sample.setFocus()
    at_desk.until(scan.begin.isEnabled)
    assert getattr(scan.form, name).text() in ("5", "200 ms")


def test_leaving_a_field_starts_no_other_check(at_desk, tmp_path):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    scan = at_desk.window.scan
    typed(at_desk, "bright", "0.2")
    at_desk.until(scan.begin.isEnabled)
    # Pressing Start takes the focus: the field then writes its number in its own way, which changes nothing.
    scan.begin.setFocus()
    assert scan.form.bright.text() == "200 ms"
    assert scan.begin.isEnabled()


def test_the_wheel_is_left_to_the_scroll_area_and_changes_nothing(at_desk):
    at_desk.connect()
    form = at_desk.window.scan.form
    before = form._values()
    for field in (form.mode, *(getattr(form, name) for name in FIELDS)):
        field.setFocus()
        middle = field.rect().center()
        places = QPointF(middle), QPointF(field.mapToGlobal(middle)), QPoint(), QPoint(0, -120)
        event = QWheelEvent(*places, Qt.NoButton, Qt.NoModifier, Qt.NoScrollPhase, False)
        at_desk.window._app.sendEvent(field, event)
        assert form._values() == before
        assert not event.isAccepted()
        assert field.focusPolicy() == Qt.StrongFocus


def test_what_it_takes_is_in_view_beside_start(at_desk, tmp_path):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    at_desk.window.resize(1280, 800)
    scan = at_desk.window.scan
    for name in ("Time", "Dose"):
        label = scan.numbers[name]
        at_desk.until(lambda label=label: label.visibleRegion().boundingRect().height() == label.height())
        assert not scan.scroll.isAncestorOf(label)
