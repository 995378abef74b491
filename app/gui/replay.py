"""The replay: play a recorded run at any speed, step through it, scrub. Nothing here can reach a device."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSizePolicy, QSlider, QVBoxLayout

from app.gui.theme import GAP
from app.gui.widgets import Panel, button, duration, faint, quantity
from app.live.state import BenchState, Kind
from app.replaying import Replay

SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 200.0)


class ReplayPanel(Panel):
    """See above.

    Args:
        replay: the run that is replayed at present, or None.
    """

    title = "Replay"

    def __init__(self, replay: Callable[[], Replay | None]):
        super().__init__()
        self._replay = replay
        self._following = True
        self.first = button("|◀", "First frame (Ctrl+Home)", lambda: self._seek(0))
        self.back = button("◀", "One frame back (,)", lambda: self._step(-1))
        self.play = button("Play", "Play or pause (Ctrl+Space)", self._play)
        self.on = button("▶", "One frame on (.)", lambda: self._step(1))
        self.last = button("▶|", "Last frame (Ctrl+End)", lambda: self._seek(10**9))
        for small in (self.first, self.back, self.on, self.last):
            small.setFixedWidth(40)
        self.play.setMinimumWidth(72)
        self.speed = QComboBox()
        self.speed.addItems([f"{speed:g} x" for speed in SPEEDS])
        self.speed.setCurrentIndex(SPEEDS.index(1.0))
        self.speed.setToolTip("Recorded seconds a second")
        self.speed.setAccessibleName("Speed")
        self.speed.currentIndexChanged.connect(self._set_speed)
        self.slider = QSlider(Qt.Horizontal)
        self.slider.setToolTip("Scrub through all frames")
        self.slider.setAccessibleName("Frame")
        self.slider.valueChanged.connect(self._scrub)
        self.words = QLabel()
        self.words.setTextInteractionFlags(Qt.TextSelectableByMouse)
        self.about = faint()
        for label in (self.words, self.about):
            # Long words must not widen the window.
            label.setSizePolicy(QSizePolicy.Ignored, QSizePolicy.Preferred)
        row = QHBoxLayout()
        row.setSpacing(GAP // 2)
        for widget in (self.first, self.back, self.play, self.on, self.last):
            row.addWidget(widget)
        row.addSpacing(GAP)
        row.addWidget(self.speed)
        row.addSpacing(GAP)
        row.addWidget(self.slider, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(GAP * 3 // 2, GAP, GAP * 3 // 2, GAP)
        column.setSpacing(GAP // 2)
        column.addLayout(row)
        column.addWidget(self.words)
        column.addWidget(self.about)

    def refresh(self, bench: BenchState, age_s: float) -> None:
        replay = self._replay() if bench.kind is Kind.REPLAY else None
        for widget in (self.first, self.back, self.play, self.on, self.last, self.speed, self.slider):
            widget.setEnabled(replay is not None)
        if replay is None:
            self.words.setText("No recording is open")
            return
        head, own = replay.playhead, replay.recorded
        number = head.number
        self._following = False
        if self.slider.maximum() != head.count - 1:
            self.slider.setRange(0, head.count - 1)
        if not self.slider.isSliderDown():
            self.slider.setValue(number)
        self._following = True
        self.play.setText("Pause" if head.playing else "Play")
        step, moment = own.step_of(number), own.moments[number]
        point = f", point {step.position_index}" if step.position_index >= 0 else ""
        taken = datetime.fromtimestamp(moment.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        self.words.setText(
            f"frame {number + 1} of {head.count}   ·   {duration(head.time_s)} of {duration(head.duration_s)}   ·   "
            f"{step.stream.value}{point}   ·   {quantity(moment.exposure_s, 's')}"
        )
        sample = own.label.sample or own.sample
        self.about.setText(f"{sample + ', ' if sample else ''}{own.outcome}, taken {taken}")

    def toggle(self) -> None:
        """Play or pause."""
        self._play()

    def _play(self) -> None:
        replay = self._replay()
        if replay is not None:
            if replay.playhead.playing:
                replay.playhead.pause()
            else:
                replay.playhead.play()

    def _step(self, by: int) -> None:
        replay = self._replay()
        if replay is not None:
            replay.playhead.step(by)

    def _seek(self, number: int) -> None:
        replay = self._replay()
        if replay is not None:
            replay.playhead.seek(number)

    def _scrub(self, number: int) -> None:
        if self._following:
            self._seek(number)

    def _set_speed(self, index: int) -> None:
        replay = self._replay()
        if replay is not None:
            replay.playhead.set_speed(SPEEDS[index])
