"""The camera: the newest diffraction pattern, how it is exposed and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyqtgraph as pg
from PyQt5.QtCore import Qt
from PyQt5.QtGui import QKeySequence
from PyQt5.QtWidgets import (
    QComboBox,
    QHBoxLayout,
    QMenu,
    QShortcut,
    QSplitter,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.gui.colours import NAMES, colour_table
from app.gui.dark import Dark
from app.gui.profiles import ProfilePlot
from app.gui.saving import save_in_background
from app.gui.theme import DARK, GAP, Theme, style_plot
from app.gui.widgets import ElidedLabel, Panel, QuantityEdit, button, choose_file, duration, faint, quantity, toggle
from app.live import orders
from app.live.journal import Journal
from app.live.owner import DeviceOwner
from app.live.picture import Scale, find_centre
from app.live.state import BenchState, Doing, Health, Kind
from app.live.viewer import View, Viewer
from drivers.base import Region
from drivers.clock import Clock

EMPTY = "No picture yet"
UNCONNECTED = "No camera connected\n\nBench > Connect (Ctrl+O)"
STILL = "Live view is off\n\nF5 starts it"


class CameraPanel(Panel):
    """See above.

    Args:
        owner: takes the orders.
        viewer: makes the pictures.
        journal: told what was saved.
        folder: where frames are saved at first.
        clock: tells how old the picture is.
    """

    title = "Camera"

    def __init__(self, owner: DeviceOwner, viewer: Viewer, journal: Journal, folder: Callable[[], Path], clock: Clock):
        super().__init__()
        self._owner, self._viewer, self._journal, self._folder = owner, viewer, journal, folder
        self._clock = clock
        self._dark = Dark(viewer, journal)
        self._view: View | None = None
        self._came = 0.0
        self._seen = self._newest = self._before = 0
        self._frozen = False
        self._bench = BenchState()
        self._region_shown = False
        self._marks_follow = True
        self._build_picture()
        self._build_controls()
        self.plots = ProfilePlot(self._lock_levels)
        self.status = ElidedLabel()
        self.status.setObjectName("number")
        self._pointed: tuple[int, int] | None = None
        self.canvas.scene().sigMouseMoved.connect(self._point)
        split = QSplitter(Qt.Horizontal)
        left = QWidget()
        framed = QVBoxLayout(left)
        framed.setContentsMargins(0, 0, 0, 0)
        framed.setSpacing(GAP // 2)
        framed.addLayout(self._looking)
        framed.addWidget(self.canvas, 1)
        split.addWidget(left)
        split.addWidget(self.plots)
        split.setStretchFactor(0, 1)
        split.setSizes([620, 300])
        split.setChildrenCollapsible(False)
        column = QVBoxLayout(self)
        column.setContentsMargins(GAP, GAP, GAP, GAP)
        column.setSpacing(GAP)
        column.addLayout(self._acquisition)
        column.addLayout(self._display)
        column.addWidget(split, 1)
        column.addWidget(self.status)
        self._shortcuts()

    # ---- Building ----------------------------------------------------------------------------------------------------

    def _build_picture(self) -> None:
        self.canvas = pg.GraphicsLayoutWidget()
        self.canvas.setMinimumHeight(220)
        self.plot = self.canvas.addPlot()
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.plot.setAspectLocked(True)
        self.plot.invertY(True)
        for name in ("right", "top"):
            self.plot.showAxis(name)
            self.plot.getAxis(name).setStyle(showValues=False, tickLength=0)
        for name in ("left", "bottom"):
            self.plot.getAxis(name).setStyle(tickLength=-4)
        self.picture = pg.ImageItem()
        self.picture.setLookupTable(colour_table("inferno"))
        self.plot.addItem(self.picture)
        pen = pg.mkPen("#7fd4ff", width=1, style=Qt.DashLine)
        self.row_line = pg.InfiniteLine(angle=0, movable=True, pen=pen)
        self.column_line = pg.InfiniteLine(angle=90, movable=True, pen=pen)
        self.centre_mark = pg.TargetItem(movable=True, size=14, symbol="+", pen=pg.mkPen("#8ef08e", width=1.5))
        self.region_box = pg.RectROI([0, 0], [64, 64], pen=pg.mkPen("#ffd166", width=1.5), scaleSnap=True)
        self.region_box.addScaleHandle([0, 0], [1, 1])
        self.empty = pg.LabelItem(UNCONNECTED.replace("\n", "<br>"), size="12pt")
        self.empty.setParentItem(self.plot.getViewBox())
        self.empty.anchor(itemPos=(0.5, 0.5), parentPos=(0.5, 0.5))
        for item in (self.row_line, self.column_line, self.centre_mark):
            self.plot.addItem(item)
        self.plot.addItem(self.region_box)
        self.region_box.hide()
        for item in (self.row_line, self.column_line):
            item.sigPositionChanged.connect(self._marked)
        self.centre_mark.sigPositionChangeFinished.connect(self._centred)
        self._show_marks(False)
        self._show_axes(False)

    def _show_axes(self, on: bool) -> None:
        for name in ("left", "bottom", "right", "top"):
            self.plot.showAxis(name, on)

    def _build_controls(self) -> None:
        self.live = toggle("Live", "Show live frames (F5). Nothing moves; a scan pauses this.")
        self.live.clicked.connect(lambda on: self._owner.give(orders.live(on)))
        self.freeze = toggle("Freeze", "Keep the picture that is shown (F); the camera goes on.")
        self.freeze.toggled.connect(self._freeze)
        self.exposure = QuantityEdit("s", 1e-9, 1e4, ladder=True)
        self.exposure.setToolTip("Exposure of live frames: 300ms, 30us or 0.3. Arrow keys: 1, 2, 5, 10 ..")
        self.exposure.setAccessibleName("Exposure")
        self.exposure.edited.connect(lambda seconds: self._owner.give(orders.set_exposure(seconds)))
        self.suggest = button(
            "Suggest",
            "Find the exposure at which the brightest pixels reach 70 % (Ctrl+E); takes a few frames",
            lambda: self._owner.give(orders.suggest_exposure()),
        )
        self.save = button(
            "Save…", "Save the frame that is shown (Ctrl+S): .tiff with 16 bits, .npy or .png", self._save
        )
        self.region = QToolButton()
        self.region.setText("Region ")
        self.region.setToolTip("The part of the sensor that is read out")
        self.region.setPopupMode(QToolButton.InstantPopup)
        menu = QMenu(self.region)
        self.region_choose = menu.addAction("Choose on the picture", self._choose_region)
        self.region_apply = menu.addAction("Read out the chosen part", self._apply_region)
        self.region_profile = menu.addAction("As the profile says", self._profile_region)
        self.region_whole = menu.addAction("Whole sensor", self._whole_region)
        self.region.setMenu(menu)
        self._acquisition = QHBoxLayout()
        self._acquisition.setSpacing(GAP)
        for widget in (self.live, self.freeze, faint("Exposure"), self.exposure, self.suggest):
            self._acquisition.addWidget(widget)
        self._acquisition.addStretch()
        for widget in (self.region, self.save):
            self._acquisition.addWidget(widget)
        self.scale = QComboBox()
        self.scale.addItems([scale.value for scale in Scale])
        self.scale.setToolTip("Scale of the colours (1, 2, 3)")
        self.scale.setAccessibleName("Scale")
        self.scale.setCurrentText(Scale.ROOT.value)
        self.scale.currentTextChanged.connect(lambda text: self._set(scale=Scale(text), locked=None))
        self.colours = QComboBox()
        self.colours.addItems(NAMES)
        self.colours.setCurrentText("inferno")
        self.colours.setToolTip("Colour map")
        self.colours.setAccessibleName("Colour map")
        self.colours.currentTextChanged.connect(lambda name: self.picture.setLookupTable(colour_table(name)))
        self.lock = toggle("Lock", "Keep the present levels (L); else they follow each frame's 1 and 99.95 %")
        self.lock.clicked.connect(self._lock)
        self.overlay = toggle("Clipped", "Mark saturated pixels in red")
        self.overlay.setChecked(True)
        self.overlay.toggled.connect(lambda on: self._set(overlay=on))
        self.dark = toggle("Dark", "Subtract the mean of the next 16 frames from the view only: block the beam first")
        self.dark.clicked.connect(self._switch_dark)
        self.marks = toggle("Crosshair", "Crosshair, cuts and beam centre (C); drag them")
        self.marks.toggled.connect(self._show_marks)
        self.centre = button("Find centre", "Put the centre on the light of this frame", self._find_centre)
        self.fit = button("Fit", "Show the whole frame (0)", lambda: self.plot.autoRange(padding=0.01))
        self._display = QHBoxLayout()
        self._display.setSpacing(GAP)
        for widget in (self.scale, self.colours, self.lock, self.overlay, self.dark):
            self._display.addWidget(widget)
        self._display.addStretch()
        self._looking = QHBoxLayout()
        self._looking.setSpacing(GAP // 2)
        for widget in (self.marks, self.centre):
            self._looking.addWidget(widget)
        self._looking.addStretch()
        self._looking.addWidget(self.fit)

    def _shortcuts(self) -> None:
        def key(sequence: str, act: Callable[[], object]) -> None:
            QShortcut(QKeySequence(sequence), self, lambda: act(), context=Qt.WindowShortcut)

        key("F5", self.live.click)
        key("F", self.freeze.click)
        key("L", self.lock.click)
        key("C", self.marks.click)
        key("0", self.fit.click)
        key("Ctrl+E", self.suggest.click)
        key("Ctrl+S", self.save.click)
        for number, scale in enumerate(Scale, start=1):
            key(str(number), partial(self.scale.setCurrentText, scale.value))

    # ---- Showing -----------------------------------------------------------------------------------------------------

    def restyle(self, theme: Theme) -> None:
        self.canvas.setBackground(theme.plot)
        style_plot(self.plot, theme)
        self.empty.setText(self.empty.text, color=theme.faint)
        self._theme = theme
        self.plots.restyle(theme)

    _theme = DARK

    def refresh(self, bench: BenchState, age_s: float) -> None:
        if bench.profile is not self._bench.profile:
            self._forget()
        self._bench = bench
        camera = bench.camera
        there = camera.device.health is Health.CONNECTED
        recorded = bench.kind is Kind.REPLAY
        scanning = bench.activity.doing is Doing.SCANNING
        self.live.setEnabled(there and bench.idle and not recorded)
        self.live.setChecked(camera.live)
        for widget in (self.exposure, self.suggest, self.region):
            widget.setEnabled(there and bench.idle and not recorded)
        if camera.exposure_s is not None:
            self.exposure.show_value(camera.exposure_s)
        if not self._frozen:
            latest = self._viewer.views.newest(self._seen)
            if latest is not None and self._of_this_bench(latest.item):
                self._seen = latest.number
                if self._dark.fits(latest.item):
                    self._show(latest.item)
        newest = self._owner.watched.frames.newest()
        self._newest = 0 if newest is None else newest.number
        self.save.setEnabled(self._view is not None)
        self.centre.setEnabled(self._view is not None)
        self.region_apply.setEnabled(self._region_shown)
        self.dark.setChecked(self._dark.wanted)
        taken_live = self._live_now and not recorded and self._view is not None
        self.dark.setEnabled(self._dark.wanted or taken_live)
        words = "" if self._view is not None else EMPTY if camera.live or scanning else STILL if there else UNCONNECTED
        if words != self._empty_words:
            self._empty_words = words
            self.empty.setText(words.replace("\n", "<br>"), color=self._theme.faint)
        self.status.setText(self._status(age_s))

    _empty_words: str | None = None

    def _forget(self) -> None:
        """Another bench, or none: nothing of the one before is shown under its name, or subtracted."""
        self._view = None
        self._before = self._newest
        self._dark.drop()
        self.freeze.setChecked(False)
        self.picture.clear()
        self.plots.clear()
        self._show_axes(False)
        self._region_shown = False
        self.region_box.hide()

    def _of_this_bench(self, view: View) -> bool:
        camera, taken = self._bench.camera.info, view.look.info
        known = camera is not None and (camera.model, camera.serial) == (taken.model, taken.serial)
        return known and view.number > self._before

    def _show(self, view: View) -> None:
        if self._view is None or self._view.number != view.number:
            newest = self._owner.watched.frames.newest()
            age_s = newest.age_s if newest is not None and newest.number == view.number else 0.0
            self._came = self._clock.monotonic() - age_s
        first = self._view is None or self._view.picture.indices.shape != view.picture.indices.shape
        self._view = view
        self.picture.setImage(view.picture.indices, autoLevels=False, levels=(0, 255))
        if first:
            self._show_axes(True)
            self.plot.autoRange(padding=0.01)
            self._place_marks(view.picture.mark, view.picture.centre)
        self.plots.show_view(view)

    def _status(self, age_s: float) -> str:
        view = self._view
        if view is None:
            return ""
        picture, look = view.picture, view.look
        rows, columns = picture.indices.shape
        share = 100 * picture.bright / look.info.saturation_adu
        words = [
            self._warning(),
            f"{rows} x {columns}",
            quantity(look.exposure.exposure_s, "s"),
            f"brightest {share:.0f} %",
        ]
        words.append(f"{picture.saturated} saturated" if picture.saturated else "none saturated")
        if self._pointed is not None and self._pointed[0] < rows and self._pointed[1] < columns:
            value = look.exposure.image[self._pointed]
            words.append(f"row {self._pointed[0]}, column {self._pointed[1]}: {value}")
        words.append(self._dark.words(view))
        if look.frame is not None:
            step = look.frame.step
            point = f" at point {step.position_index}" if step.position_index >= 0 else ""
            words.append(f"{step.stream.value}{point}")
        if look.number is not None:
            words.append(f"recorded frame {look.number}")
        elif self._live_now:
            newest = self._owner.watched.frames.newest()
            age = 0.0 if newest is None else newest.age_s
            words.append(f"{view.rate_hz:.1f} frames/s, {1e3 * age:.0f} ms old, {view.skipped} not shown")
        return "   ·   ".join(word for word in words if word)

    @property
    def _live_now(self) -> bool:
        camera = self._bench.camera
        return not self._frozen and camera.live and camera.device.health is Health.CONNECTED

    def _warning(self) -> str:
        """What must be read first, since the end of the line may not be seen."""
        if self._view is not None and self._view.look.number is not None and not self._frozen:
            return ""
        words = []
        if not self._live_now:
            age = duration(self._clock.monotonic() - self._came)
            words.append(f"FROZEN, {age} old" if self._frozen else f"{age} old")
        if self._bench.camera.lost:
            words.append(f"{self._bench.camera.lost} lost")
        return "   ·   ".join(words)

    # ---- What a person does ------------------------------------------------------------------------------------------

    def _set(self, **changes: object) -> None:
        self._viewer.settings = replace(self._viewer.settings, **changes)  # type: ignore[arg-type]
        self.lock.setChecked(self._viewer.settings.locked is not None)

    def _point(self, place: Any) -> None:
        """The pixel under the mouse is told below the picture."""
        there = self.plot.getViewBox().mapSceneToView(place)
        inside = self.picture.boundingRect().contains(there)
        self._pointed = (int(there.y()), int(there.x())) if inside else None

    def _freeze(self, on: bool) -> None:
        self._frozen = on

    def _lock(self, on: bool) -> None:
        self._set(locked=self._view.picture.levels if on and self._view is not None else None)

    def _lock_levels(self, low: float, high: float) -> None:
        self._set(locked=(low, max(high, low + 1)))

    def _switch_dark(self, on: bool) -> None:
        if on:
            self._dark.take(0 if self._view is None else self._view.number)
        else:
            self._dark.drop()

    def _show_marks(self, on: bool) -> None:
        for item in (self.row_line, self.column_line, self.centre_mark):
            item.setVisible(on)

    def _place_marks(self, mark: tuple[int, int], centre: tuple[float, float]) -> None:
        self._marks_follow = False
        self.row_line.setValue(mark[0] + 0.5)
        self.column_line.setValue(mark[1] + 0.5)
        self.centre_mark.setPos(centre[1] + 0.5, centre[0] + 0.5)
        self._marks_follow = True

    def _marked(self) -> None:
        if self._marks_follow:
            self._set(mark=(int(self.row_line.value()), int(self.column_line.value())))

    def _centred(self) -> None:
        if self._marks_follow:
            place = self.centre_mark.pos()
            self._set(centre=(place.y() - 0.5, place.x() - 0.5))

    def _find_centre(self) -> None:
        if self._view is None:
            return
        found = find_centre(self._view.look.exposure.image)
        if found is None:
            self._journal.warning("camera: no light stands out of the background of this frame; the centre stays")
            return
        self._set(centre=found, mark=(round(found[0]), round(found[1])))
        self._place_marks((round(found[0]), round(found[1])), found)
        self.marks.setChecked(True)

    def _choose_region(self) -> None:
        self._region_shown = not self._region_shown
        if self._view is not None:
            rows, columns = self._view.picture.indices.shape
            self.region_box.setPos([columns / 4, rows / 4], update=False)
            self.region_box.setSize([columns / 2, rows / 2])
        self.region_box.setVisible(self._region_shown)

    def _apply_region(self) -> None:
        info = self._bench.camera.info
        if info is None:
            return
        place, size = self.region_box.pos(), self.region_box.size()
        top, left = info.region.top + round(place.y()), info.region.left + round(place.x())
        self._read_out(Region(top, left, round(size.y()), round(size.x())))

    def _profile_region(self) -> None:
        info, known = self._bench.camera.info, self._bench.known
        if info is None or known is None:
            return
        shape, origin = known.camera.shape, known.camera.origin
        self._read_out(Region.centred(info.sensor_shape, shape) if origin is None else Region(*origin, *shape))

    def _whole_region(self) -> None:
        info = self._bench.camera.info
        if info is not None:
            self._read_out(Region(0, 0, *info.sensor_shape))

    def _read_out(self, region: Region) -> None:
        if self._owner.give(orders.set_region(region)):
            self._region_shown = False
            self.region_box.hide()

    def _save(self) -> None:
        view = self._view
        if view is not None:
            kinds = "16-bit TIFF (*.tiff);;numpy array (*.npy);;16-bit PNG (*.png)"
            choose_file(
                self, "Save the frame", self._folder(), kinds, lambda path: self.save_frame(view, path), save=True
            )

    def save_frame(self, view: View, path: Path) -> None:
        """Write the frame of a view."""
        save_in_background(path, view.look.exposure.image, self._journal)
