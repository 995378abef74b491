"""What a panel from elsewhere has to be to find its place in the window: a live reconstruction, for instance."""

from __future__ import annotations

from typing import Protocol

from PyQt5.QtWidgets import QWidget

from app.gui.theme import Theme
from app.live.owner import DeviceOwner
from app.live.state import BenchState


class GuestPanel(Protocol):
    """A panel that the window gives a dock of its own.

    In `join` it puts an `app.live.order.RunListener` among the owner's listeners to follow runs; in `refresh` it shows
    what its own slots hold by then. It never reads a run's file while that is being written and makes no device call.
    """

    title: str
    """Of its dock."""

    @property
    def widget(self) -> QWidget: ...

    def join(self, owner: DeviceOwner) -> None:
        """The window is there: follow its runs."""
        ...

    def refresh(self, bench: BenchState, age_s: float) -> None:
        """Thirty times a second, in the window's thread: a few milliseconds at most."""
        ...

    def restyle(self, theme: Theme) -> None:
        """Take these colours."""
        ...

    def close(self) -> object:
        """The window closes: let go of processes and threads, without waiting for them."""
        ...
