"""Small parts that several panels are made of."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PyQt5 import sip
from PyQt5.QtCore import Qt, pyqtSignal
from PyQt5.QtGui import QPainter, QValidator
from PyQt5.QtWidgets import (
    QApplication,
    QDoubleSpinBox,
    QFileDialog,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.gui.theme import GAP, Theme
from app.live.state import BenchState

PREFIXES = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}


def quantity(value: float, unit: str, digits: int = 4) -> str:
    """A number with its unit for people: 300 ms, 12.5 mm, 30 µs."""
    if not math.isfinite(value):
        return f"? {unit}"
    if value == 0:
        return f"0 {unit}"
    for prefix, factor in (("", 1.0), ("m", 1e-3), ("µ", 1e-6), ("n", 1e-9)):
        if abs(value) >= factor * 0.99995:
            return f"{float(f'{value / factor:.{digits}g}'):.10g} {prefix}{unit}"
    return f"{value / 1e-9:.{digits}g} n{unit}"


def duration(seconds: float) -> str:
    """3 min 05 s."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {left:02d} s"


def data_size(count: float) -> str:
    """130 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


class Panel(QWidget):
    """One dock's content. Panels are told what is new thirty times a second and never ask a device.

    Attributes:
        title: of its dock.
    """

    title = ""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("panel")
        self.setAttribute(Qt.WA_StyledBackground)

    def refresh(self, bench: BenchState, age_s: float) -> None:
        """Show this snapshot, which is so old; must take a few milliseconds at most."""

    def restyle(self, theme: Theme) -> None:
        """Take the colours that no style sheet reaches."""


class QuantityEdit(QDoubleSpinBox):
    """A number with a unit, typed as 300ms, 0.3 or 30 us; empty or wrong text is not taken.

    Args:
        unit: "s" or "m".
        low, high: limits, SI; beyond them nothing is taken.
        ladder: arrow keys go 1, 2, 5, 10 ..; otherwise by `step`.
        bare: factor of a number without a unit.
    """

    edited = pyqtSignal(float)
    """A person chose a value."""

    def __init__(
        self, unit: str, low: float, high: float, *, ladder: bool = False, step: float = 1e-3, bare: float = 1.0
    ):
        super().__init__()
        self._unit, self._ladder, self._bare = unit, ladder, bare
        self.setDecimals(12)
        self.setRange(low, high)
        self.setSingleStep(step)
        self.setKeyboardTracking(False)
        self.setFocusPolicy(Qt.StrongFocus)
        self.setMinimumWidth(88)
        self.setButtonSymbols(QDoubleSpinBox.NoButtons)
        self.valueChanged.connect(self.edited)

    def show_value(self, value: float) -> None:
        """Show a value that nobody typed; not while somebody is typing."""
        if not self.hasFocus() and self.value() != value:
            self.put_value(value)

    def put_value(self, value: float) -> None:
        """Show a value that nobody typed, whoever is typing."""
        self.blockSignals(True)
        self.setValue(value)
        self.blockSignals(False)

    def textFromValue(self, value: float) -> str:
        return quantity(value, self._unit, 4 if self._ladder else 7)

    def valueFromText(self, text: str) -> float:
        if text == self.textFromValue(self.value()):
            # What is shown has fewer digits than what is meant.
            return self.value()
        found = self._parse(text)
        return self.value() if found is None else found

    def validate(self, text: str, position: int) -> tuple[QValidator.State, str, int]:
        found = self._parse(text)
        good = found is not None and self.minimum() <= found <= self.maximum()
        return (QValidator.Acceptable if good else QValidator.Intermediate), text, position

    def stepBy(self, steps: int) -> None:
        if not self._ladder:
            super().stepBy(steps)
            return
        value = self.value()
        for _ in range(abs(steps)):
            value = _next_on_ladder(value, steps > 0)
        self.setValue(min(max(value, self.minimum()), self.maximum()))

    def wheelEvent(self, event: Any) -> None:
        """Scrolling past a field must not change it."""
        event.ignore()

    def _parse(self, text: str) -> float | None:
        found = re.fullmatch(rf"\s*([-+]?[0-9]*[.,]?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([numµμk]?){self._unit}\s*", text)
        if found is not None:
            return float(found[1].replace(",", ".")) * PREFIXES[found[2]]
        try:
            return float(text.replace(",", ".")) * self._bare
        except ValueError:
            return None


def _next_on_ladder(value: float, up: bool) -> float:
    """The next of 1, 2, 5, 10 .. above or below."""
    if value <= 0:
        return 1e-6
    decade = math.floor(math.log10(value) + 1e-9)
    rungs = [m * 10.0 ** (decade + k) for k in (-1, 0, 1) for m in (1, 2, 5)]
    if up:
        return next(rung for rung in rungs if rung > value * 1.0001)
    return next(rung for rung in reversed(rungs) if rung < value * 0.9999)


class ConfirmBar(QFrame):
    """A question inside the window: it blocks nothing, least of all STOP. Hidden until something is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("confirm")
        self._words = QLabel()
        self._words.setWordWrap(True)
        self._words.setSizePolicy(QSizePolicy.Expanding, QSizePolicy.Preferred)
        self.yes = QPushButton("Yes")
        self.yes.setObjectName("primary")
        self.no = QPushButton("Cancel")
        row = QHBoxLayout()
        row.addStretch()
        row.addWidget(self.no)
        row.addWidget(self.yes)
        column = QVBoxLayout(self)
        column.setContentsMargins(GAP, GAP, GAP, GAP)
        column.addWidget(self._words)
        column.addLayout(row)
        self._then: Callable[[], object] | None = None
        self._otherwise: Callable[[], object] | None = None
        self._before: QWidget | None = None
        self.yes.clicked.connect(lambda: self._answer(True))
        self.no.clicked.connect(lambda: self._answer(False))
        self.hide()

    @property
    def words(self) -> str:
        return self._words.text()

    def ask(
        self, words: str, yes: str, then: Callable[[], object], otherwise: Callable[[], object] | None = None
    ) -> None:
        """Ask; a question that was open before counts as cancelled."""
        if self.isVisibleTo(self.parentWidget()):
            self._answer(False)
        self._words.setText(words)
        self.yes.setText(yes)
        self._then, self._otherwise = then, otherwise
        self._before = QApplication.focusWidget()
        self.show()
        self.no.setFocus()

    def cancel(self) -> None:
        """Nobody answers any more."""
        if self._then is not None:
            self._answer(False)

    def _answer(self, yes: bool) -> None:
        then, otherwise = self._then, self._otherwise
        self._then = self._otherwise = None
        self._give_focus_back()
        self.hide()
        chosen = then if yes else otherwise
        if chosen is not None:
            chosen()

    def _give_focus_back(self) -> None:
        """To who had it before the question: hidden with it, the bar would pass it on to the next button at hand."""
        before, self._before = self._before, None
        now = QApplication.focusWidget()
        if now is None or not self.isAncestorOf(now):
            return
        if before is None or sip.isdeleted(before) or not before.isEnabled() or not before.isVisible():
            # No key does anything to the window itself.
            before = self.window()
        before.setFocus()


