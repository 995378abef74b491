"""The plots below the picture: histogram with its levels, cuts along the crosshair, radial profile."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyqtgraph as pg
from PyQt5.QtWidgets import QButtonGroup, QHBoxLayout, QVBoxLayout, QWidget

from app.gui.theme import GAP, Theme, style_plot
from app.gui.widgets import toggle
from app.live.viewer import View

HISTOGRAM, CUTS, RADIAL = "Histogram", "Cuts", "Radial"


class ProfilePlot(QWidget):
    """One plot, three things to show.

    Args:
        levels: called when a person drags the levels.
    """

    def __init__(self, levels: Callable[[float, float], None]):
        super().__init__()
        self._levels = levels
        self._follow = self._fitted = True
        self._view: View | None = None
        self.kind = HISTOGRAM
        row = QHBoxLayout()
        row.setSpacing(GAP // 2)
        group = QButtonGroup(self)
        tips = {
            HISTOGRAM: "How often each digital number occurs, of the full frame; drag the levels",
            CUTS: "Digital numbers along the crosshair's row and column",
            RADIAL: "Mean digital number against the distance from the beam's centre",
        }
        self.choices = {}
        for name, tip in tips.items():
            choice = toggle(name, tip)
            choice.clicked.connect(lambda _, name=name: self.choose(name))
            group.addButton(choice)
            row.addWidget(choice)
            self.choices[name] = choice
        self.choices[HISTOGRAM].setChecked(True)
        row.addStretch()
        self.canvas = pg.GraphicsLayoutWidget()
        self.plot = self.canvas.addPlot()
        self.plot.setMenuEnabled(False)
        self.plot.hideButtons()
        self.plot.setMouseEnabled(y=False)
        for name in ("left", "bottom"):
            self.plot.getAxis(name).enableAutoSIPrefix(False)
        self.first = self.plot.plot([], [])
        self.second = self.plot.plot([], [])
        self.bars = pg.PlotCurveItem([0.0, 1.0], [0.0], stepMode="center", fillLevel=0)
        self.plot.addItem(self.bars)
        self.band = pg.LinearRegionItem(brush=pg.mkBrush(90, 169, 230, 30), hoverBrush=pg.mkBrush(90, 169, 230, 50))
        self.band.sigRegionChangeFinished.connect(self._dragged)
        self.plot.addItem(self.band)
        self.plot.getViewBox().sigRangeChangedManually.connect(self._zoomed)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GAP // 2)
        column.addLayout(row)
        column.addWidget(self.canvas, 1)
        self.setMinimumWidth(220)
        self.choose(HISTOGRAM)
        self._show_axes(False)

    def _show_axes(self, on: bool) -> None:
        for name in ("left", "bottom"):
            self.plot.showAxis(name, on)
        self.band.setVisible(on and self.kind == HISTOGRAM)
        self.bars.setVisible(on and self.kind == HISTOGRAM)

    def choose(self, kind: str) -> None:
        """Show this from now on."""
        self.kind = kind
        self.choices[kind].setChecked(True)
        self.band.setVisible(kind == HISTOGRAM)
        self.bars.setVisible(kind == HISTOGRAM)
        self.first.setVisible(kind != HISTOGRAM)
        self.second.setVisible(kind == CUTS)
        labels = {
            HISTOGRAM: ("log10 of the pixels", "digital number"),
            CUTS: ("digital number", "pixel: row blue, column orange"),
            RADIAL: ("digital number", "pixels from the centre"),
        }
        self.plot.setLabel("left", labels[kind][0])
        self.plot.setLabel("bottom", labels[kind][1])
        self.plot.enableAutoRange()
        self._fitted = True
        self._show_axes(self._view is not None)
        if self._view is not None:
            self.show_view(self._view)

    def show_view(self, view: View) -> None:
        """Draw what is chosen of this view."""
        first = self._view is None
        self._view, picture = view, view.picture
        if first:
            self._show_axes(True)
        if self.kind == HISTOGRAM:
            self.bars.setData(picture.edges, np.log10(picture.counts + 1.0))
            self._follow = False
            self.band.setRegion(picture.levels)
            self._follow = True
            if self._fitted:
                # A few hot pixels far away must not squeeze all the others; zooming out shows them.
                low, high = picture.levels
                end = min(float(picture.edges[-1]), max(2.0 * high - low, low + 16.0))
                self.plot.setXRange(float(picture.edges[0]), end, padding=0.03)
        elif self.kind == CUTS:
            self.first.setData(np.arange(len(picture.row_cut)), picture.row_cut)
            self.second.setData(np.arange(len(picture.column_cut)), picture.column_cut)
        else:
            self.first.setData(picture.radius, picture.radial)

    def clear(self) -> None:
        """Show nothing until there is something again."""
        self._view = None
        for curve in (self.first, self.second):
            curve.setData([], [])
        self._show_axes(False)

    def restyle(self, theme: Theme) -> None:
        self.canvas.setBackground(theme.plot)
        style_plot(self.plot, theme)
        self.first.setPen(pg.mkPen(theme.accent, width=1.2))
        self.second.setPen(pg.mkPen(theme.chosen, width=1.2))
        self.bars.setPen(pg.mkPen(theme.accent))
        faint = pg.mkColor(theme.accent)
        faint.setAlpha(90)
        self.bars.setBrush(pg.mkBrush(faint))

    def _zoomed(self, *_: object) -> None:
        self._fitted = False

    def _dragged(self) -> None:
        if self._follow:
            low, high = self.band.getRegion()
            self._levels(float(low), float(high))
