"""The stage: where it is, small steps by button or arrow key, and longer ways behind a confirmation."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyqtgraph as pg
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QButtonGroup, QGridLayout, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from app.gui.theme import GAP, Theme, length_axes, style_plot
from app.gui.widgets import ConfirmBar, Panel, QuantityEdit, button, duration, faint, heading, toggle
from app.live import orders
from app.live.owner import DeviceOwner
from app.live.state import BenchState, Doing, Health, Kind, StageState
from app.profile import StageProfile
from drivers.base import StagePosition

STEPS_M = (1e-6, 5e-6, 20e-6, 50e-6, 200e-6, 1e-3)
TRAIL = 400
ARROWS = {Qt.Key_Up: (-1, 0), Qt.Key_Down: (1, 0), Qt.Key_Left: (0, -1), Qt.Key_Right: (0, 1)}


class JogPad(QWidget):
    """Four buttons; with the focus on it the arrow keys do the same, Page Up and Page Down change the step.

    Args:
        owner: takes the orders.
    """

    def __init__(self, owner: DeviceOwner):
        super().__init__()
        self._owner = owner
        self.setFocusPolicy(Qt.StrongFocus)
        self.setToolTip("Click here, then jog with the arrow keys; Page Up and Page Down change the step")
        self.setAccessibleName("Jog")
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(GAP // 2)
        self.arrows = {}
        for text, name, way, place in (
            ("▲", "-y", (-1, 0), (0, 1)),
            ("◀", "-x", (0, -1), (1, 0)),
            ("▶", "+x", (0, 1), (1, 2)),
            ("▼", "+y", (1, 0), (2, 1)),
        ):
            arrow = button(text, f"One step towards {name} (arrow key)", partial(self.jog, *way))
            arrow.setAccessibleName(f"Jog {name}")
            arrow.setFocusPolicy(Qt.NoFocus)
            arrow.setFixedSize(48, 30)
            grid.addWidget(arrow, *place)
            self.arrows[name] = arrow
        self.label = faint("x, y")
        self.label.setAlignment(Qt.AlignCenter)
        grid.addWidget(self.label, 1, 1)
        hint = faint("Click here, then the arrow keys go one step; Page Up and Page Down change the step.")
        hint.setWordWrap(True)
        grid.addWidget(hint, 0, 3, 3, 1)
        self.steps = QButtonGroup(self)
        row = QHBoxLayout()
        row.setSpacing(GAP // 2)
        for number, step in enumerate(STEPS_M):
            text = f"{step * 1e3:g} mm" if step >= 1e-3 else f"{step * 1e6:g} µm"
            choice = toggle(text, f"Jog by {text}")
            choice.setFocusPolicy(Qt.NoFocus)
            self.steps.addButton(choice, number)
            row.addWidget(choice)
        self.steps.button(3).setChecked(True)
        row.addStretch()
        grid.addLayout(row, 3, 0, 1, 4)
        grid.setColumnStretch(3, 1)

    @property
    def step_m(self) -> float:
        return STEPS_M[self.steps.checkedId()]

    def choose_step(self, step_m: float) -> None:
        """The preset nearest to this."""
        ratios = [abs(np.log(step / step_m)) for step in STEPS_M]
        self.steps.button(int(np.argmin(ratios))).setChecked(True)

    def jog(self, down: int, right: int) -> None:
        """One step; while the stage moves a second one is not queued."""
        self._owner.give(orders.jog(down * self.step_m, right * self.step_m))

    def keyPressEvent(self, event: Any) -> None:
        key = event.key()
        if key in ARROWS:
            # A key that is held down must not pile up steps: where one is under way the next is left out.
            if self.arrows["+x"].isEnabled():
                self.jog(*ARROWS[key])
        elif key in (Qt.Key_PageUp, Qt.Key_PageDown):
            number = self.steps.checkedId() + (1 if key == Qt.Key_PageUp else -1)
            self.steps.button(min(max(number, 0), len(STEPS_M) - 1)).setChecked(True)
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: Any) -> None:
        super().focusInEvent(event)
        self.label.setText("keys")

    def focusOutEvent(self, event: Any) -> None:
        super().focusOutEvent(event)
        self.label.setText("x, y")


class StageMap(pg.PlotWidget):
    """Travel, soft limits, places with a name, and where the stage is and was. Looking and zooming move nothing."""

    def __init__(self) -> None:
        super().__init__()
        plot = self.getPlotItem()
        plot.setMenuEnabled(False)
        plot.hideButtons()
        plot.setAspectLocked(True)
        plot.invertY(True)
        length_axes(plot, "y", "x", "mm", 1e-3)
        self.travel = pg.PlotCurveItem()
        self.limits = pg.PlotCurveItem()
        self.trail = pg.PlotCurveItem()
        self.places = pg.ScatterPlotItem(size=9, symbol="o")
        self.names: list[pg.TextItem] = []
        self.here = pg.ScatterPlotItem(size=16, symbol="+")
        self.target = pg.ScatterPlotItem(size=14, symbol="x")
        for item in (self.travel, self.limits, self.trail, self.places, self.target, self.here):
            plot.addItem(item)
        for axis in ("left", "bottom"):
            plot.hideAxis(axis)
        self._trail: list[tuple[float, float]] = []
        self._shown: StageProfile | None = None
        self._theme: Theme | None = None

    def show_profile(self, stage: StageProfile) -> None:
        """Draw what does not move."""
        if stage is self._shown:
            return
        self._shown = stage
        for axis in ("left", "bottom"):
            self.getPlotItem().showAxis(axis)
        self._trail.clear()
        self.travel.setData(*_box((0.0, stage.travel_m), (0.0, stage.travel_m)))
        self.limits.setData(*_box(stage.limits_y_m, stage.limits_x_m))
        named = {"centre": stage.centre_m, "park": stage.park_m}
        if stage.load_m is not None:
            named["load"] = stage.load_m
        self.places.setData(x=[place[1] for place in named.values()], y=[place[0] for place in named.values()])
        for name in self.names:
            self.removeItem(name)
        self.names = []
        # Each on a side of its own, so that two places that are close together can both be read.
        anchors = {"centre": (0.5, 1.3), "park": (0.5, -0.3), "load": (-0.2, 0.5)}
        for name, (y, x) in named.items():
            label = pg.TextItem(name, anchor=anchors[name])
            label.setPos(x, y)
            self.addItem(label)
            self.names.append(label)
        if self._theme is not None:
            self.restyle(self._theme)
        self.getPlotItem().autoRange()

    def show_position(self, position: StagePosition | None) -> None:
        if position is None:
            self.here.setData([], [])
            return
        place = (position.x, position.y)
        if not self._trail or self._trail[-1] != place:
            self._trail = [*self._trail[-TRAIL:], place]
            self.trail.setData(*np.array(self._trail).T)
            self.here.setData([place[0]], [place[1]])

    def show_target(self, target: StagePosition | None) -> None:
        self.target.setData([] if target is None else [target.x], [] if target is None else [target.y])

    def restyle(self, theme: Theme) -> None:
        self._theme = theme
        self.setBackground(theme.plot)
        style_plot(self.getPlotItem(), theme)
        self.travel.setPen(pg.mkPen(theme.grid, width=1, style=Qt.DotLine))
        self.limits.setPen(pg.mkPen(theme.warn, width=1.4))
        trail = pg.mkColor(theme.accent)
        trail.setAlpha(110)
        self.trail.setPen(pg.mkPen(trail, width=1))
        self.places.setPen(pg.mkPen(theme.faint))
        self.places.setBrush(pg.mkBrush(theme.plot))
        self.here.setPen(pg.mkPen(theme.accent, width=2.5))
        self.target.setPen(pg.mkPen(theme.warn, width=2))
        for name in self.names:
            name.setColor(theme.faint)


class StagePanel(Panel):
    """See above.

    Args:
        owner: takes the orders.
    """

    title = "Stage and light"

    def __init__(self, owner: DeviceOwner, light: QWidget):
        super().__init__()
        self._owner = owner
        self._bench = BenchState()
        self._origin = StagePosition(0.0, 0.0)
        self.position = QLabel()
        font = self.position.font()
        font.setPointSizeF(font.pointSizeF() * 1.5)
        self.position.setFont(font)
        self.position.setTextInteractionFlags(Qt.TextSelectableByMouse)
        self.words = faint()
        self.pad = JogPad(owner)
        self.map = StageMap()
        self.map.setMinimumHeight(180)
        self.to_y = QuantityEdit("m", -1.0, 1.0, step=1e-3, bare=1e-3)
        self.to_x = QuantityEdit("m", -1.0, 1.0, step=1e-3, bare=1e-3)
        for axis, field in (("y", self.to_y), ("x", self.to_x)):
            field.setToolTip(f"Displacement {axis}: 12.5mm, 80um, or 12.5 (mm)")
            field.setAccessibleName(f"Go to {axis}")
            # Room for four digits behind the point.
            field.setMinimumWidth(128)
            field.edited.connect(self._show_target)
            field.lineEdit().returnPressed.connect(self._entered)
        self.go = button("Go to…", "Move there, after a confirmation (Enter in a field)", self._ask_go)
        self.home = button("Home…", "Run both axes to the ends of their travel, after a confirmation", self._ask_home)
        self.park = button("Park…", "To the parking place: sample out of the beam", partial(self._ask_place, "park"))
        self.load = button("Load…", "To where a sample is changed", partial(self._ask_place, "load"))
        self.unload = button("Unload…", "To where a sample is changed", partial(self._ask_place, "unload"))
        self.centre = button(
            "Centre…", "To where the beam hits the sample's centre", partial(self._ask_place, "centre")
        )
        self.origin = toggle("Zero here", "Count the positions shown from here; nothing moves and no limit changes")
        self.origin.clicked.connect(self._zero)
        self.confirm = ConfirmBar()
        where = QHBoxLayout()
        where.addWidget(self.position)
        where.addStretch()
        where.addWidget(self.origin)
        target = QHBoxLayout()
        for widget in (faint("y"), self.to_y, faint("x"), self.to_x):
            target.addWidget(widget)
        target.addStretch()
        target.addWidget(self.go)
        named = QHBoxLayout()
        named.setSpacing(GAP // 2)
        for widget in (self.centre, self.park, self.load, self.unload):
            named.addWidget(widget)
        named.addStretch()
        named.addWidget(self.home)
        column = QVBoxLayout(self)
        column.setContentsMargins(GAP * 3 // 2, GAP, GAP * 3 // 2, GAP)
        column.setSpacing(GAP)
        column.addLayout(where)
        column.addWidget(self.words)
        column.addWidget(self.map, 1)
        column.addWidget(heading("Jog"))
        column.addWidget(self.pad)
        column.addWidget(heading("Go to"))
        column.addLayout(target)
        column.addLayout(named)
        column.addWidget(self.confirm)
        column.addWidget(light)

    # ---- Showing -----------------------------------------------------------------------------------------------------

    def restyle(self, theme: Theme) -> None:
        self.map.restyle(theme)

    def refresh(self, bench: BenchState, age_s: float) -> None:
        if bench.profile is not self._bench.profile:
            # A zero is a place of one stage.
            self._count_from(None)
            self.confirm.cancel()
        if bench.known is not None and (self._bench.known is not bench.known):
            self.map.show_profile(bench.known.stage)
            self._fill(StagePosition(*bench.known.stage.centre_m))
            self.map.show_target(None)
        self._bench = bench
        stage = bench.stage
        ready, homed = bench.may_move, stage.homed
        for arrow in self.pad.arrows.values():
            arrow.setEnabled(ready and homed)
        for widget in (self.to_y, self.to_x):
            widget.setEnabled(ready)
        for widget in (self.go, self.park, self.load, self.unload, self.centre):
            widget.setEnabled(ready and homed)
        self.home.setEnabled(ready)
        self.map.show_position(stage.position)
        self.position.setText(self._place(stage))
        self.words.setText(self._words(bench, age_s))
        if self.confirm.isVisibleTo(self) and not ready:
            self.confirm.cancel()

    def _place(self, stage: StageState) -> str:
        if stage.position is None:
            return "y   –        x   –"
        y, x = stage.position.y - self._origin.y, stage.position.x - self._origin.x
        return f"y {y * 1e3:.4f}   x {x * 1e3:.4f} mm"

    def _words(self, bench: BenchState, age_s: float) -> str:
        stage = bench.stage
        if stage.device.health is not Health.CONNECTED:
            return stage.device.words
        if bench.kind is Kind.REPLAY:
            return "As recorded: nothing in a replay moves"
        parts = [f"{age_s:.1f} s ago" if age_s >= 0.3 else "now"]
        if bench.activity.doing in (Doing.MOVING, Doing.SCANNING):
            parts.append("moving")
        if not stage.homed:
            parts.append("not homed: positions mean nothing, home it first")
        else:
            parts.append("homed")
            limits = stage.limits
            if limits and not (limits[0].contains(stage.position.y) and limits[1].contains(stage.position.x)):  # type: ignore[union-attr]
                parts.append("outside the soft limits: Go to brings it inside")
        if self.origin.isChecked():
            parts.append(f"zero at y {self._origin.y * 1e3:.4f}, x {self._origin.x * 1e3:.4f} mm")
        return ", ".join(parts)

    # ---- What a person does ------------------------------------------------------------------------------------------

    def _zero(self, on: bool) -> None:
        # The place that is meant stays; what is typed follows the zero.
        self.to_y.interpretText()
        self.to_x.interpretText()
        target = self._target()
        self._count_from(self._bench.stage.position if on else None)
        self._fill(target)

    def _count_from(self, origin: StagePosition | None) -> None:
        self._origin = origin or StagePosition(0.0, 0.0)
        self.origin.setChecked(origin is not None)

    def _fill(self, target: StagePosition) -> None:
        for field, place, zero in ((self.to_y, target.y, self._origin.y), (self.to_x, target.x, self._origin.x)):
            # Behind a zero whole nanometres: no stage is finer, and 0 shall read 0.
            field.put_value(round(place - zero, 9) + 0.0 if self.origin.isChecked() else place)

    def _show_target(self) -> None:
        self.map.show_target(self._target())

    def _target(self) -> StagePosition:
        """The fields count from the zero that is shown."""
        return StagePosition(self.to_y.value() + self._origin.y, self.to_x.value() + self._origin.x)

    def _entered(self) -> None:
        if self.go.isEnabled():
            self._ask_go()

    def _ask_go(self) -> None:
        self.to_y.interpretText()
        self.to_x.interpretText()
        self._ask(self._target(), "")

    def _ask_place(self, name: str) -> None:
        profile = self._bench.known
        if profile is None:
            return
        stage = profile.stage
        places = {"centre": stage.centre_m, "park": stage.park_m}
        self._ask(StagePosition(*places.get(name, stage.load_m or stage.park_m)), name)

    def _ask(self, target: StagePosition, name: str) -> None:
        stage = self._bench.stage
        if stage.info is None or stage.position is None:
            return
        self.map.show_target(target)
        seconds = stage.info.move_duration_s(stage.position, target)
        self.confirm.ask(
            f"Move to {name + ', ' if name else ''}{self._where(target)}? About {duration(seconds)}.",
            "Move",
            lambda: self._owner.give(orders.move_to(target, name)),
            partial(self.map.show_target, None),
        )

    def _where(self, target: StagePosition) -> str:
        """In the frame that is shown, and where that is on the stage."""
        place = f"y {target.y * 1e3:.4f}, x {target.x * 1e3:.4f} mm"
        if not self.origin.isChecked():
            return place
        y, x = target.y - self._origin.y, target.x - self._origin.x
        return f"y {y * 1e3:.4f}, x {x * 1e3:.4f} mm from the zero shown (on the stage {place})"

    def _ask_home(self) -> None:
        self.confirm.ask(
            "Home? Both axes run to the ends of their travel. Look that nothing is in their way.",
            "Home",
            lambda: self._owner.give(orders.home()),
        )


def _box(y: tuple[float, float], x: tuple[float, float]) -> tuple[list[float], list[float]]:
    return [x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]]
