"""The program around the window: what it loads, what it refuses, signals, and errors in slots."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PyQt5.QtCore import QTimer
from typer.testing import CliRunner

from app.cli import app
from app.errors import UsageError
from app.gui import program
from app.gui.connect import Choice
from app.gui.window import Window
from app.live import orders

ROOT = Path(__file__).resolve().parents[2]


def test_the_window_never_loads_torch():
    script = "import app.gui.program, sys; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_bench_and_a_replay_at_once_are_refused():
    with pytest.raises(UsageError, match="either --profile or --replay"):
        CliRunner().invoke(
            app, ["gui", "--profile", "tiny", "--replay", "run.h5"], catch_exceptions=False, standalone_mode=False
        )


@pytest.fixture
def windows(qtbot, tmp_path, monkeypatch) -> list[Window]:
    """The windows that `run_window` makes, with settings of their own."""
    monkeypatch.setenv("PTYCHOSCOPE_SETTINGS", str(tmp_path / "settings.json"))
    made: list[Window] = []

    class Seen(Window):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(program, "Window", Seen)
    return made


def when(condition, act) -> QTimer:
    """Act once, as soon as the condition holds."""
    timer = QTimer()

    def look() -> None:
        if condition():
            timer.stop()
            act()

    timer.timeout.connect(look)
    timer.start(10)
    return timer


def test_it_runs_until_it_is_closed_and_remembers(windows, tmp_path):
    timer = when(lambda: windows and windows[0].owner.state.name == "tiny", lambda: windows[0].close())
    assert program.run_window(Choice("tiny", speed=100.0), None) == 0
    assert not timer.isActive()
    assert (tmp_path / "settings.json").is_file()


def test_sigterm_stops_the_stage_and_closes(windows):
    def terminate() -> None:
        windows[0].owner.give(orders.home())
        os.kill(os.getpid(), signal.SIGTERM)

    timer = when(lambda: windows and windows[0].owner.state.name == "tiny", terminate)
    assert program.run_window(Choice("tiny"), None) == 128 + signal.SIGTERM
    assert not timer.isActive()
    assert not windows[0].owner.alive


def test_an_error_in_a_slot_is_a_message_and_not_the_end(windows, capsys):
    def fail() -> None:
        sys.excepthook(ValueError, ValueError("a slot failed"), None)
        windows[0].close()

    timer = when(lambda: windows and windows[0].owner.state.name == "tiny", fail)
    assert program.run_window(Choice("tiny", speed=100.0), None) == 0
    assert not timer.isActive()
    assert any("a slot failed" in message.text for message in windows[0].journal.since(0))
    assert "a slot failed" in capsys.readouterr().err