class ElidedLabel(QLabel):
    """One line that never widens its window: what does not fit ends in an ellipsis, and all of it is the tool tip."""

    def __init__(self) -> None:
        super().__init__()
        self.setSizePolicy(QSizePolicy.Ignored, QSizePolicy.Preferred)

    def setText(self, text: str) -> None:
        super().setText(text)
        self.setToolTip(text)

    @property
    def seen(self) -> str:
        """What of the text can be read."""
        return self.fontMetrics().elidedText(self.text(), Qt.ElideRight, self.contentsRect().width())

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        role = self.foregroundRole()
        flags = int(Qt.AlignLeft | Qt.AlignVCenter)
        self.style().drawItemText(
            painter, self.contentsRect(), flags, self.palette(), self.isEnabled(), self.seen, role
        )


def heading(text: str) -> QLabel:
    label = QLabel(text)
    label.setObjectName("heading")
    return label


def faint(text: str = "") -> QLabel:
    label = QLabel(text)
    label.setObjectName("faint")
    return label


def button(text: str, tip: str, act: Callable[[], object], *, primary: bool = False) -> QPushButton:
    """A push button; its tool tip says what happens and on which key."""
    made = QPushButton(text)
    made.setToolTip(tip)
    # Who hears the window hears words, no signs.
    made.setAccessibleName(text if any(letter.isalpha() for letter in text) else tip.split(" (")[0])
    if primary:
        made.setObjectName("primary")
    made.clicked.connect(lambda: act())
    return made


def toggle(text: str, tip: str) -> QToolButton:
    """A button that stays down."""
    made = QToolButton()
    made.setText(text)
    made.setToolTip(tip)
    made.setAccessibleName(text)
    made.setCheckable(True)
    made.setFocusPolicy(Qt.StrongFocus)
    return made


class FileDialog(QFileDialog):
    """Qt's own dialog (Esc has to reach the program), whose questions are bars inside it: Qt's would be modal boxes.

    Args:
        parent: whose window it belongs to.
        title, folder, kinds: its title, where it begins, and its filter, "Runs (*.h5)".
        save: whether the file is to be written.
    """

    def __init__(self, parent: QWidget, title: str, folder: Path, kinds: str, *, save: bool):
        super().__init__(parent, title, str(folder), kinds)
        self.setOption(QFileDialog.DontUseNativeDialog)
        self.setOption(QFileDialog.DontUseCustomDirectoryIcons)
        self.setOption(QFileDialog.DontConfirmOverwrite)
        # Deleting asks in a modal box as well; who saves may want a new folder.
        self.setOption(QFileDialog.ReadOnly, not save)
        self.setAcceptMode(QFileDialog.AcceptSave if save else QFileDialog.AcceptOpen)
        self.setFileMode(QFileDialog.AnyFile if save else QFileDialog.ExistingFile)
        if save:
            self.setDefaultSuffix(kinds.split("*.")[1].split(" ")[0].rstrip(")"))
        self.setModal(False)
        self.setAttribute(Qt.WA_DeleteOnClose)
        self._save = save
        self._agreed: Path | None = None
        self.confirm = ConfirmBar()
        grid = self.layout()
        assert isinstance(grid, QGridLayout)
        grid.addWidget(self.confirm, grid.rowCount(), 0, 1, grid.columnCount())

    def accept(self) -> None:
        """Take the file, once it is sure that it is the one that is meant."""
        chosen = Path(self.selectedFiles()[0]) if self.selectedFiles() else None
        if chosen is None or chosen.is_dir() or (chosen.is_file() != self._save) or chosen == self._agreed:
            super().accept()
        elif self._save:
            self.confirm.ask(f"{chosen.name} exists already. Write over it?", "Write over", lambda: self._take(chosen))
        else:
            self.confirm.ask(f"{chosen} does not exist. Choose another file.", "Understood", lambda: None)

    def _take(self, chosen: Path) -> None:
        self._agreed = chosen
        self.accept()


def choose_file(
    parent: QWidget, title: str, folder: Path, kinds: str, then: Callable[[Path], object], *, save: bool = False
) -> FileDialog:
    """Ask for a file without blocking anything; `then` gets it."""
    dialog = FileDialog(parent, title, folder, kinds, save=save)
    dialog.fileSelected.connect(lambda name: then(Path(name)))
    dialog.show()
    return dialog
