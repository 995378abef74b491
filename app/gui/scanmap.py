"""The points of a scan on the object, with the illumination drawn true to scale: where it is dense, it overlaps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyqtgraph as pg
from numpy.typing import NDArray
from PyQt5.QtCore import Qt

from app.acquire.plan import Plan, Step
from app.gui.theme import DARK, Theme, length_axes, style_plot
from app.profile import Profile

GRID = 256
"""Pixels of the picture of the illuminations, each way."""


class ScanMap(pg.PlotWidget):
    """See above. A click chooses a point to be taken again; nothing moves.

    Args:
        chosen: called when the choice of points changes.

    Attributes:
        selected: the points that were chosen; of the plan that is shown, none of another.
        choosable: whether points can be chosen.
    """

    def __init__(self, chosen: Callable[[], object]):
        super().__init__()
        self._chosen = chosen
        self._theme = DARK
        self._plan: Plan | None = None
        self._points: NDArray[np.float64] = np.zeros((0, 2))
        self._spot_m = 1e-6
        self._done: frozenset[int] = frozenset()
        self._current: int | None = None
        self._half_m = 1.0
        self._light = self._lit = np.zeros((GRID, GRID), np.int32)
        self.selected: set[int] = set()
        self.choosable = False
        plot = self.getPlotItem()
        plot.setMenuEnabled(False)
        plot.hideButtons()
        plot.setAspectLocked(True)
        plot.invertY(True)
        length_axes(plot, "y", "x on the object", "µm", 1e-6)
        self.limits = pg.PlotCurveItem()
        self.field = pg.PlotCurveItem()
        self.path = pg.PlotCurveItem()
        self.spots = pg.ImageItem()
        self.dots = pg.ScatterPlotItem(size=7, symbol="o", hoverable=True, hoverSize=10)
        self.current = pg.ScatterPlotItem(pxMode=False, symbol="o")
        for item in (self.limits, self.field, self.spots, self.path, self.current, self.dots):
            plot.addItem(item)
        for axis in ("left", "bottom"):
            plot.hideAxis(axis)
        self.dots.sigClicked.connect(self._clicked)
        self.setToolTip("Grey: illumination at each point. Orange: evaluation points. Green: done. Click: take again")

    @property
    def plan(self) -> Plan | None:
        """What is shown."""
        return self._plan

    def show_plan(self, plan: Plan | None, profile: Profile | None) -> None:
        """Draw a plan; the same one is not drawn again."""
        if plan is self._plan:
            return
        self._plan = plan
        self.selected.clear()
        self._done, self._current = frozenset(), None
        if plan is None or profile is None:
            self._points = np.zeros((0, 2))
            self.spots.clear()
            for item in (self.dots, self.current):
                item.setData([], [])
            self.path.setData([], [])
            return
        for axis in ("left", "bottom"):
            self.getPlotItem().showAxis(axis)
        self._points = np.array(plan.positions_m).reshape(-1, 2)
        self._spot_m = profile.geometry.pinhole_diameter_m
        self._half_m = float(np.abs(self._points).max(initial=0.0)) + self._spot_m
        self._light = coverage(self._points[self._used()], self._spot_m, self._half_m)
        self._lit = np.zeros_like(self._light)
        half = profile.reconstruction.field_m / 2
        self.field.setData([-half, half, half, -half, -half], [-half, -half, half, half, -half])
        self.limits.setData(*_limits(profile))
        order = list(dict.fromkeys(s.position_index for s in plan.steps if s.position_index >= 0))
        self.path.setData(self._points[order, 1], self._points[order, 0])
        self._draw()
        self._draw_current()
        # Fitted to the scan: the stage's limits are far away and show when one zooms out.
        reach = float(np.abs(self._points).max(initial=0.0)) + self._spot_m * 0.55
        reach = max(reach, half) * 1.02
        self.getPlotItem().setRange(xRange=(-reach, reach), yRange=(-reach, reach), padding=0)

    def show_progress(self, step: Step | None, complete: bool) -> None:
        """Mark the points before this step as done and its own as the current one."""
        if self._plan is None:
            return
        done: frozenset[int] = frozenset()
        current = None
        if complete:
            done = frozenset(range(len(self._points)))
        elif step is not None:
            before = self._plan.steps[: step.number]
            done = frozenset(s.position_index for s in before if s.position_index >= 0) - {step.position_index}
            current = step.position_index if step.position_index >= 0 else None
        if done != self._done:
            new, gone = done - self._done, self._done - done
            if gone:
                self._lit, new = np.zeros_like(self._light), done
            self._lit = self._lit + coverage(self._points[sorted(new)], self._spot_m, self._half_m)
            self._done = done
            self._draw()
        if current != self._current:
            self._current = current
            self._draw_current()

    def restyle(self, theme: Theme) -> None:
        self._theme = theme
        self.setBackground(theme.plot)
        style_plot(self.getPlotItem(), theme)
        self.field.setPen(pg.mkPen(theme.accent, width=1.2, style=Qt.DashLine))
        self.limits.setPen(pg.mkPen(theme.warn, width=1.4))
        path = pg.mkColor(theme.faint)
        path.setAlpha(120)
        self.path.setPen(pg.mkPen(path, width=1))
        self._draw()
        self._draw_current()

    def _draw(self) -> None:
        theme, points = self._theme, self._points
        if not len(points) or self._plan is None:
            return
        chosen, used, half = set(self._plan.evaluation_indices), self._used(), self._half_m
        # A picture instead of a disc a point: hundreds of translucent discs would take longer to draw than a frame.
        self.spots.setImage(_shaded(self._light, self._lit, theme), autoLevels=False, levels=(0, 255))
        self.spots.setRect(-half, -half, 2 * half, 2 * half)
        plain, lit = pg.mkBrush(theme.faint), pg.mkBrush(theme.done)
        special, none, ring = pg.mkBrush(theme.chosen), pg.mkPen(None), pg.mkPen(theme.chosen, width=1.5)
        mark = pg.mkPen(theme.bad, width=2.5)
        self.dots.setData(
            x=points[used, 1],
            y=points[used, 0],
            data=used,
            brush=[lit if k in self._done else special if k in chosen else plain for k in used],
            pen=[mark if k in self.selected else ring if k in chosen else none for k in used],
        )

    def _used(self) -> list[int]:
        """The points that are visited."""
        assert self._plan is not None
        return sorted(self._plan.evaluation_indices) if self._plan.low_dose else list(range(len(self._points)))

    def _draw_current(self) -> None:
        theme, points = self._theme, self._points
        if self._current is None:
            self.current.setData([], [])
        else:
            y, x = points[self._current]
            self.current.setData(
                x=[x], y=[y], size=self._spot_m, pen=pg.mkPen(theme.accent, width=2.5), brush=pg.mkBrush(None)
            )

    def _clicked(self, _: object, spots: list) -> None:
        if not self.choosable:
            return
        for spot in spots[:1]:
            self.selected ^= {int(spot.data())}
        self._draw()
        self._chosen()


def _limits(profile: Profile) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x and y on the object of the soft limits' corners, round and closed."""
    stage = profile.stage
    (y0, y1), (x0, x1) = stage.limits_y_m, stage.limits_x_m
    corners = np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0), (y0, x0)]) - stage.centre_m
    on_object = corners @ np.array(stage.stage_to_object).T
    return on_object[:, 1], on_object[:, 0]


