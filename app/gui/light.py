"""The light: whether the beam is on the sample, and how to change that."""

from __future__ import annotations

from PyQt5.QtWidgets import QHBoxLayout, QLabel

from app.gui.theme import DARK, GAP, Theme
from app.gui.widgets import Panel, button, heading
from app.live import orders
from app.live.owner import DeviceOwner
from app.live.state import BenchState, Health, Kind
from drivers.base import LightState


class LightPanel(Panel):
    """See above.

    Args:
        owner: takes the orders.
    """

    title = "Light"
    _theme = DARK

    def __init__(self, owner: DeviceOwner):
        super().__init__()
        self._owner = owner
        self.state = QLabel()
        self.open = button("Let through", "Let the beam through (Ctrl+B)", lambda: owner.give(orders.light(True)))
        self.block = button("Block", "Block the beam (Ctrl+B)", lambda: owner.give(orders.light(False)))
        row = QHBoxLayout(self)
        row.setContentsMargins(0, GAP // 2, 0, 0)
        row.addWidget(heading("Beam"))
        row.addWidget(self.state)
        row.addStretch()
        row.addWidget(self.open)
        row.addWidget(self.block)
        self._state = LightState.UNKNOWN

    def switch(self) -> None:
        """Whatever it is not."""
        wanted = self.block if self._state is LightState.OPEN else self.open
        if wanted.isEnabled():
            wanted.click()

    def restyle(self, theme: Theme) -> None:
        self._theme = theme

    def refresh(self, bench: BenchState, age_s: float) -> None:
        beam = bench.beam
        self._state = beam.state
        there = beam.device.health is Health.CONNECTED
        ready = there and bench.idle and bench.kind is not Kind.REPLAY
        self.open.setEnabled(ready and beam.state is not LightState.OPEN)
        self.block.setEnabled(ready and beam.state is not LightState.BLOCKED)
        words = {
            LightState.OPEN: (self._theme.warn, "● on the sample"),
            LightState.BLOCKED: (self._theme.faint, "○ blocked"),
            LightState.UNKNOWN: (self._theme.faint, "? nobody has said"),
        }
        colour, text = words[beam.state] if there else (self._theme.faint, beam.device.words)
        hand = ", by hand" if there and beam.by_hand else ""
        self.state.setText(f'<span style="color:{colour}">{text}</span>{hand}')
