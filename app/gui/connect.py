"""Which bench: a dialog that blocks nothing. Connecting opens devices and moves none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QComboBox, QDialog, QDoubleSpinBox, QFormLayout, QHBoxLayout, QLineEdit, QSpinBox, QWidget

from app.gui.theme import GAP
from app.gui.widgets import button, choose_file, faint
from app.profile import shipped_profiles


@dataclass(frozen=True)
class Choice:
    """A bench as it is asked for.

    Attributes:
        profile: a shipped name or a file.
        seed, sample, speed: of simulated devices; sample None takes the profile's.
    """

    profile: str = "quick"
    seed: int = 0
    sample: str | None = None
    speed: float = 1.0


class ConnectDialog(QDialog):
    """See above.

    Args:
        before: what it begins with.
        folder: where profiles are looked for.
        then: called with the choice.
    """

    def __init__(self, parent: QWidget, before: Choice, folder: Callable[[], Path], then: Callable[[Choice], object]):
        super().__init__(parent)
        self.setWindowTitle("Connect a bench")
        self.setModal(False)
        self.setAttribute(Qt.WA_DeleteOnClose)
        self._then, self._folder = then, folder
        self.profile = QComboBox()
        self.profile.setEditable(True)
        self.profile.addItems(shipped_profiles())
        self.profile.setCurrentText(before.profile)
        self.profile.setToolTip("A shipped profile or the path of a .toml file")
        self.seed = QSpinBox()
        self.seed.setRange(0, 2**31 - 1)
        self.seed.setValue(before.seed)
        self.sample = QLineEdit(before.sample or "")
        self.sample.setPlaceholderText("as the profile says: digit:4, mnist:17, relief:digit:4, a picture file")
        self.speed = QDoubleSpinBox()
        self.speed.setRange(0.1, 1000)
        self.speed.setValue(before.speed)
        self.speed.setSuffix(" x")
        self.speed.setToolTip("How fast simulated time passes")
        browse = button("…", "Choose a profile's file", self._browse)
        line = QHBoxLayout()
        line.addWidget(self.profile, 1)
        line.addWidget(browse)
        form = QFormLayout(self)
        form.setContentsMargins(2 * GAP, 2 * GAP, 2 * GAP, 2 * GAP)
        form.setSpacing(GAP)
        form.addRow("Profile", line)
        form.addRow(faint("For simulated benches"))
        form.addRow("Object", self.sample)
        form.addRow("Seed", self.seed)
        form.addRow("Speed", self.speed)
        form.addRow(faint("Connecting opens the devices. Nothing moves."))
        self.accept_button = button("Connect", "Open the devices; nothing moves", self._accept, primary=True)
        self.cancel_button = button("Cancel", "Leave all as it is (Esc)", self.reject)
        self.accept_button.setDefault(True)
        row = QHBoxLayout()
        row.addStretch()
        row.addWidget(self.cancel_button)
        row.addWidget(self.accept_button)
        form.addRow(row)
        self.setMinimumWidth(440)

    def _browse(self) -> None:
        choose_file(self, "Profile", self._folder(), "Profiles (*.toml)", lambda p: self.profile.setCurrentText(str(p)))

    def _accept(self) -> None:
        sample = self.sample.text().strip() or None
        self._then(Choice(self.profile.currentText().strip(), self.seed.value(), sample, self.speed.value()))
        self.accept()
