"""What a panel from elsewhere has to be to find its place in the window: a live reconstruction, for instance."""

from __future__ import annotations

from typing import Protocol

from PyQt5.QtWidgets import QWidget

from app.gui.theme import Theme
from app.live.state import BenchState


class GuestPanel(Protocol):
    """A panel that the window gives a dock of its own.

    It follows runs as an `app.live.order.RunListener` among the owner's listeners, and shows in `refresh` what its own
    slots hold by then. It never reads a run's file while that is being written and never makes a device call.
    """

    title: str
    """Of its dock."""

    @property
    def widget(self) -> QWidget: ...

    def refresh(self, bench: BenchState, age_s: float) -> None:
        """Thirty times a second, in the window's thread: a few milliseconds at most."""
        ...

    def restyle(self, theme: Theme) -> None:
        """Take these colours."""
        ...

    def close(self) -> None:
        """The window closes: let go of processes and threads, without waiting for them."""
        ...
