"""The pictures of a live reconstruction: images in a row, curves of a calibration, bars of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PyQt5.QtCore import QSize, Qt
from PyQt5.QtGui import QIcon, QImage, QPixmap
from PyQt5.QtWidgets import QToolButton

from app.gui.colours import colour_table
from app.gui.theme import Theme, style_plot
from app.worker.view import Shown, phase_picture

RESIDUAL = 4.0
"""Standard deviations at which the colours of a residual end."""
DEVIATION = 0.5
"""Amplitude at which the colours of a standard deviation end."""
ICON = 56


class Picture:
    """An image with its title in a layout of pyqtgraph."""

    def __init__(self, canvas: pg.GraphicsLayoutWidget, row: int, column: int, title: str, colours: Any):
        self.title = title
        self.plot = canvas.addPlot(row, column, title=title)
        self.plot.setAspectLocked(True)
        self.plot.invertY(True)
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.plot.setMouseEnabled(False, False)
        for axis in ("left", "bottom"):
            self.plot.hideAxis(axis)
        self.item = pg.ImageItem()
        if colours is not None:
            self.item.setLookupTable(colours)
        self.plot.addItem(self.item)
        self.shown = False

    def show(self, image: NDArray | None, low: float = 0.0, high: float = 1.0) -> None:
        """An image with its levels, or none."""
        self.shown = image is not None
        if image is None:
            self.item.clear()
            return
        levels = None if image.ndim == 3 else (low, high)
        before = self.item.image
        self.item.setImage(image, autoLevels=False, levels=levels)
        if before is None or before.shape[:2] != image.shape[:2]:
            self.plot.autoRange(padding=0.01)

    def name(self, words: str, theme: Theme) -> None:
        self.plot.titleLabel.setText(words, color=theme.faint, size="9pt")


def grey() -> NDArray[np.uint8]:
    return np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1)


def heat() -> NDArray[np.uint8]:
    """From black to nearly white."""
    table = colour_table("magma")
    # The last colour of that table is another one, for saturated pixels.
    return np.vstack([table[:255], table[254:255]])


def diverging() -> NDArray[np.uint8]:
    """Blue where light is missing, white where all is as predicted, red where there is too much."""
    ends = np.array([[33, 102, 172], [247, 247, 247], [178, 24, 43]], float)
    place = np.linspace(0, 2, 256)
    return np.stack([np.interp(place, [0, 1, 2], ends[:, k]) for k in range(3)], 1).astype(np.uint8)


class CalibrationPictures(pg.GraphicsLayoutWidget):
    """Probe and object as they come, loss and distance of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.probe = Picture(self, 0, 0, "Probe (hue: phase)", None)
        self.object = Picture(self, 0, 1, "Object (hue: phase)", None)
        self.curves = {}
        for column, (name, unit) in enumerate((("Loss", ""), ("Distance", "mm"))):
            plot = self.addPlot(1, column, title=name + (f" ({unit})" if unit else ""))
            plot.setMenuEnabled(False)
            plot.hideButtons()
            plot.setMouseEnabled(False, False)
            plot.setLabel("bottom", "epoch")
            self.curves[name] = (plot, plot.plot([], []))
        self.ci.layout.setRowStretchFactor(0, 3)
        self.ci.layout.setRowStretchFactor(1, 2)

    def restyle(self, theme: Theme) -> None:
        self.setBackground(theme.plot)
        for picture in (self.probe, self.object):
            picture.name(picture.title, theme)
        for plot, curve in self.curves.values():
            style_plot(plot, theme)
            plot.titleLabel.setText(plot.titleLabel.text, color=theme.faint, size="9pt")
            curve.setPen(pg.mkPen(theme.accent, width=2))

    def show_epochs(self, shown: Shown) -> None:
        if not shown.epochs:
            for picture in (self.probe, self.object):
                picture.show(None)
            for _, curve in self.curves.values():
                curve.setData([], [])
            return
        newest = shown.epochs[-1]
        self.probe.show(phase_picture(newest.probe))
        self.object.show(phase_picture(newest.object))
        # Losses of different stages are not comparable: a gap lies between them.
        loss = [
            np.nan if k and one.stage != shown.epochs[k - 1].stage else one.loss for k, one in enumerate(shown.epochs)
        ]
        numbers = [one.epoch for one in shown.epochs]
        self.curves["Loss"][1].setData(numbers, loss, connect="finite")
        self.curves["Distance"][1].setData(numbers, [1e3 * one.distance_m for one in shown.epochs])


class ClassBars(pg.PlotWidget):
    """The probability of each class as a bar."""

    def __init__(self) -> None:
        super().__init__()
        self.setFixedHeight(92)
        self.plot = self.getPlotItem()
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.plot.setMouseEnabled(False, False)
        self.plot.setYRange(0, 1, padding=0.02)
        self.plot.hideAxis("left")
        self.bars = pg.BarGraphItem(x=[], height=[], width=0.7)
        self.plot.addItem(self.bars)
        self.values: dict[str, float] = {}

    def restyle(self, theme: Theme) -> None:
        self.setBackground(theme.plot)
        style_plot(self.plot, theme)
        self.bars.setOpts(brush=theme.accent, pen=pg.mkPen(None))

    def show_classes(self, classes: dict[str, float]) -> None:
        self.values = dict(classes)
        places = list(range(len(classes)))
        self.bars.setOpts(x=places, height=list(classes.values()), width=0.7)
        self.plot.getAxis("bottom").setTicks([list(zip(places, classes, strict=True))])
        self.plot.setXRange(-0.6, max(len(classes) - 0.4, 0.6), padding=0)


def exposure_button(tip: str) -> QToolButton:
    """A small picture to choose an exposure by."""
    button = QToolButton()
    button.setToolButtonStyle(Qt.ToolButtonTextUnderIcon)
    button.setIconSize(QSize(ICON, ICON))
    button.setCheckable(True)
    button.setFocusPolicy(Qt.StrongFocus)
    button.setToolTip(tip)
    button.setAccessibleName(tip)
    return button


def icon_of(image: NDArray[np.float32]) -> QIcon:
    """An amplitude image as an icon, its pixels as squares."""
    values = np.ascontiguousarray(np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8))
    picture = QImage(values.data, values.shape[1], values.shape[0], values.shape[1], QImage.Format_Grayscale8)
    return QIcon(QPixmap.fromImage(picture.copy().scaled(ICON, ICON)))
