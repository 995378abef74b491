"""The bar at the top: which bench, how its devices are, what is going on, and STOP."""

from __future__ import annotations

from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QFrame, QHBoxLayout, QLabel, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app.gui.stopping import StopButton
from app.gui.theme import DARK, GAP, Theme
from app.gui.widgets import ConfirmBar, button, duration
from app.live import orders
from app.live.journal import Message
from app.live.owner import DeviceOwner
from app.live.state import BenchState, DeviceState, Doing, Health, Kind

SIGNS = {Health.OFF: "○", Health.CONNECTED: "●", Health.STALE: "◐", Health.FAULT: "✕"}


class Lamp(QLabel):
    """One device: a sign, a colour and a word, so that nobody depends on the colour.

    Args:
        name: of the device.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.health = Health.OFF
        self._shown: tuple[object, ...] = ()
        self.setAccessibleName(f"{name} lamp")

    def show_state(self, health: Health, device: DeviceState, age_s: float, theme: Theme) -> None:
        self.health = health
        shown = (health, device.words, theme.name)
        if shown == self._shown:
            return
        self._shown = shown
        colours = {
            Health.OFF: theme.faint,
            Health.CONNECTED: theme.good,
            Health.STALE: theme.warn,
            Health.FAULT: theme.bad,
        }
        note = {Health.STALE: " silent", Health.FAULT: " fault", Health.OFF: " off"}.get(health, "")
        self.setText(f'<span style="color:{colours[health]}">{SIGNS[health]}</span> {self.name}{note}')
        tip = f"has not answered for {age_s:.0f} s" if health is Health.STALE else device.words
        self.setToolTip(f"{self.name}: {tip}")


class TopBar(QWidget):
    """See above.

    Args:
        owner: takes the orders.
        stop: what the STOP button does.
    """

    def __init__(self, owner: DeviceOwner, stop: object):
        super().__init__()
        self.setObjectName("topbar")
        self.setAttribute(Qt.WA_StyledBackground)
        self._owner = owner
        self._theme = DARK
        self._broken: tuple[str, ...] = ()
        self._shown: tuple[object, ...] = ()
        self.name = QLabel()
        font = self.name.font()
        font.setBold(True)
        font.setPointSizeF(font.pointSizeF() * 1.15)
        self.name.setFont(font)
        self.kind = QLabel()
        self.lamps = {name: Lamp(name) for name in ("camera", "stage", "light")}
        self.reconnect = button(
            "Reconnect",
            "Close and open the devices that failed (Ctrl+R); nothing moves",
            lambda: owner.give(orders.reconnect(*self._broken)),
        )
        self.activity = QLabel()
        # Long words must not widen the window.
        self.activity.setSizePolicy(QSizePolicy.Ignored, QSizePolicy.Preferred)
        self.activity.setAlignment(Qt.AlignRight | Qt.AlignVCenter)
        self.progress = QProgressBar()
        self.progress.setFixedWidth(170)
        self.stop: QPushButton = StopButton(stop)  # type: ignore[arg-type]
        row = QHBoxLayout(self)
        row.setContentsMargins(GAP * 3 // 2, GAP, GAP * 3 // 2, GAP)
        row.setSpacing(GAP * 3 // 2)
        row.addWidget(self.name)
        row.addWidget(self.kind)
        row.addSpacing(GAP)
        for lamp in self.lamps.values():
            row.addWidget(lamp)
        row.addWidget(self.reconnect)
        row.addWidget(self.activity, 1)
        row.addWidget(self.progress)
        row.addSpacing(GAP)
        row.addWidget(self.stop)

    def restyle(self, theme: Theme) -> None:
        self._theme = theme

    def refresh(self, bench: BenchState, age_s: float) -> None:
        theme = self._theme
        self.name.setText(bench.name or "No bench")
        self._show_kind(bench)
        calling, states = self._owner.watched.calling, []
        for name, device in (
            ("camera", bench.camera.device),
            ("stage", bench.stage.device),
            ("light", bench.beam.device),
        ):
            # One thread asks them all: the one that does not answer makes the others wait, and is the silent one.
            health = bench.health(device, age_s if calling in ("", name) else 0.0)
            self.lamps[name].show_state(health, device, age_s, theme)
            states.append((name, health))
        self._broken = tuple(name for name, health in states if health is Health.FAULT)
        self.reconnect.setVisible(bool(self._broken))
        self.reconnect.setEnabled(bench.idle)
        self._show_activity(bench)

    def _show_kind(self, bench: BenchState) -> None:
        colour = self._theme.warn if bench.kind is Kind.SIMULATED else self._theme.accent
        shown = (bench.kind, bool(bench.name), colour)
        if shown == self._shown:
            return
        self._shown = shown
        self.kind.setText(bench.kind.value)
        self.kind.setVisible(bool(bench.kind.value) and bool(bench.name))
        self.kind.setStyleSheet(
            f"color: {colour}; border: 1px solid {colour}; border-radius: 4px; padding: 1px 6px; font-weight: 600;"
        )

    def _show_activity(self, bench: BenchState) -> None:
        activity, run = bench.activity, bench.run
        words, done, total = activity.words, activity.done, activity.total
        if activity.doing is Doing.SCANNING and run is not None:
            done, total = run.done, run.total
            words = f"{run.state.value}: frame {done} of {total}"
            if run.done and run.remaining_s > 0:
                words += f", {duration(run.remaining_s)} to go"
        self.activity.setText(words)
        self.activity.setToolTip(words)
        self.progress.setVisible(total > 0)
        if total:
            self.progress.setRange(0, total)
            self.progress.setValue(done)


class Banner(QFrame):
    """The newest error, until somebody has read it; it blocks nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("banner")
        self.words = QLabel()
        self.words.setWordWrap(True)
        self.words.setTextInteractionFlags(Qt.TextSelectableByMouse)
        self.close_button = button("Dismiss", "Read (Ctrl+D); it stays in the log", self.hide)
        row = QHBoxLayout(self)
        row.setContentsMargins(GAP * 3 // 2, GAP // 2, GAP // 2, GAP // 2)
        row.addWidget(self.words, 1)
        row.addWidget(self.close_button)
        self.hide()

    def show_message(self, message: Message) -> None:
        self.words.setText(message.text)
        self.show()


class Notices(QWidget):
    """Below the bar: the newest error and what a person is asked; of the light, and before closing, each for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.banner = Banner()
        self.confirm = ConfirmBar()
        self.closing = ConfirmBar()
        column = QVBoxLayout(self)
        column.setContentsMargins(GAP, 0, GAP, 0)
        column.setSpacing(0)
        column.addWidget(self.banner)
        column.addWidget(self.confirm)
        column.addWidget(self.closing)