def coverage(points_m: NDArray[np.float64], diameter_m: float, half_m: float) -> NDArray[np.int32]:
    """(GRID, GRID) number of illuminations that cover each place of the square from -half to half, (y, x)."""
    counts = np.zeros((GRID, GRID), np.int32)
    pitch = 2 * half_m / GRID
    reach = int(np.ceil(diameter_m / 2 / pitch)) + 1
    for y, x in points_m:
        row, column = (y + half_m) / pitch - 0.5, (x + half_m) / pitch - 0.5
        top, left = max(round(row) - reach, 0), max(round(column) - reach, 0)
        part = counts[top : round(row) + reach + 1, left : round(column) + reach + 1]
        down = np.arange(top, top + part.shape[0]) - row
        right = np.arange(left, left + part.shape[1]) - column
        part += (down[:, None] ** 2 + right**2) * pitch**2 <= diameter_m**2 / 4
    return counts


def _shaded(light: NDArray[np.int32], lit: NDArray[np.int32], theme: Theme) -> NDArray[np.uint8]:
    """(GRID, GRID, 4) RGBA: grey where light will be, green where it was, the denser the more illuminations overlap."""
    rgba = np.empty((*light.shape, 4), np.uint8)
    share = lit.astype(np.float32) / np.maximum(light, 1)
    grey, green = pg.mkColor(theme.faint).getRgb(), pg.mkColor(theme.done).getRgb()
    for k in range(3):
        rgba[..., k] = grey[k] + share * (green[k] - grey[k])
    rgba[..., 3] = (255 * (1 - 0.9 ** np.arange(light.max() + 1))).astype(np.uint8)[light]
    return rgba
