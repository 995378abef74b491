"""The reconstruction, live: calibration as it converges, then the latent image frame by frame, with all that says
whether it can be believed."""

from __future__ import annotations

from functools import partial

import pyqtgraph as pg
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSizePolicy,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from app.gui.livepictures import (
    DEVIATION,
    RESIDUAL,
    CalibrationPictures,
    ClassBars,
    Picture,
    diverging,
    exposure_button,
    grey,
    heat,
    icon_of,
)
from app.gui.still import StillComboBox, StillDoubleSpinBox
from app.gui.theme import DARK, GAP, Theme
from app.gui.widgets import Panel, button, faint, quantity, toggle
from app.live.owner import DeviceOwner
from app.live.state import BenchState, Kind
from app.worker.enough import Target
from app.worker.link import LinkState
from app.worker.live import Live
from app.worker.view import Imaging, Shown
from recon.decoders.shipped import amplitude_decoders

VERDICTS = {"recovered": "good", "ambiguous": "warn", "not enough light": "warn", "not of this class": "bad"}
MARKS = {"recovered": "✓", "ambiguous": "?", "not enough light": "○", "not of this class": "✕"}
CLOSING_S = 2.0
"""What has come is stored within so long when the window closes."""
OWN_DECODER = "of the profile"
NUMBERS = ("Frames", "Photons counted", "Mean deviation", "Success", "Expected", "Time")


