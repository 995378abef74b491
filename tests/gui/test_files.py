"""Asking for a file: no question is a window of its own that would block STOP."""

from __future__ import annotations

from pathlib import Path

import pytest
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QApplication, QDialogButtonBox, QLineEdit, QPushButton

from app.gui.widgets import FileDialog, choose_file
from tests.gui.rigs import Desk

KINDS = "numpy array (*.npy)"


class Asked:
    """A dialog and what was chosen in it."""

    def __init__(self, desk: Desk, folder: Path, *, save: bool):
        self.chosen: list[Path] = []
        self.dialog: FileDialog = choose_file(desk.window, "File", folder, KINDS, self.chosen.append, save=save)
        self._desk = desk
        self.dialog.activateWindow()
        desk.until(self.dialog.isActiveWindow)

    @property
    def press(self) -> QPushButton:
        box = self.dialog.findChild(QDialogButtonBox)
        return next(b for b in box.buttons() if box.buttonRole(b) == QDialogButtonBox.AcceptRole)

    def type(self, name: str) -> None:
        """Qt follows what is typed only in a field that has the focus."""
        field = self.dialog.findChild(QLineEdit, "fileNameEdit")
        field.setFocus()
        field.clear()
        self._desk.bot.keyClicks(field, name)

    def take(self, name: str) -> None:
        self.type(name)
        self._desk.click(self.press)


@pytest.fixture
def asked(at_desk, tmp_path):
    made = Asked(at_desk, tmp_path, save=True)
    made.dialog.setAttribute(Qt.WA_DeleteOnClose, False)
    yield made
    made.dialog.close()
    made.dialog.deleteLater()


def test_writing_over_a_file_asks_in_the_dialog_and_leaves_stop_free(at_desk, tmp_path, asked):
    (tmp_path / "x.npy").write_bytes(b"1")
    asked.take("x.npy")
    at_desk.until(asked.dialog.confirm.isVisible)
    assert QApplication.activeModalWidget() is None
    assert "x.npy exists already" in asked.dialog.confirm.words
    at_desk.bot.mousePress(at_desk.window.top.stop, Qt.LeftButton)
    at_desk.until(lambda: "STOP" in at_desk.messages())
    assert asked.chosen == []
    at_desk.click(asked.dialog.confirm.yes)
    at_desk.until(lambda: asked.chosen == [tmp_path / "x.npy"])


def test_no_leaves_the_dialog_and_another_name_is_taken_at_once(at_desk, tmp_path, asked):
    (tmp_path / "x.npy").write_bytes(b"1")
    asked.take("x")
    at_desk.until(asked.dialog.confirm.isVisible)
    at_desk.click(asked.dialog.confirm.no)
    assert asked.dialog.isVisible()
    assert asked.chosen == []
    asked.take("y")
    at_desk.until(lambda: asked.chosen == [tmp_path / "y.npy"])


def test_a_yes_holds_for_the_file_that_was_named(at_desk, tmp_path, asked):
    for name in ("x.npy", "y.npy"):
        (tmp_path / name).write_bytes(b"1")
    asked.take("x.npy")
    at_desk.until(asked.dialog.confirm.isVisible)
    asked.type("y.npy")
    at_desk.click(asked.dialog.confirm.yes)
    at_desk.until(lambda: "y.npy exists already" in asked.dialog.confirm.words)
    assert asked.chosen == []


def test_a_file_that_is_not_there_is_told_in_the_dialog(at_desk, tmp_path):
    asked = Asked(at_desk, tmp_path, save=False)
    asked.type("z.npy")
    # The button waits for a file that is there; one may vanish before it is pressed.
    assert not asked.press.isEnabled()
    asked.dialog.accept()
    at_desk.until(asked.dialog.confirm.isVisible)
    assert QApplication.activeModalWidget() is None
    assert "does not exist" in asked.dialog.confirm.words
    asked.dialog.close()
    assert asked.chosen == []
