"""The numbers and names of a scan, as a person may change them; the profile's file stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError
from PyQt5.QtCore import pyqtSignal
from PyQt5.QtWidgets import (
    QCheckBox,
    QGridLayout,
    QHBoxLayout,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from app.acquire.scan import Label
from app.gui.still import StillComboBox, StillDoubleSpinBox, StillSpinBox
from app.gui.theme import GAP
from app.gui.widgets import QuantityEdit, button, choose_file, faint, quantity
from app.live.orders import ScanRequest
from app.profile import Profile, ScanProfile

SINGLE, LOW_DOSE = "Single trajectory", "Low dose, earlier calibration"


class ScanForm(QWidget):
    """See above.

    Args:
        folder: where files are looked for.

    Attributes:
        error: why there is no request; "".
        last: the last request that was one.
    """

    changed = pyqtSignal()
    """A person changed something."""

    def __init__(self, folder: Callable[[], Path]):
        super().__init__()
        self._folder = folder
        self._profile: Profile | None = None
        self._kept: tuple[tuple[object, ...], ScanRequest | None] | None = None
        self.error = ""
        self.last: ScanRequest | None = None
        self.mode = StillComboBox()
        self.mode.addItems([SINGLE, LOW_DOSE])
        self.mode.setToolTip("Single trajectory: bright frame and series at each point. Low dose: no bright scan")
        self.positions = _whole(1, 100_000, "Points of the Fermat spiral")
        self.overlap = StillDoubleSpinBox()
        self.overlap.setRange(0, 99)
        self.overlap.setDecimals(1)
        self.overlap.setButtonSymbols(StillDoubleSpinBox.NoButtons)
        self.overlap.setMinimumWidth(56)
        self.overlap.setSuffix(" %")
        self.overlap.setToolTip("Linear: 1 - mean distance of nearest neighbours / diameter of the illumination")
        self.evaluation = _whole(0, 100_000, "Points of the evaluation series: every k-th of the spiral")
        self.bright = QuantityEdit("s", 1e-9, 1e4, ladder=True)
        self.bright.setToolTip("Exposure of the bright scan")
        self.series = QLineEdit()
        self.series.setToolTip("Exposures of the evaluation series, ascending: 3us, 30us, 0.3ms")
        self.darks = _whole(2, 10_000, "Dark frames for each exposure")
        self.empty = _whole(0, 10_000, "Frames of the empty beam, the sample parked")
        self.after = QCheckBox("Empty beam again at the end")
        self.after.setToolTip("Shows whether the beam drifted")
        self.calibration = FileField("Run whose calibration holds", "Runs (*.h5 *.hdf5)", folder)
        self.calibration.setToolTip(
            "Low dose: the run whose calibration holds. Single trajectory: one that serves until this scan has its "
            "own, so that images come from the first frame on and Enough can leave exposures out"
        )
        self.passes = _whole(1, 10_000, "How often the evaluation points are visited")
        self.dark_file = FileField("New darks", "Darks or a run (*.h5 *.hdf5)", folder)
        self.dark_file.setToolTip("Use the darks of this file instead of new ones")
        self.path = QLineEdit()
        self.path.setToolTip("The run file to write, .h5")
        self.browse = button("…", "Choose the run file", self._choose_path)
        self.sample = QLineEdit()
        self.sample.setPlaceholderText("Name of the sample")
        self.notes = QLineEdit()
        self.notes.setPlaceholderText("Notes, stored with the run")
        self._lay_out()
        for spin in (self.positions, self.overlap, self.evaluation, self.darks, self.empty, self.passes, self.bright):
            # Each key counts: what is on the screen is what is checked and what would be started.
            spin.setKeyboardTracking(True)
            spin.valueChanged.connect(lambda _: self.changed.emit())
            spin.lineEdit().textChanged.connect(lambda _: self.changed.emit())
            spin.editingFinished.connect(self._finished)
        for text in (self.series, self.path, self.sample, self.notes):
            text.textEdited.connect(lambda _: self.changed.emit())
        self.after.toggled.connect(lambda _: self.changed.emit())
        self.mode.currentTextChanged.connect(self._mode_changed)
        for file in (self.calibration, self.dark_file):
            file.chosen.connect(self.changed)
        self._mode_changed()

    def _lay_out(self) -> None:
        grid = QGridLayout()
        grid.setHorizontalSpacing(GAP)
        grid.setVerticalSpacing(GAP * 3 // 4)
        self._rows: dict[str, tuple[QWidget, ...]] = {}

        def row(name: str, number: int, *cells: tuple[str, QWidget]) -> None:
            widgets: list[QWidget] = []
            for k, (text, widget) in enumerate(cells):
                label = faint(text)
                widget.setAccessibleName(text)
                grid.addWidget(label, number, 2 * k)
                grid.addWidget(widget, number, 2 * k + 1, 1, 3 if len(cells) == 1 else 1)
                widgets += [label, widget]
            self._rows[name] = tuple(widgets)

        row("mode", 0, ("Kind", self.mode))
        row("points", 1, ("Points", self.positions), ("Overlap", self.overlap))
        row("evaluation", 2, ("Evaluation points", self.evaluation), ("Darks", self.darks))
        row("bright", 3, ("Bright exposure", self.bright), ("Empty beam", self.empty))
        row("series", 4, ("Series", self.series))
        row("calibration", 5, ("Calibration", self.calibration))
        row("passes", 6, ("Passes", self.passes))
        row("darks", 7, ("Darks of", self.dark_file))
        row("after", 8, ("", self.after))
        row("sample", 9, ("Sample", self.sample))
        row("notes", 10, ("Notes", self.notes))
        file = QWidget()
        line = QHBoxLayout(file)
        line.setContentsMargins(0, 0, 0, 0)
        line.addWidget(self.path, 1)
        line.addWidget(self.browse)
        row("path", 11, ("Run file", file))
        grid.setColumnStretch(1, 1)
        grid.setColumnStretch(3, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(grid)

    # ---- Showing -----------------------------------------------------------------------------------------------------

    def show_profile(self, profile: Profile) -> None:
        """Begin anew with a profile's numbers."""
        self._profile, scan = profile, profile.scan
        self.blockSignals(True)
        self.positions.setValue(scan.positions)
        self.overlap.setValue(100 * scan.overlap)
        self.evaluation.setValue(scan.evaluation_positions)
        self.bright.setValue(scan.calibration_exposure_s)
        self.series.setText(", ".join(quantity(value, "s", 6) for value in scan.evaluation_exposures_s))
        self.darks.setValue(scan.dark_frames)
        self.empty.setValue(scan.empty_frames)
        self.after.setChecked(scan.empty_after)
        if not self.path.text() or Path(self.path.text()).exists():
            self.offer_path(self._folder())
        self.blockSignals(False)
        self._kept = None

    def offer_path(self, folder: Path) -> None:
        """The next free name in the folder of the last one."""
        own = Path(self.path.text()).parent if self.path.text() else folder
        self.path.setText(str(unused_name(own)))

    # ---- The request -------------------------------------------------------------------------------------------------

    def request(self) -> ScanRequest | None:
        """What is asked for; None, with `error`, when it makes no sense. The same until something changes."""
        own = self._values()
        if self._kept is None or self._kept[0] != own:
            self._kept = (own, self._made())
        return self._kept[1]

    @property
    def _spins(self) -> dict[str, StillSpinBox | StillDoubleSpinBox | QuantityEdit]:
        """The fields with a number, by their names, as far as they are asked for."""
        own = self.passes if self.mode.currentText() == LOW_DOSE else self.bright
        fields = (self.positions, self.overlap, self.evaluation, self.darks, self.empty, own)
        return {field.accessibleName(): field for field in fields}

    def _values(self) -> tuple[object, ...]:
        return (
            id(self._profile),
            tuple(spin.text() for spin in self._spins.values() if not spin.hasAcceptableInput()),
            self.mode.currentText(),
            self.positions.value(),
            self.overlap.value(),
            self.evaluation.value(),
            self.bright.value(),
            self.series.text(),
            self.darks.value(),
            self.empty.value(),
            self.after.isChecked(),
            self.calibration.path,
            self.passes.value(),
            self.dark_file.path,
            self.path.text(),
            self.sample.text(),
            self.notes.text(),
        )

    def _made(self) -> ScanRequest | None:
        self.error = ""
        if self._profile is None:
            return None
        low_dose = self.mode.currentText() == LOW_DOSE
        if low_dose and self.calibration.path is None:
            self.error = "scan: a low-dose scan needs the run whose calibration holds; choose it"
            return None
        if not self.path.text().strip():
            self.error = "scan: give the run file a name"
            return None
        for name, spin in self._spins.items():
            if not spin.hasAcceptableInput():
                low, high = (spin.textFromValue(limit) for limit in (spin.minimum(), spin.maximum()))
                self.error = f"scan: {name.lower()} {spin.text()!r} is no number from {low} to {high}"
                return None
        try:
            scan = self._scan_profile(self._profile.scan)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            self.error = f"scan{'.' + place if place else ''}: {first['msg'].removeprefix('Value error, ')}"
            return None
        except ValueError as error:
            self.error = str(error)
            return None
        self.last = ScanRequest(
            path=Path(self.path.text().strip()).expanduser(),
            profile=self._profile.model_copy(update={"scan": scan}),
            darks=self.dark_file.path,
            calibration=self.calibration.path if low_dose else None,
            lent=None if low_dose else self.calibration.path,
            passes=self.passes.value(),
            empty=self.empty.value() > 0,
            label=Label(self.sample.text().strip(), self.notes.text().strip()),
        )
        return self.last

    def _scan_profile(self, before: ScanProfile) -> ScanProfile:
        values = before.model_dump()
        # What a field cannot show exactly stays as the profile has it.
        overlap = self.overlap.value() / 100
        values |= {
            "positions": self.positions.value(),
            "overlap": before.overlap if abs(overlap - before.overlap) < 1e-4 else overlap,
            "evaluation_positions": self.evaluation.value(),
            "calibration_exposure_s": self.bright.value(),
            "evaluation_exposures_s": self._exposures(before),
            "dark_frames": self.darks.value(),
            "empty_frames": self.empty.value(),
            "empty_after": self.after.isChecked() and self.empty.value() > 0,
        }
        if self.bright.value() not in before.calibration_exposures_s:
            values["calibration_exposures_s"] = ()
        return ScanProfile.model_validate(values)

    def _exposures(self, before: ScanProfile) -> tuple[float, ...]:
        found = []
        for part in self.series.text().split(","):
            if not part.strip():
                continue
            value = self.bright._parse(part)
            if value is None or not value > 0:
                raise ValueError(f"scan: {part.strip()!r} is no exposure; write them as 3us, 30us, 0.3ms")
            own = next((known for known in before.evaluation_exposures_s if abs(known / value - 1) < 1e-6), value)
            found.append(own)
        return tuple(found)

    # ---- What a person does ------------------------------------------------------------------------------------------

    def _finished(self) -> None:
        """A field that is left takes back what is no number."""
        if self._kept is not None and self._kept[0] != self._values():
            self.changed.emit()

    def _mode_changed(self) -> None:
        low_dose = self.mode.currentText() == LOW_DOSE
        for widget in self._rows["passes"]:
            widget.setVisible(low_dose)
        self.calibration.call("Run whose calibration holds" if low_dose else "Its own, after the bright scan")
        for widget in (*self._rows["bright"][:2], *self._rows["after"]):
            widget.setVisible(not low_dose)
        self.changed.emit()

    def _choose_path(self) -> None:
        choose_file(self, "Run file", Path(self.path.text()).parent, "Runs (*.h5)", self._take_path, save=True)

    def _take_path(self, path: Path) -> None:
        self.path.setText(str(path))
        self.changed.emit()


