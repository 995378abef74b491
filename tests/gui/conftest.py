"""The window of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gui.rigs import Desk, desk


@pytest.fixture
def at_desk(qtbot, tmp_path: Path) -> Iterator[Desk]:
    """An open window without a bench."""
    with desk(qtbot, tmp_path) as made:
        yield made
