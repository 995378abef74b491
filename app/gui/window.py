"""The window: one bench, its panels in docks, and the thirty looks a second that keep them up to date."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PyQt5 import sip
from PyQt5.QtCore import QByteArray, Qt, QTimer
from PyQt5.QtGui import QKeySequence
from PyQt5.QtWidgets import QAction, QApplication, QDockWidget, QMainWindow, QMenuBar, QTabWidget, QVBoxLayout, QWidget

from app.gui import settings as remembered
from app.gui.align import AlignPanel
from app.gui.camera import CameraPanel
from app.gui.connect import Choice, ConnectDialog
from app.gui.lamps import Notices, TopBar
from app.gui.light import LightPanel
from app.gui.log import LogPanel
from app.gui.panels import GuestPanel
from app.gui.replay import ReplayPanel
from app.gui.scan import ScanPanel
from app.gui.settings import Settings
from app.gui.stage import StagePanel
from app.gui.stopping import EscapeStops
from app.gui.theme import THEMES, apply
from app.gui.widgets import Panel, choose_file
from app.live import orders
from app.live.asking import Asked
from app.live.journal import Journal, Severity
from app.live.owner import DeviceOwner
from app.live.planner import Planner
from app.live.setup import MakeSetup, Setup
from app.live.state import BenchState, Doing, Kind
from app.live.viewer import Viewer
from app.replaying import Replay
from drivers.clock import Clock

TICK_MS = 33
PATIENCE_MS = 15_000
"""A window that closes waits so long for its devices."""


class Window(QMainWindow):
    """See above. Everything it needs is passed in; nothing moves when it opens, connects, selects or zooms.

    Args:
        clock: real time.
        settings_path: where what is remembered lies.
        guests: panels from elsewhere, each given a dock.
    """

    def __init__(self, clock: Clock, settings_path: Path, guests: Sequence[GuestPanel] = ()):
        super().__init__()
        self._path = settings_path
        self.settings, complaint = remembered.load(settings_path)
        self.journal = Journal(clock)
        self.owner = DeviceOwner(clock, self.journal)
        self.viewer = Viewer(self.owner.watched.frames, clock)
        self.planner = Planner(clock)
        self.choice = Choice()
        self._closing = False
        self._seen_error = 0
        self._asked: Asked | None = None
        self._waiting_for: QWidget | None = None
        self.camera = CameraPanel(self.owner, self.viewer, self.journal, self.folder, clock)
        self.light = LightPanel(self.owner)
        self.stage = StagePanel(self.owner, self.light)
        self.scan = ScanPanel(self.owner, self.planner, self.journal, clock, self.folder)
        self.align = AlignPanel(self.owner, self.journal, clock)
        self.replay = ReplayPanel(self._replay)
        self.log = LogPanel(self.journal)
        self.guests = tuple(guests)
        for guest in self.guests:
            guest.join(self.owner)
        self.top = TopBar(self.owner, self.stop)
        self.notices = Notices()
        self.docks: dict[str, QDockWidget] = {}
        self._place_panels()
        self._menus()
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        self._app = app
        self._escape = EscapeStops(app, self.stop)
        self.set_theme(self.settings.theme)
        self._restore()
        if complaint:
            self.journal.warning(complaint)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.refresh)
        self.owner.start()
        self.viewer.start()
        self.planner.start()
        self.refresh()
        self.camera.canvas.setFocus()
        self._timer.start(TICK_MS)

    # ---- Building ----------------------------------------------------------------------------------------------------

    @property
    def _panels(self) -> tuple[Panel, ...]:
        return (self.camera, self.stage, self.light, self.scan, self.align, self.replay, self.log)

    def _place_panels(self) -> None:
        # Above everything and as wide as the window: STOP has its place whatever is docked where.
        head = QWidget()
        column = QVBoxLayout(head)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        self.menus = QMenuBar()
        column.addWidget(self.menus)
        column.addWidget(self.top)
        column.addWidget(self.notices)
        self.setMenuWidget(head)
        self.setCentralWidget(self.camera)
        self.setDockOptions(QMainWindow.AllowTabbedDocks | QMainWindow.AllowNestedDocks | QMainWindow.AnimatedDocks)
        self.setTabPosition(Qt.AllDockWidgetAreas, QTabWidget.North)
        self.setCorner(Qt.BottomRightCorner, Qt.RightDockWidgetArea)
        for name, panel, area in (
            ("stage", self.stage, Qt.RightDockWidgetArea),
            ("scan", self.scan, Qt.RightDockWidgetArea),
            ("align", self.align, Qt.RightDockWidgetArea),
            ("replay", self.replay, Qt.BottomDockWidgetArea),
            ("log", self.log, Qt.BottomDockWidgetArea),
        ):
            self._dock(name, panel.title, panel, area)
        self.tabifyDockWidget(self.docks["stage"], self.docks["scan"])
        self.tabifyDockWidget(self.docks["scan"], self.docks["align"])
        for number, guest in enumerate(self.guests):
            self._dock(f"guest-{number}", guest.title, guest.widget, Qt.RightDockWidgetArea)
            self.tabifyDockWidget(self.docks["align"], self.docks[f"guest-{number}"])
        self.splitDockWidget(self.docks["replay"], self.docks["log"], Qt.Vertical)
        self.docks["stage"].raise_()
        self.docks["replay"].hide()
        self.resize(1440, 940)
        self.resizeDocks([self.docks["stage"], self.docks["scan"]], [450, 450], Qt.Horizontal)
        self.resizeDocks([self.docks["log"]], [120], Qt.Vertical)

    def _dock(self, name: str, title: str, widget: QWidget, area: int) -> None:
        dock = QDockWidget(title, self)
        dock.setObjectName(name)
        dock.setWidget(widget)
        if area == Qt.RightDockWidgetArea:
            # Its tab names it already.
            dock.setTitleBarWidget(QWidget())
        self.addDockWidget(area, dock)
        self.docks[name] = dock

    def _menus(self) -> None:
        def entry(menu: Any, text: str, act: Callable[[], object], keys: str = "") -> QAction:
            action = menu.addAction(text)
            action.triggered.connect(lambda: act())
            if keys:
                action.setShortcut(QKeySequence(keys))
            return action

        bench = self.menus.addMenu("&Bench")
        entry(bench, "Connect…", self.ask_connect, "Ctrl+O")
        self.reconnect_action = entry(bench, "Reconnect failed devices", self.top.reconnect.click, "Ctrl+R")
        entry(bench, "Disconnect", lambda: self.owner.give(orders.disconnect()))
        bench.addSeparator()
        entry(bench, "Open a recording…", self.ask_recording, "Ctrl+Shift+O")
        bench.addSeparator()
        entry(bench, "Quit", self.close, "Ctrl+Q")
        scan = self.menus.addMenu("&Scan")
        entry(scan, "Start", self.scan.begin.click, "Ctrl+Return")
        entry(scan, "Pause or continue", self.scan.pause.click, "Ctrl+P")
        entry(scan, "Abort", self.scan.abort.click)
        entry(scan, "Resume a run…", self.scan.resume.click)
        entry(scan, "STOP", self.stop)
        light = self.menus.addMenu("&Light")
        entry(light, "Block or let through", self.light.switch, "Ctrl+B")
        replay = self.menus.addMenu("Re&play")
        entry(replay, "Play or pause", self.replay.play.click, "Ctrl+Space")
        entry(replay, "One frame on", self.replay.on.click, ".")
        entry(replay, "One frame back", self.replay.back.click, ",")
        entry(replay, "First frame", self.replay.first.click, "Ctrl+Home")
        entry(replay, "Last frame", self.replay.last.click, "Ctrl+End")
        view = self.menus.addMenu("&View")
        for number, (name, dock) in enumerate(self.docks.items(), start=1):
            action = entry(view, dock.windowTitle(), partial(self.show_panel, name), f"Alt+{number}")
            action.setToolTip("Show this panel")
        view.addSeparator()
        entry(view, "Dark", lambda: self.set_theme("dark"))
        entry(view, "Light", lambda: self.set_theme("light"))
        entry(view, "Dismiss the message", self.notices.banner.hide, "Ctrl+D")

    # ---- What a person does ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """STOP: straight to the stage, in this thread."""
        stop: Callable[[], object] = self.owner.stop
        if stop() is False:
            self.journal.error(
                "STOP: the stage did not confirm it and MAY STILL BE MOVING: cut its power if it does;"
                " a scan is aborted and can be resumed"
            )
        else:
            self.journal.warning("STOP: the stage stands, a scan is aborted and can be resumed")

    def connect_bench(self, choice: Choice) -> None:
        """Open a profile's bench; nothing moves."""
        self.choice = choice
        make: MakeSetup = partial(
            _of_profile, choice.profile, seed=choice.seed, sample=choice.sample, speed=choice.speed
        )
        self.use(make)

    def use(self, make: MakeSetup) -> None:
        """Open a bench that is made so; nothing moves."""
        self.owner.give(orders.connect(make))

    def open_recording(self, path: Path) -> None:
        """Show a run again; nothing in it can move a device."""
        self._remember_folder(path)
        if self.owner.give(orders.connect(lambda _: Setup.of_run(path))):
            self.show_panel("replay")

    def ask_connect(self) -> None:
        self.dialog = ConnectDialog(self, self.choice, self.folder, self.connect_bench)
        self.dialog.show()

    def ask_recording(self) -> None:
        choose_file(self, "Open a recording", self.folder(), "Runs (*.h5 *.hdf5)", self.open_recording)

    def show_panel(self, name: str) -> None:
        """Bring a panel to the front."""
        dock = self.docks[name]
        dock.show()
        dock.raise_()

    def set_theme(self, name: str) -> None:
        theme = THEMES[name]
        apply(self._app, theme)
        for panel in self._panels:
            panel.restyle(theme)
        self.top.restyle(theme)
        for guest in self.guests:
            guest.restyle(theme)
        self.settings = replace(self.settings, theme=name)

    def folder(self) -> Path:
        """Where files are looked for at first."""
        known = Path(self.settings.folder) if self.settings.folder else Path.cwd()
        return known if known.is_dir() else Path.cwd()

    def _remember_folder(self, path: Path) -> None:
        self.settings = replace(self.settings, folder=str(path.resolve().parent))

    def _replay(self) -> Replay | None:
        return self.owner.replay

    # ---- Thirty times a second ---------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show what is new; never waits for anybody."""
        latest = self.owner.watched.bench.newest()
        assert latest is not None
        bench, age_s = latest.item, latest.age_s
        focus = QApplication.focusWidget()
        self.top.refresh(bench, age_s)
        for panel in (*self._panels, *self.guests):
            panel.refresh(bench, age_s)
        self._keep_focus(focus)
        self.reconnect_action.setEnabled(self.top.reconnect.isVisibleTo(self.top))
        self._title(bench)
        self._newest_error()
        self._question()

    def _keep_focus(self, before: QWidget | None) -> None:
        """Qt passes the focus of a control that is disabled to the next one, and Space would press that, the light's
        perhaps: it waits on the picture, where no key does anything, and comes back with the control.
        """
        now = QApplication.focusWidget()
        if before is not None and before is not now and before.window() is self and not before.isEnabled():
            self.camera.canvas.setFocus()
            self._waiting_for = before if before is not self.camera.canvas else None
            return
        kept = self._waiting_for
        if kept is None:
            return
        if now is not self.camera.canvas or sip.isdeleted(kept) or not kept.isVisible():
            self._waiting_for = None
        elif kept.isEnabled():
            self._waiting_for = None
            kept.setFocus()

    def _title(self, bench: BenchState) -> None:
        parts = ["Ptychoscope", bench.name, bench.kind.value if bench.name else ""]
        title = "  –  ".join(part for part in parts if part)
        if title != self.windowTitle():
            self.setWindowTitle(title)
            self.docks["replay"].setVisible(bench.kind is Kind.REPLAY and bool(bench.name))

    def _newest_error(self) -> None:
        if self.journal.count == self._seen_error:
            return
        errors = [m for m in self.journal.since(self._seen_error) if m.severity is Severity.ERROR]
        self._seen_error = self.journal.count
        if errors:
            self.notices.banner.show_message(errors[-1])

    def _question(self) -> None:
        """What the devices' thread asks a person, about the light."""
        asked = self.owner.question.asked
        if asked is self._asked:
            return
        self._asked = asked
        if asked is None:
            self.notices.confirm.cancel()
            return
        answer = partial(self.owner.question.answer, asked)
        self.notices.confirm.ask(f"Please {asked.request}.", "Done", partial(answer, True), partial(answer, False))

    # ---- Closing -----------------------------------------------------------------------------------------------------

    def closeEvent(self, event: Any) -> None:
        """Ask while a scan runs; then stop the stage, close the devices and wait a little, without freezing."""
        latest = self.owner.watched.bench.newest()
        scanning = latest is not None and latest.item.activity.doing is Doing.SCANNING
        if not self.owner.alive:
            self._finish()
            event.accept()
            return
        event.ignore()
        if self._closing:
            return
        if scanning:
            # In a bar of its own: who stays has not answered what the light asks.
            self.notices.closing.ask(
                "A scan is running. Stop it and close? What was taken stays in the file, and the run can be resumed.",
                "Stop and close",
                self.leave,
            )
        else:
            self.leave()

    def leave(self) -> None:
        """Stop everything and close, without asking."""
        self._closing = True
        self.owner.end()
        self._waiting = QTimer(self)
        self._waiting.timeout.connect(self._left)
        self._waiting.start(20)
        QTimer.singleShot(PATIENCE_MS, self._give_up)

    def _left(self) -> None:
        if not self.owner.alive:
            self._waiting.stop()
            self.close()

    def _give_up(self) -> None:
        """A device or a disk hangs: its thread is left to it."""
        if self.owner.alive:
            self._waiting.stop()
            self._finish()
            self.hide()
            self._app.quit()

    _finished = False

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._timer.stop()
        self._remember_places()
        # Guests may need a moment to store what they have.
        self.hide()
        self._escape.remove()
        self.viewer.end()
        self.planner.end()
        for guest in self.guests:
            guest.close()
        self.settings = replace(
            self.settings,
            colours=self.camera.colours.currentText(),
            scale=self.camera.scale.currentText(),
            jog_m=self.stage.pad.step_m,
            live=self.owner.watched.wants_live,
        )
        complaint = remembered.save(self._path, self.settings)
        if complaint:
            # The log's window is gone by now.
            self.journal.warning(complaint)
            sys.stderr.write(f"{complaint}\n")

    def _remember_places(self) -> None:
        self.settings = replace(self.settings, geometry=_text(self.saveGeometry()), layout=_text(self.saveState()))

    def _restore(self) -> None:
        own: Settings = self.settings
        self.owner.watched.wants_live = own.live
        self.camera.colours.setCurrentText(own.colours)
        self.camera.scale.setCurrentText(own.scale)
        self.stage.pad.choose_step(own.jog_m)
        if own.geometry:
            self.restoreGeometry(_bytes(own.geometry))
        if own.layout:
            self.restoreState(_bytes(own.layout))
        self.docks["replay"].hide()


def _of_profile(name: str, ask: Any, seed: int, sample: str | None, speed: float) -> Setup:
    return Setup.of_profile(name, ask, seed, sample, speed=speed)


def _text(data: QByteArray) -> str:
    return base64.b64encode(bytes(data)).decode()


def _bytes(text: str) -> QByteArray:
    try:
        return QByteArray(base64.b64decode(text.encode(), validate=True))
    except ValueError:
        return QByteArray()