class FileField(QWidget):
    """A file that may be chosen, or left out.

    Args:
        nothing: shown when none is chosen.
        kinds: file filter.
        folder: where it is looked for.
    """

    chosen = pyqtSignal()

    def __init__(self, nothing: str, kinds: str, folder: Callable[[], Path]):
        super().__init__()
        self.path: Path | None = None
        self._nothing, self._kinds, self._folder = nothing, kinds, folder
        self.name = QPushButton(nothing)
        self.name.clicked.connect(self._choose)
        self.clear = button("×", "None", lambda: self.take(None))
        self.clear.setFixedWidth(30)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.name, 1)
        row.addWidget(self.clear)
        self.take(None)

    def take(self, path: Path | None) -> None:
        """Choose this file."""
        self.path = path
        self._show()
        self.chosen.emit()

    def call(self, nothing: str) -> None:
        """What to show when none is chosen."""
        self._nothing = nothing
        self._show()

    def _show(self) -> None:
        self.name.setText(self._nothing + " …" if self.path is None else self.path.name)
        self.name.setToolTip(str(self.path or self._nothing))
        self.clear.setVisible(self.path is not None)

    def _choose(self) -> None:
        folder = self.path.parent if self.path is not None else self._folder()
        choose_file(self, self._nothing, folder, self._kinds, self.take)


def unused_name(folder: Path) -> Path:
    """A run file of today that does not exist yet."""
    day = datetime.now().astimezone().strftime("%Y%m%d")
    number = 1
    while (path := folder / f"run-{day}-{number:03d}.h5").exists():
        number += 1
    return path


def _whole(low: int, high: int, tip: str) -> StillSpinBox:
    spin = StillSpinBox()
    spin.setRange(low, high)
    spin.setButtonSymbols(StillSpinBox.NoButtons)
    spin.setMinimumWidth(56)
    spin.setToolTip(tip)
    return spin
