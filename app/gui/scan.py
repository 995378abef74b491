"""The scan: what it will be, what it takes, whether it can, and how far it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PyQt5.QtCore import Qt, QTimer
from PyQt5.QtGui import QColor
from PyQt5.QtWidgets import (
    QDockWidget,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from app.acquire.observer import RunState
from app.acquire.preflight import Severity
from app.gui.questions import outdated
from app.gui.scanform import ScanForm
from app.gui.scanmap import ScanMap
from app.gui.theme import DARK, GAP, Theme
from app.gui.widgets import ConfirmBar, Panel, button, choose_file, data_size, duration, faint, quantity
from app.live import orders
from app.live.journal import Journal
from app.live.orders import Checked, ScanRequest
from app.live.owner import DeviceOwner
from app.live.planner import Ask, Planned, Planner
from app.live.slot import Slot
from app.live.state import BenchState, Doing, Health, Kind
from drivers.clock import Clock

THINK_MS = 350
"""A plan is made when somebody has stopped typing for so long."""


class ScanPanel(Panel):
    """See above.

    Args:
        owner: takes the orders.
        planner: makes plans while somebody thinks.
        journal: told what goes wrong.
        clock: real time.
        folder: where runs are written at first.
    """

    title = "Scan"

    def __init__(
        self, owner: DeviceOwner, planner: Planner, journal: Journal, clock: Clock, folder: Callable[[], Path]
    ):
        super().__init__()
        self._owner, self._planner, self._journal, self._folder = owner, planner, journal, folder
        self._theme = DARK
        self._bench = BenchState()
        self._checks: Slot[Checked[ScanRequest]] = Slot(clock)
        self._seen_plan = self._seen_check = 0
        self._planned: Planned | None = None
        self._checked: Checked[ScanRequest] | None = None
        self._known_run: object = None
        self._wants_run = False
        self._asked: ScanRequest | None = None
        self.map = ScanMap(self._selection)
        self.map.setMinimumHeight(200)
        self.shown = faint()
        self.shown.setWordWrap(True)
        self.switch = button("Show the run", "The map shows what is planned, or the last run", self._switch)
        self.form = ScanForm(folder)
        self.form.changed.connect(self._edited)
        self.estimates = QGridLayout()
        self.estimates.setHorizontalSpacing(GAP * 2)
        self.estimates.setVerticalSpacing(2)
        self.numbers: dict[str, QLabel] = {}
        places = {"Time": (0, 0, 1), "Frames": (0, 2, 1), "Travel": (1, 0, 1), "Disk": (1, 2, 1)}
        places |= {"Dose": (2, 0, 3), "Overlap": (3, 0, 3)}
        for name, (row, left, width) in places.items():
            label = QLabel("–")
            label.setTextInteractionFlags(Qt.TextSelectableByMouse)
            self.estimates.addWidget(faint(name), row, left)
            self.estimates.addWidget(label, row, left + 1, 1, width)
            self.numbers[name] = label
        self.estimates.setColumnStretch(1, 1)
        self.estimates.setColumnStretch(3, 1)
        self.findings = QListWidget()
        self.findings.setObjectName("bare")
        self.findings.setWordWrap(True)
        self.findings.setFocusPolicy(Qt.NoFocus)
        self.findings.setSelectionMode(QListWidget.NoSelection)
        self.findings.setFixedHeight(44)
        self.confirm = ConfirmBar()
        self.begin = button("Start scan", "Scans; asks before it homes (Ctrl+Return)", self._start, primary=True)
        self.pause = button("Pause", "Wait before the next step (Ctrl+P); goes on where it was", self._pause)
        self.abort = button("Abort", "End the scan now; it can be resumed", owner.abort)
        self.resume = button("Resume…", "Complete a run that was interrupted", self._ask_resume)
        self.again = button("Take again", "Click points on the map, then take them again", self._ask_again)
        self._lay_out()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(THINK_MS)
        self._timer.timeout.connect(self._think)

    def _lay_out(self) -> None:
        inside = QWidget()
        inside.setObjectName("scrolled")
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, GAP, 0)
        column.setSpacing(GAP)
        column.addWidget(self.form)
        column.addStretch()
        scroll = QScrollArea()
        scroll.setWidget(inside)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QScrollArea.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarAlwaysOff)
        self.scroll = scroll
        run = QHBoxLayout()
        for widget in (self.begin, self.pause, self.abort):
            run.addWidget(widget)
        run.addStretch()
        for widget in (self.again, self.resume):
            run.addWidget(widget)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(GAP * 3 // 2, GAP, GAP * 3 // 2, GAP)
        whole.setSpacing(GAP)
        whole.addWidget(self.map, 3)
        mapped = QHBoxLayout()
        mapped.addWidget(self.shown, 1)
        mapped.addWidget(self.switch)
        whole.addLayout(mapped)
        whole.addWidget(scroll, 5)
        # Beside Start, in view whatever the window's size: what one is about to begin.
        whole.addLayout(self.estimates)
        whole.addWidget(self.findings)
        whole.addWidget(self.confirm)
        whole.addLayout(run)

    # ---- Showing -----------------------------------------------------------------------------------------------------

    def restyle(self, theme: Theme) -> None:
        self._theme = theme
        self.map.restyle(theme)
        self._show_findings()

    def refresh(self, bench: BenchState, age_s: float) -> None:
        before, self._bench = self._bench, bench
        if outdated(before, bench):
            self.confirm.cancel()
        if bench.profile is not before.profile:
            self._forget()
            if bench.profile is not None:
                self.form.show_profile(bench.profile)
                self._timer.start(0)
        elif _devices(before) != _devices(bench) and bench.kind is not Kind.REPLAY:
            self._timer.start()
        elif bench.idle and not before.idle and self._checked is None:
            # What was typed meanwhile was planned, but no device could be asked.
            self._timer.start()
        # Answers to what is not asked for any more are not shown.
        plan = self._planner.answers.newest(self._seen_plan)
        if plan is not None:
            self._seen_plan = plan.number
            if plan.item.ask.request == self._request():
                self._show_planned(plan.item)
        check = self._checks.newest(self._seen_check)
        if check is not None:
            self._seen_check = check.number
            if check.item.request == self._request():
                self._checked = check.item
                self._show_findings()
        self._show_run(before)
        self._enable()

    def _show_run(self, before: BenchState) -> None:
        """A run in progress, or the one that is replayed, is what the map shows; else what is being planned."""
        run, bench = self._bench.run, self._bench
        another = run is not None and run.plan is not self._known_run
        if run is not None and another:
            self._known_run = run.plan
            self._wants_run = True
        shows_run = run is not None and (run.running or bench.kind is Kind.REPLAY or self._wants_run)
        if bench.kind is Kind.REPLAY and run is not None and self.form.path.text() != str(run.path):
            self.form.path.setText(str(run.path))
        if shows_run and run is not None:
            self.map.show_plan(run.plan, run.profile)
            self.map.show_progress(run.step, run.state is RunState.COMPLETED and bench.kind is not Kind.REPLAY)
        elif self._planned is not None:
            self.map.show_plan(self._planned.plan, self._planned.ask.known)
        over = run is not None and not run.running and bench.kind is not Kind.REPLAY
        if over and (another or (before.run is not None and before.run.running)):
            self.form.offer_path(self._folder())
            self._forget()
            self._timer.start(0)

    def _show_planned(self, planned: Planned) -> None:
        self._planned, plan, cost = planned, planned.plan, planned.cost
        values = dict.fromkeys(self.numbers, "–")
        if plan is not None:
            values["Frames"] = f"{plan.frames}"
            values["Disk"] = data_size(planned.size)
            if planned.overlaps is not None:
                linear, area = planned.overlaps.linear_mean, planned.overlaps.area
                values["Overlap"] = f"{100 * linear:.0f} % linear, {100 * area:.0f} % area"
        if cost is not None:
            values["Time"] = duration(cost.duration_s)
            values["Travel"] = quantity(cost.travel_m, "m", 3)
            values["Dose"] = f"{cost.sample_photons:.3g} photons on the sample, {cost.beam_photons:.3g} in all"
        for name, value in values.items():
            self.numbers[name].setText(value)
        if planned.error:
            self._checked = Checked(planned.ask.request, error=planned.error)
            self._show_findings()
        elif self._bench.idle and self._bench.kind is not Kind.REPLAY and self._bench.name:
            self._owner.give(orders.check(planned.ask.request, self._checks.put))

    def _show_findings(self) -> None:
        self.findings.clear()
        theme, checked = self._theme, self._checked

        def line(sign: str, colour: str, text: str) -> None:
            item = QListWidgetItem(f"{sign}  {text}")
            item.setForeground(QColor(colour))
            item.setToolTip(text)
            self.findings.addItem(item)

        if self._bench.kind is Kind.REPLAY:
            line("○", theme.faint, "A recording: nothing can be scanned")
        elif checked is None:
            line("○", theme.faint, "Not checked yet")
        elif checked.error:
            line("✕", theme.bad, checked.error)
        else:
            for finding in checked.findings:
                bad = finding.severity is Severity.ERROR
                line("✕" if bad else "!", theme.bad if bad else theme.warn, finding.message)
            if not any(finding.severity is Severity.ERROR for finding in checked.findings):
                line("✓", theme.good, "Travel, exposures, saturation, disk and devices: it can start")
        rows = sum(max(self.findings.sizeHintForRow(k), 22) for k in range(self.findings.count()))
        self.findings.setFixedHeight(min(max(rows + 8, 30), 150))

    def _enable(self) -> None:
        bench, run = self._bench, self._bench.run
        scanning = bench.activity.doing is Doing.SCANNING
        bound = bench.kind is Kind.REPLAY or not bench.name
        there = all(_devices(bench)[0])
        self.begin.setEnabled(self._checked_well() and there and bench.idle and not bound)
        paused = run is not None and run.state is RunState.PAUSED
        self.pause.setEnabled(scanning)
        self.pause.setText("Continue" if scanning and paused else "Pause")
        self.abort.setEnabled(scanning)
        self.resume.setEnabled(bench.idle and not bound)
        self.form.setEnabled(not scanning and not bound)
        if self._planned is not None and self._planned.cost is not None:
            homing = "" if bench.stage.homed else " and homing"
            self.numbers["Time"].setText(duration(self._planned.cost.duration_s) + homing)
        self._enable_again()
        if self._asked is not None and not self.begin.isEnabled():
            self.confirm.cancel()

    def _enable_again(self) -> None:
        """Points are those of the run: they are chosen, and taken again, only while the map shows that run."""
        run, chosen, recorded = self._bench.run, len(self.map.selected), self._bench.kind is Kind.REPLAY
        shown = run is not None and self.map.plan is run.plan
        self.map.choosable = shown and not recorded
        complete = run is not None and run.state is RunState.COMPLETED
        self.again.setEnabled(shown and complete and not recorded and self._bench.idle and chosen > 0)
        self.again.setText(f"Take {chosen} again" if chosen else "Take again")
        told = run is not None and not recorded
        self.shown.setVisible(told)
        self.switch.setVisible(told and run is not None and not run.running)
        if run is None or recorded:
            return
        self.shown.setToolTip(str(run.path))
        if not shown:
            words = "The plan. To take points again, show the run"
        elif complete:
            words = "The last run. Click points to take them again"
        elif run.running:
            words = "The run in progress"
        else:
            words = f"The last run, {run.state.value}: complete it to take points again"
        self.shown.setText(words)
        self.switch.setText("Show the plan" if self._wants_run else "Show the run")

    def _checked_well(self) -> bool:
        """Whether what is asked for now has been planned and checked and can be done."""
        checked = self._checked
        if checked is None or self._planned is None or checked.error or checked.request != self._request():
            return False
        return not any(finding.severity is Severity.ERROR for finding in checked.findings)

    # ---- What a person does ------------------------------------------------------------------------------------------

    def _request(self) -> ScanRequest | None:
        return self.form.request()

    def _edited(self) -> None:
        self._wants_run = False
        self.confirm.cancel()
        self._forget()
        self._enable()
        self._timer.start()

    def _forget(self) -> None:
        """What was planned and checked is not what is asked for any more."""
        self._planned = self._checked = None
        self._show_numbers("…" if self._bench.name and self._bench.kind is not Kind.REPLAY else "–")
        self._show_findings()

    def _show_numbers(self, words: str) -> None:
        for label in self.numbers.values():
            label.setText(words)

    def _switch(self) -> None:
        self._wants_run = not self._wants_run

    def _think(self) -> None:
        request = self.form.request()
        if request is None:
            if self.form.error:
                self._show_numbers("–")
                self._checked = Checked(self.form.last, error=self.form.error) if self.form.last else None
                self._show_findings()
            return
        known = self._bench.known
        if known is None or self._bench.kind is Kind.REPLAY:
            return
        changed = known.model_copy(update={"scan": request.profile.scan})
        self._planner.ask(Ask(request, changed, self._bench.stage.info))

    def _start(self) -> None:
        request = self._request()
        if request is None or not self._checked_well():
            return
        if self._asked is not None:
            # The key once more, or held down, is no answer.
            self.confirm.no.setFocus()
            return
        homed = self._bench.stage.homed
        if homed and not self.visibleRegion().isEmpty():
            self._owner.give(orders.scan(request))
            return
        # From another panel by key nobody sees what would begin, and homing goes to the ends of the travel.
        self._come_to_front()
        takes = f"{self.numbers['Frames'].text()} frames, {self.numbers['Time'].text()}."
        self.confirm.ask(
            f"Scan? {takes}" if homed else f"Home both axes and scan? {takes} Look that nothing is in their way.",
            "Scan" if homed else "Home and scan",
            lambda: self._answered(request),
            self._not_asked,
        )
        self._asked = request

    def _answered(self, request: ScanRequest) -> None:
        self._not_asked()
        self._owner.give(orders.scan(request))

    def _not_asked(self) -> None:
        self._asked = None

    def _come_to_front(self) -> None:
        dock = self.parentWidget()
        if isinstance(dock, QDockWidget):
            dock.show()
            dock.raise_()

    def _pause(self) -> None:
        if self._bench.run is not None and self._bench.run.state is RunState.PAUSED:
            self._owner.proceed()
        else:
            self._owner.pause()

    def _ask_resume(self) -> None:
        choose_file(self, "Resume a run", self._folder(), "Runs (*.h5 *.hdf5)", self.resume_run)

    def resume_run(self, path: Path) -> None:
        """Complete an interrupted run with the connected devices, after a confirmation: the stage will move."""
        profile = self._bench.profile
        if profile is None:
            return
        self.confirm.ask(
            f"Resume {path.name}? The stage moves as its plan says; an interrupted visit begins again.",
            "Resume",
            lambda: self._owner.give(orders.scan(ScanRequest(path, profile, resume=True))),
        )

    def _ask_again(self) -> None:
        run, points = self._bench.run, tuple(sorted(self.map.selected))
        if run is None or not points:
            return
        self.confirm.ask(
            f"Take {len(points)} point{'s' if len(points) > 1 else ''} of {run.path.name} again? The new frames take "
            "the old ones' place; the old ones stay in the file.",
            "Take again",
            lambda: self._owner.give(orders.retake(run.path, points)),
        )

    def _selection(self) -> None:
        self._enable()


def _devices(bench: BenchState) -> tuple[tuple[bool, ...], object, object, object]:
    """What a check depends on, besides the request."""
    devices = (bench.camera.device, bench.stage.device, bench.beam.device)
    connected = tuple(device.health is Health.CONNECTED for device in devices)
    return connected, bench.camera.info, bench.beam.state, bench.stage.info