class LivePanel(Panel):
    """See above. A guest of the window: `app.gui.panels.GuestPanel`.

    Args:
        live: the reconstruction.
    """

    title = "Reconstruction"

    def __init__(self, live: Live):
        super().__init__()
        self.live = live
        self._owner: DeviceOwner | None = None
        self._theme = DARK
        self._chosen: float | None = None
        self._page: bool | None = None
        self._begun: Shown | None = None
        self._build()
        self.restyle(DARK)
        self._aim()
        self._show()

    @property
    def widget(self) -> QWidget:
        return self

    def join(self, owner: DeviceOwner) -> None:
        self._owner = owner
        self.live.join(owner)

    def close(self) -> bool:
        """Let worker and threads go; what has come by now is stored first, which takes a moment."""
        self.live.end(CLOSING_S)
        return True

    # ---- Building ----------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.follow = toggle("Live", "Reconstruct every run that begins, in a process of its own")
        self.follow.setChecked(self.live.wanted)
        self.follow.toggled.connect(self.live.follow)
        self.again = button("Reconstruct", "The recorded run as far as it has been shown", self._again, primary=True)
        self.decoder = StillComboBox()
        self.decoder.addItems([OWN_DECODER, *amplitude_decoders()])
        self.decoder.setToolTip("What the object is looked for in")
        self.decoder.setAccessibleName("Decoder")
        self.pose = StillComboBox()
        self.pose.addItems(["free", "known"])
        self.pose.setToolTip("Free: the sample was put in by hand. Known: it sits where the decoder draws it")
        self.pose.setAccessibleName("Pose")
        for box, letters in ((self.decoder, 9), (self.pose, 4)):
            box.setMinimumContentsLength(letters)
            box.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)
            box.currentTextChanged.connect(lambda _: self._choose())
        self.until = QCheckBox("Enough: recovered and σ at most")
        self.until.setToolTip(
            "A low-dose scan ends between two points as soon as its newest image is recovered with this mean "
            "deviation; a single trajectory under an earlier calibration leaves out the exposures from such a one on"
        )
        self.sigma = StillDoubleSpinBox()
        self.sigma.setRange(0.01, 0.5)
        self.sigma.setSingleStep(0.01)
        self.sigma.setDecimals(3)
        self.sigma.setValue(0.1)
        self.sigma.setAccessibleName("Mean deviation that is enough")
        self.until.toggled.connect(lambda _: self._aim())
        self.sigma.valueChanged.connect(lambda _: self._aim())
        self.dose = faint()
        self.status = faint()
        self.verdict = QLabel()
        self.run = faint()
        self.run.setToolTip("The run that this is about")
        self.run.setAlignment(Qt.AlignRight | Qt.AlignVCenter)
        self.reason = QLabel()
        self.reason.setWordWrap(True)
        for label in (self.status, self.dose, self.verdict, self.run, self.reason):
            label.setTextInteractionFlags(Qt.TextSelectableByMouse)
            # Long words must not widen the window.
            label.setSizePolicy(QSizePolicy.Ignored, QSizePolicy.Preferred)
        self.calibration = CalibrationPictures()
        self.canvas = pg.GraphicsLayoutWidget()
        self.pictures = {
            "Latent": Picture(self.canvas, 0, 0, "Latent image", grey()),
            "Conventional": Picture(self.canvas, 0, 1, "Conventional", grey()),
            "Deviation": Picture(self.canvas, 1, 0, f"Standard deviation, to {DEVIATION:g}", heat()),
            "Residual": Picture(self.canvas, 1, 1, f"Measured - predicted, ±{RESIDUAL:g} σ", diverging()),
        }
        self.bars = ClassBars()
        self.numbers: dict[str, QLabel] = {}
        grid = QGridLayout()
        grid.setHorizontalSpacing(GAP * 2)
        grid.setVerticalSpacing(GAP // 2)
        for place, name in enumerate(NUMBERS):
            value = QLabel("–")
            value.setTextInteractionFlags(Qt.TextSelectableByMouse)
            grid.addWidget(faint(name), place // 2, 2 * (place % 2))
            grid.addWidget(value, place // 2, 2 * (place % 2) + 1)
            self.numbers[name] = value
        grid.setColumnStretch(1, 1)
        grid.setColumnStretch(3, 1)
        images = QWidget()
        column = QVBoxLayout(images)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GAP // 2)
        column.addWidget(self.canvas, 1)
        column.addLayout(grid)
        column.addWidget(self.bars)
        self.stack = QStackedWidget()
        self.stack.addWidget(self.calibration)
        self.stack.addWidget(images)
        self.pages = {"Calibration": toggle("Calibration", "Probe, object, loss and distance")}
        self.pages["Images"] = toggle("Images", "Latent image and what it says")
        group = QButtonGroup(self)
        for number, page in enumerate(self.pages.values()):
            group.addButton(page)
            page.clicked.connect(partial(self._turn_to, number))
        self.strip = QHBoxLayout()
        self.strip.setSpacing(GAP // 2)
        self.strip.setContentsMargins(0, 0, 0, 0)
        self.exposures: dict[float, object] = {}
        self._choice = QButtonGroup(self)
        self._choice.setExclusive(False)
        inside = QWidget()
        inside.setObjectName("scrolled")
        inside.setLayout(self.strip)
        scroll = QScrollArea()
        scroll.setWidget(inside)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QScrollArea.NoFrame)
        scroll.setFixedHeight(104)
        scroll.setVerticalScrollBarPolicy(Qt.ScrollBarAlwaysOff)
        first = QHBoxLayout()
        for item in (self.follow, faint("Decoder"), self.decoder, faint("Pose"), self.pose):
            first.addWidget(item)
        first.addStretch()
        first.addWidget(self.again)
        second = QHBoxLayout()
        for item in self.pages.values():
            second.addWidget(item)
        second.addWidget(self.status, 1)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(GAP * 3 // 2, GAP, GAP * 3 // 2, GAP)
        whole.setSpacing(GAP // 2)
        third = QHBoxLayout()
        third.addWidget(self.until)
        third.addWidget(self.sigma)
        third.addStretch()
        for row in (first, third, second):
            whole.addLayout(row)
        whole.addWidget(self.dose)
        fourth = QHBoxLayout()
        fourth.addWidget(self.verdict, 2)
        fourth.addWidget(self.run, 1)
        whole.addLayout(fourth)
        whole.addWidget(self.reason)
        whole.addWidget(self.stack, 1)
        whole.addWidget(scroll)

    # ---- Showing -----------------------------------------------------------------------------------------------------

    def restyle(self, theme: Theme) -> None:
        self._theme = theme
        self.canvas.setBackground(theme.plot)
        for picture in self.pictures.values():
            picture.name(picture.title, theme)
        self.calibration.restyle(theme)
        self.bars.restyle(theme)
        self._show_words()

    def refresh(self, bench: BenchState, age_s: float) -> None:
        replaying = bench.kind is Kind.REPLAY
        self.again.setVisible(replaying)
        self.follow.setVisible(not replaying)
        new = self.live.gather()
        if self.live.shown is not self._begun:
            self._begin(self.live.shown)
        if new and self.isVisible():
            self._show()
        elif new:
            # Drawn when somebody looks.
            self._stale = True
        elif self.isVisible() and self._stale:
            self._show()
        self._show_status()

    _stale = False

    def _begin(self, shown: Shown | None) -> None:
        """Another run, or none: its exposures, and nothing of the one before."""
        self._begun = shown
        while self.strip.count():
            item = self.strip.takeAt(0)
            if item.widget() is not None:
                item.widget().deleteLater()
        self.exposures, self._chosen, self._page = {}, None, None
        for exposure in () if shown is None else shown.exposures:
            made = exposure_button(f"Exposure {quantity(exposure, 's')}; again to follow the newest")
            made.setText(quantity(exposure, "s", 3))
            made.clicked.connect(partial(self._choose_exposure, exposure))
            self.strip.addWidget(made)
            self.exposures[exposure] = made
        self.strip.addStretch()

    def _show(self) -> None:
        self._stale = False
        shown = self.live.shown
        self._show_words()
        if shown is None:
            self.stack.setCurrentIndex(1)
            self._show_images(Imaging())
            return
        calibration = shown.calibrating or (bool(shown.epochs) and shown.newest is None)
        if self._page is not None:
            calibration = self._page
        self.stack.setCurrentIndex(0 if calibration else 1)
        self.pages["Calibration" if calibration else "Images"].setChecked(True)
        self.pages["Calibration"].setEnabled(bool(shown.epochs))
        if calibration:
            self.calibration.show_epochs(shown)
        self._show_images(self._image(shown))
        for exposure, widget in self.exposures.items():
            own = shown.images.get(exposure)
            mark = "" if own is None else MARKS.get(own.numbers.get("verdict", ""), "")
            widget.setText(f"{quantity(exposure, 's', 3)} {mark}")  # type: ignore[attr-defined]
            if own is not None and own.estimate is not None:
                widget.setIcon(icon_of(own.estimate.image))  # type: ignore[attr-defined]
            widget.setChecked(exposure == (self._chosen or shown.newest))  # type: ignore[attr-defined]

    def _image(self, shown: Shown) -> Imaging:
        exposure = self._chosen if self._chosen is not None else shown.newest
        return Imaging() if exposure is None else shown.images.get(exposure, Imaging())

    def _show_images(self, imaging: Imaging) -> None:
        estimate, values = imaging.estimate, imaging.numbers
        pictures = self.pictures
        pictures["Conventional"].show(None if imaging.pixels is None else imaging.pixels.image)
        if estimate is None:
            for name in ("Latent", "Deviation", "Residual"):
                pictures[name].show(None)
            for label in self.numbers.values():
                label.setText("–")
            self.bars.show_classes({})
            return
        pictures["Latent"].show(estimate.image)
        pictures["Deviation"].show(estimate.deviation, 0.0, DEVIATION)
        pictures["Residual"].show(imaging.residual, -RESIDUAL, RESIDUAL)
        expected = values.get("expected_psnr_db")
        success = values.get("probability_of_success")
        texts = {
            "Frames": f"{estimate.frames} of {estimate.planned}",
            "Photons counted": f"{values.get('photons_counted', 0):.0f}",
            "Mean deviation": f"{values.get('sigma_mean', 0):.3f}",
            "Success": "–" if success is None else f"{100 * success:.0f} %",
            "Expected": "–" if expected is None else f"{expected:.1f} dB",
            "Time": f"{estimate.seconds:.1f} s" + (", final" if estimate.final else ", lent" if estimate.lent else ""),
        }
        for name, text in texts.items():
            self.numbers[name].setText(text)
        self.bars.show_classes(values.get("classes", {}))

    def _show_words(self) -> None:
        shown, theme = self.live.shown, self._theme
        self.run.setText("" if shown is None else shown.name)
        if shown is None:
            self._words("No run is followed", theme.faint, "A scan that begins is reconstructed while it goes on")
            return
        if not shown.followed:
            self._words("Not followed", theme.faint, shown.words[0])
            return
        imaging = self._image(shown)
        verdict = imaging.numbers.get("verdict")
        words, bad = shown.words
        if verdict is not None:
            # What went wrong elsewhere does not take an image's verdict away.
            reason = imaging.numbers.get("reason", "")
            self._words(
                verdict.capitalize(), getattr(theme, VERDICTS[verdict]), f"{reason}\n{words}" if bad else reason
            )
        elif bad:
            self._words("Not reconstructed", theme.bad, words)
        elif shown.calibrating:
            newest = shown.epochs[-1]
            self._words(
                f"Calibrating: epoch {newest.epoch} of {newest.epochs}",
                theme.accent,
                f"{newest.stage}, distance {1e3 * newest.distance_m:.3f} mm, positions moved {newest.moved_px:.3f} px",
            )
        else:
            self._words("Waiting for frames", theme.faint, words)

    def _words(self, verdict: str, colour: str, reason: str) -> None:
        self.verdict.setText(verdict)
        self.verdict.setStyleSheet(f"color: {colour}; font-size: 15pt; font-weight: 600;")
        self.reason.setText(reason)

    def _show_status(self) -> None:
        status = self.live.status
        if status.state is LinkState.OFF:
            text = "○ off"
        elif status.state is LinkState.CONNECTED:
            behind = (
                f"{status.behind} frame{'' if status.behind == 1 else 's'} behind" if status.behind else "up to date"
            )
            text = f"● {status.doing or 'idle'} · {behind}"
        else:
            text = f"◐ {status.state.value}"
        if status.restarts:
            text += f" · started again {status.restarts} x"
        shown = self.live.shown
        dose = None if shown is None else shown.dose
        self.dose.setVisible(dose is not None)
        if dose is not None:
            spared = f", {100 * dose.saved:.0f} % not spent" if dose.saved > 0 else ""
            gone = ", ".join(f"{frames} x {quantity(e, 's', 3)}" for e, frames in sorted(dose.left_out.items()))
            without = f"; without {gone}" if gone else ""
            self.dose.setText(f"Dose: {dose.spent:.3g} of {dose.planned:.3g} planned photons{spared}{without}")
        if text != self.status.text():
            self.status.setText(text)
            self.status.setToolTip(f"{text}\n{status.where}")

    # ---- What a person does ------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        decoder = self.decoder.currentText()
        self.live.choose("" if decoder == OWN_DECODER else decoder, self.pose.currentText())
        self._show()

    def _aim(self) -> None:
        self.live.target = Target(self.sigma.value()) if self.until.isChecked() else None
        self.sigma.setEnabled(self.until.isChecked())

    def _choose_exposure(self, exposure: float, *_: object) -> None:
        self._chosen = None if exposure == self._chosen else exposure
        self._page = None
        self._show()

    def _turn_to(self, number: int, *_: object) -> None:
        self._page = number == 0
        self._show()

    def _again(self) -> None:
        replay = None if self._owner is None else self._owner.replay
        if replay is not None:
            self.live.again(replay)
