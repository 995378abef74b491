"""The window around its panels: guests, docks, themes, the log, the dialog that connects."""

from __future__ import annotations

from PyQt5.QtWidgets import QAbstractButton, QLabel

from app.gui.theme import DARK, LIGHT, Theme
from app.gui.window import Window
from app.live.journal import Severity
from app.live.state import BenchState, Kind
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
