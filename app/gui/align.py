"""Alignment as a guided panel: say where, see what will move, confirm, watch, read the result, keep it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyqtgraph as pg
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QProgressBar, QVBoxLayout

from app.bench.align import Alignment
from app.bench.characterisation import CharacterisationError, default_path, save
from app.errors import UsageError
from app.gui.questions import outdated
from app.gui.theme import GAP, Theme, style_plot
from app.gui.widgets import ConfirmBar, Panel, QuantityEdit, button, faint, heading
from app.live import alignment
from app.live.alignment import Aligned
from app.live.journal import Journal
from app.live.owner import DeviceOwner
from app.live.slot import Slot
from app.live.state import BenchState, Doing
from drivers.base import StagePosition
from drivers.clock import Clock

INTRODUCTION = (
    "Measures how stage, beam and camera lie together. Put an edge or stroke of the sample into the beam "
    "(jog in Stage and light, watch the camera), then plan: nothing moves before you confirm."
)


class AlignPanel(Panel):
    """See above.

    Args:
        owner: takes the orders.
        journal: told where the result was written.
        clock: real time.
    """

    title = "Align"

    def __init__(self, owner: DeviceOwner, journal: Journal, clock: Clock):
        super().__init__()
        self._owner, self._journal = owner, journal
        self._bench = BenchState()
        self._plans: Slot[list[str]] = Slot(clock)
        self._results: Slot[Aligned] = Slot(clock)
        self._seen_plan = self._seen_result = 0
        self._start: StagePosition | None = None
        self._known: object = None
        self.result: Alignment | None = None
        words = faint(INTRODUCTION)
        words.setWordWrap(True)
        self.y = QuantityEdit("m", -1.0, 1.0, step=1e-4, bare=1e-3)
        self.x = QuantityEdit("m", -1.0, 1.0, step=1e-4, bare=1e-3)
        for axis, field in (("y", self.y), ("x", self.x)):
            field.setToolTip(f"Start {axis}: 12.5mm, or 12.5 (mm)")
            field.setAccessibleName(f"Start {axis}")
        self.here = button("Here", "Start where the stage stands", self._here)
        self.plan = button("Plan the moves", "List what will move; nothing moves yet", self._plan)
        self.moves = QLabel()
        self.moves.setWordWrap(True)
        self.moves.setTextInteractionFlags(Qt.TextSelectableByMouse)
        self.confirm = ConfirmBar()
        self.progress = QProgressBar()
        self.canvas = pg.GraphicsLayoutWidget()
        self.canvas.setMinimumHeight(170)
        self.images = {}
        for name in ("Empty beam", "Sample, put together"):
            plot = self.canvas.addPlot(title=name)
            plot.setAspectLocked(True)
            plot.invertY(True)
            plot.setMenuEnabled(False)
            plot.hideButtons()
            for axis in ("left", "bottom"):
                plot.hideAxis(axis)
            item = pg.ImageItem()
            plot.addItem(item)
            self.images[name] = (plot, item)
        self.values = QLabel()
        self.values.setTextInteractionFlags(Qt.TextSelectableByMouse)
        self.values.setWordWrap(True)
        self.keep = button("Write into the characterisation", "Scans of this profile then use it", self._ask_keep)
        line = QHBoxLayout()
        for widget in (faint("y"), self.y, faint("x"), self.x, self.here):
            line.addWidget(widget)
        line.addStretch()
        line.addWidget(self.plan)
        grid = QGridLayout()
        grid.setVerticalSpacing(GAP // 2)
        column = QVBoxLayout(self)
        column.setContentsMargins(GAP * 3 // 2, GAP, GAP * 3 // 2, GAP)
        column.setSpacing(GAP)
        column.addWidget(words)
        column.addWidget(heading("1  Start"))
        column.addLayout(line)
        column.addWidget(heading("2  Moves"))
        column.addWidget(self.moves)
        column.addWidget(self.confirm)
        column.addWidget(self.progress)
        column.addWidget(heading("3  Result"))
        column.addWidget(self.canvas, 1)
        column.addWidget(self.values)
        column.addWidget(self.keep)
        column.addStretch()
        self.progress.hide()
        self._show_result(None)

    # ---- Showing -----------------------------------------------------------------------------------------------------

    def restyle(self, theme: Theme) -> None:
        self.canvas.setBackground(theme.plot)
        for plot, _ in self.images.values():
            style_plot(plot, theme)
            plot.titleLabel.setText(plot.titleLabel.text, color=theme.faint, size="9pt")

    def refresh(self, bench: BenchState, age_s: float) -> None:
        before, self._bench = self._bench, bench
        if outdated(before, bench):
            self.confirm.cancel()
        if bench.known is not self._known:
            self._known = bench.known
            self._forget()
            if bench.known is not None:
                self.y.show_value(bench.known.stage.centre_m[0])
                self.x.show_value(bench.known.stage.centre_m[1])
        ready = bench.may_move
        for widget in (self.y, self.x, self.plan):
            widget.setEnabled(ready)
        self.here.setEnabled(ready and bench.stage.homed)
        running = bench.activity.doing is Doing.MEASURING and bench.activity.total > 0
        self.progress.setVisible(running)
        if running:
            self.progress.setRange(0, bench.activity.total)
            self.progress.setValue(bench.activity.done)
            self.progress.setFormat(f"{bench.activity.words}  %v / %m")
        plan = self._plans.newest(self._seen_plan)
        if plan is not None:
            self._seen_plan = plan.number
            self._show_moves(plan.item)
            self._ask_run()
        result = self._results.newest(self._seen_result)
        if result is not None:
            self._seen_result = result.number
            self._show_result(result.item)
        self.keep.setEnabled(self.result is not None and bench.idle)

    def _forget(self) -> None:
        """Nothing that was planned or measured on another bench holds for this one."""
        self._start = None
        # An answer that is still on its way came from the other bench.
        plan, result = self._plans.newest(), self._results.newest()
        self._seen_plan = 0 if plan is None else plan.number
        self._seen_result = 0 if result is None else result.number
        self._show_moves([])
        self._show_result(None)

    def _show_moves(self, lines: list[str]) -> None:
        self.moves.setText("\n".join(f"· {line}" for line in lines) or "Not planned yet")

    def _show_result(self, aligned: Aligned | None) -> None:
        self.result = None if aligned is None else aligned.found
        self.canvas.setVisible(aligned is not None)
        if aligned is None:
            self.values.setText("Not measured yet")
            return
        found = aligned.found
        shown = (np.sqrt(np.maximum(found.empty, 0)), aligned.picture)
        for (plot, item), image in zip(self.images.values(), shown, strict=True):
            item.setImage(np.nan_to_num(np.asarray(image, np.float32)))
            plot.autoRange()
        m = found.measured
        (a, b), (c, d) = m.stage_to_object
        self.values.setText(
            f"rotation {m.rotation_deg:+.2f} ± {m.rotation_error_deg:.2f}°, scale {m.scale:.4f} ± {m.scale_error:.3f}"
            f"{', mirrored' if m.mirrored else ''}\n"
            f"stage to object [[{a:.5f}, {b:.5f}], [{c:.5f}, {d:.5f}]]\n"
            f"beam on the sensor at row {found.beam_px[0]:.1f}, column {found.beam_px[1]:.1f}; "
            f"frame from row {m.origin[0]}, column {m.origin[1]}\n"
            f"{found.found.places} places, {found.found.residual_m * 1e6:.1f} µm left unexplained"
        )

    # ---- What a person does ------------------------------------------------------------------------------------------

    def _here(self) -> None:
        position = self._bench.stage.position
        if position is not None:
            self.y.setValue(position.y)
            self.x.setValue(position.x)

    def _plan(self) -> None:
        self.y.interpretText()
        self.x.interpretText()
        self._start = StagePosition(self.y.value(), self.x.value())
        self._owner.give(alignment.plan_alignment(self._start, self._plans.put))

    def _ask_run(self) -> None:
        start = self._start
        if start is not None:
            self.confirm.ask(
                "May the stage move so?",
                "Move and measure",
                lambda: self._owner.give(alignment.run_alignment(start, time.time(), self._results.put)),
            )

    def _ask_keep(self) -> None:
        path = self.target()
        self.confirm.ask(
            f"Write the alignment into {path}? An earlier file is kept under its date.",
            "Write",
            lambda: self._keep(path),
        )

    def target(self) -> Path:
        """The characterisation file of the bench's profile."""
        return default_path(self._bench.name)

    def _keep(self, path: Path) -> None:
        profile, found = self._bench.profile, self.result
        if profile is None or found is None:
            return
        try:
            saved = save(path, profile, alignment=found.measured)
        except (CharacterisationError, UsageError) as error:
            self._journal.error(str(error))
        else:
            self._journal.info(f"align: written into {saved.source}; connect the bench again to use it")
