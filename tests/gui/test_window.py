"""The window around its panels: guests, docks, themes, the log, the dialog that connects."""

from __future__ import annotations

import pytest
from PyQt5.QtWidgets import QAbstractButton, QAction, QLabel

from app.gui.theme import DARK, LIGHT, Theme
from app.gui.window import Window
from app.live.journal import Severity
from app.live.state import BenchState, Kind
from drivers.base import AcquisitionError
from simulators.faults import Fault, FaultyCamera
from tests.gui.rigs import Desk


class Guest:
    """A panel from elsewhere."""

    title = "Reconstruction"

    def __init__(self) -> None:
        self.widget = QLabel("nothing yet")
        self.looks, self.themes, self.closed = 0, [], False

    def join(self, owner) -> None:
        self.joined = owner

    def refresh(self, bench: BenchState, age_s: float) -> None:
        self.looks += 1

    def restyle(self, theme: Theme) -> None:
        self.themes.append(theme)

    def close(self) -> None:
        self.closed = True


def test_a_guest_has_a_dock_is_refreshed_restyled_and_closed(at_desk, tmp_path):
    guest = Guest()
    window = Window(at_desk.clock, tmp_path / "other.json", [guest])
    window.show()
    at_desk.until(lambda: guest.looks > 3)
    assert window.docks["guest-0"].widget() is guest.widget
    window.set_theme("light")
    assert guest.joined is window.owner
    assert guest.themes == [DARK, LIGHT]
    window.leave()
    at_desk.until(lambda: not window.isVisible())
    assert guest.closed
    window.deleteLater()


def test_without_a_guest_there_is_no_empty_place_for_one(at_desk):
    assert set(at_desk.window.docks) == {"stage", "scan", "align", "replay", "log"}
    assert not at_desk.window.docks["replay"].isVisible()


def test_the_log_shows_what_is_chosen(at_desk):
    window = at_desk.window
    for severity, act in ((Severity.INFO, window.journal.info), (Severity.ERROR, window.journal.error)):
        act(f"a line of {severity.value}")
    at_desk.until(lambda: "a line of error" in window.log.text.toPlainText())
    assert "a line of info" in window.log.text.toPlainText()
    window.log.choice.setCurrentText("Errors")
    assert "a line of info" not in window.log.text.toPlainText()
    assert "a line of error" in window.log.text.toPlainText()
    window.log.copy.click()
    assert "a line of error" in window._app.clipboard().text()


def test_an_error_stays_above_until_it_is_dismissed(at_desk):
    banner = at_desk.window.notices.banner
    at_desk.window.journal.info("nothing bad")
    at_desk.window.journal.error("something bad")
    at_desk.until(banner.isVisible)
    assert banner.words.text() == "something bad"
    at_desk.click(banner.close_button)
    assert not banner.isVisible()


def test_the_dialog_connects_what_was_chosen(at_desk):
    at_desk.window.ask_connect()
    dialog = at_desk.window.dialog
    dialog.profile.setCurrentText("tiny")
    dialog.sample.setText("digit:7")
    dialog.seed.setValue(11)
    dialog.speed.setValue(200.0)
    at_desk.click(dialog.accept_button)
    at_desk.until(lambda: at_desk.bench.name == "tiny" and at_desk.bench.idle)
    setup = at_desk.window.owner.setup
    assert (setup.seed, setup.sample, setup.speed, setup.kind) == (11, "digit:7", 200.0, Kind.SIMULATED)
    assert setup.devices.sample == "digit:7"


def test_every_control_says_what_it_does(at_desk):
    silent = [
        control.accessibleName() or control.text() or type(control).__name__
        for panel in (*at_desk.window._panels, at_desk.window.top)
        for control in panel.findChildren(QAbstractButton)
        if not control.toolTip() and control.isVisibleTo(panel) and control.text()
    ]
    # The answers to a question say what they do themselves.
    assert set(silent) <= {"Yes", "Cancel"}


def test_disconnecting_closes_everything(at_desk: Desk):
    from app.live import orders

    at_desk.connect()
    at_desk.window.owner.give(orders.disconnect())
    at_desk.until(lambda: at_desk.bench.name == "" and at_desk.bench.idle)
    at_desk.until(lambda: at_desk.window.windowTitle() == "Ptychoscope")
    assert at_desk.bench.stage.position is None


@pytest.mark.parametrize("profile", [None, "tiny"])
def test_the_window_fits_a_small_screen(at_desk, profile):
    if profile is not None:
        at_desk.connect(profile=profile)
        at_desk.until(lambda: at_desk.window.camera.status.text() != "")
    window = at_desk.window
    assert window.minimumSizeHint().width() <= 1200
    window.resize(1280, 800)
    at_desk.until(lambda: (window.width(), window.height()) == (1280, 800))
    stop = window.top.stop
    assert stop.mapTo(window, stop.rect().topRight()).x() < 1280


def test_what_must_be_read_stands_first_and_the_rest_ends_in_an_ellipsis(at_desk):
    broken = AcquisitionError("camera", "frame 7 arrived damaged; look at the cable")
    at_desk.connect(camera=lambda camera: FaultyCamera(camera, Fault("newest", 3, broken, repeats=4)))
    status = at_desk.window.camera.status
    at_desk.until(lambda: status.text().startswith("4 lost"))
    at_desk.window.camera.freeze.click()
    at_desk.until(lambda: status.text().startswith("FROZEN"))
    status.setText("FROZEN" + " and more" * 200)
    assert status.seen.startswith("FROZEN")
    assert status.seen.endswith("…")
    assert status.toolTip() == status.text()


def test_places_that_are_close_together_can_both_be_read(at_desk):
    at_desk.connect()
    stage_map = at_desk.window.stage.map
    at_desk.until(lambda: len(stage_map.names) >= 2)
    stage = at_desk.bench.known.stage
    stage_map.show_profile(stage.model_copy(update={"park_m": (12.5e-3, 14e-3)}))
    boxes = {name.toPlainText(): name.sceneBoundingRect() for name in stage_map.names}
    assert not boxes["centre"].intersects(boxes["park"])


def test_every_button_has_a_name_in_words(at_desk):
    at_desk.window.ask_connect()
    widgets = (*at_desk.window._panels, at_desk.window.top, at_desk.window.dialog)
    nameless = [
        control.text()
        for panel in widgets
        for control in panel.findChildren(QAbstractButton)
        if control.text() and not any(letter.isalpha() for letter in control.accessibleName() or control.text())
    ]
    assert nameless == []
    assert at_desk.window.replay.first.accessibleName() == "First frame"
    at_desk.window.dialog.reject()


def test_the_keys_that_a_tool_tip_names_are_those_of_the_menu(at_desk):
    window = at_desk.window
    keys = {action.text(): action.shortcut().toString() for action in window.findChildren(QAction)}
    for control, entry in ((window.replay.first, "First frame"), (window.replay.last, "Last frame")):
        assert keys[entry]
        assert f"({keys[entry]})" in control.toolTip()
