"""STOP: a button and the Esc key that work whatever the window is busy with or asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from PyQt5.QtCore import QEvent, QObject, Qt
from PyQt5.QtWidgets import QApplication, QPushButton

ONCE_S = 0.1
"""One press of a key reaches several widgets; it counts once for the message, though every time for the stage."""


class StopButton(QPushButton):
    """The red one; it acts when it is pressed, not when it is let go."""

    def __init__(self, stop: Callable[[], object]):
        super().__init__("STOP   Esc")
        self.setObjectName("stop")
        self.setToolTip("Stop the stage now and abort the scan, which can be resumed (Esc, always)")
        self.setAccessibleName("Stop")
        self.setMinimumWidth(140)
        self.setFocusPolicy(Qt.TabFocus)
        self.pressed.connect(lambda: stop())


class EscapeStops(QObject):
    """Hears Esc before anybody else does, in every window and dialog of the program, and passes it on.

    Args:
        app: the program.
        stop: what to do.
    """

    def __init__(self, app: QApplication, stop: Callable[[], object]):
        super().__init__()
        self._app = app
        self._stop = stop
        self._last = -ONCE_S
        app.installEventFilter(self)

    def remove(self) -> None:
        self._app.removeEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        if event.type() in (QEvent.KeyPress, QEvent.ShortcutOverride) and event.key() == Qt.Key_Escape:
            now = time.monotonic()
            if now - self._last >= ONCE_S:
                self._last = now
                self._stop()
        return False
