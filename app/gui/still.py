"""Fields that the mouse wheel scrolls past: on its way over a form it must not change what will be measured."""

from __future__ import annotations

from typing import Any

from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import QComboBox, QDoubleSpinBox, QSpinBox


class Still:
    """Leaves the wheel to whatever scrolls, with or without the focus, which the wheel does not give either."""

    def wheelEvent(self, event: Any) -> None:
        event.ignore()


class StillSpinBox(Still, QSpinBox):
    """A whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.StrongFocus)


class StillDoubleSpinBox(Still, QDoubleSpinBox):
    """A number."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.StrongFocus)


class StillComboBox(Still, QComboBox):
    """A choice."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.StrongFocus)
