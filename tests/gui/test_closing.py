"""Closing the window: in mid-scan it asks, stops the stage and leaves a run that can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PyQt5.QtCore import Qt

from app.acquire.observer import RunState
from app.acquire.scan import Scan
from app.gui import settings
from app.gui.window import Window
from app.live.state import Doing
from recon.files.read import open_run
from tests.gui.rigs import SLOW, Desk


def scanning(desk: Desk, path) -> None:
    desk.connect(30.0)
    desk.ready_to_scan(path)
    desk.start_scan()
    desk.until(lambda: desk.bench.run is not None and desk.bench.run.done > 3)


def test_closing_in_mid_scan_asks_and_no_goes_on(at_desk, tmp_path):
    scanning(at_desk, tmp_path / "run.h5")
    assert not at_desk.window.close()
    confirm = at_desk.window.notices.closing
    assert "A scan is running" in confirm.words
    at_desk.click(confirm.no)
    done = at_desk.bench.run.done
    at_desk.until(lambda: at_desk.bench.run.done > done)
    assert at_desk.window.isVisible()


def test_closing_in_mid_scan_stops_the_stage_and_leaves_a_run_that_can_be_resumed(at_desk, tmp_path):
    path = tmp_path / "run.h5"
    scanning(at_desk, path)
    at_desk.window.close()
    at_desk.click(at_desk.window.notices.closing.yes)
    at_desk.until(lambda: not at_desk.window.isVisible())
    assert "MainThread" in at_desk.stage.stops
    assert not at_desk.window.owner.alive
    with open_run(path) as run:
        assert run.outcome == "aborted"
    rest = Scan.interrupted(path)
    with rest.devices:
        rest.runner().run()
    with open_run(path) as run:
        assert run.outcome == "completed"


def test_closing_and_staying_answers_no_question_about_the_light(at_desk, tmp_path):
    at_desk.connect(by_hand=True)
    at_desk.ready_to_scan(tmp_path / "run.h5")
    notices = at_desk.window.notices
    at_desk.click(at_desk.window.scan.begin)
    at_desk.until(notices.confirm.isVisible)
    question = at_desk.window.owner.question.asked
    at_desk.window.close()
    at_desk.until(notices.closing.isVisible)
    at_desk.click(notices.closing.no)
    assert at_desk.window.owner.question.asked is question
    assert notices.confirm.isVisible()
    while_light_is_blocked(at_desk)
    assert at_desk.bench.run.state is RunState.COMPLETED, at_desk.bench.run.error


def while_light_is_blocked(desk: Desk) -> None:
    """Do what the scan asks of the light, as often as it asks."""
    confirm = desk.window.notices.confirm

    def over() -> bool:
        if confirm.isVisible():
            confirm.yes.click()
        return desk.bench.run is not None and not desk.bench.run.running

    desk.until(over)


def test_closing_while_the_stage_moves_stops_it(at_desk):
    at_desk.connect(SLOW)
    at_desk.click(at_desk.window.stage.home)
    at_desk.click(at_desk.window.stage.confirm.yes)
    at_desk.until(lambda: at_desk.bench.activity.doing is Doing.MOVING and at_desk.stage.motions == ["home"])
    at_desk.window.close()
    at_desk.until(lambda: not at_desk.window.isVisible())
    assert at_desk.stage.stops


def test_what_was_chosen_is_remembered(at_desk, qtbot, tmp_path):
    window = at_desk.window
    window.set_theme("light")
    window.camera.colours.setCurrentText("viridis")
    window.stage.pad.choose_step(1e-3)
    window.leave()
    at_desk.until(lambda: not window.isVisible())
    again = Window(at_desk.clock, tmp_path / "settings.json")
    try:
        assert again.settings.theme == "light"
        assert again.camera.colours.currentText() == "viridis"
        assert again.stage.pad.step_m == 1e-3
    finally:
        again.leave()
        at_desk.until(lambda: not again.owner.alive)


def test_a_bad_settings_file_never_stops_the_start(qtbot, tmp_path, at_desk):
    path = tmp_path / "bad.json"
    contents = (
        b"\xff\xfe not text",
        b"{ not json",
        b"[1, 2]",
        json.dumps({"theme": 7, "jog_m": -3.0, "layout": "???", "geometry": "AAAA", "nonsense": 1}).encode(),
    )
    for content in contents:
        path.write_bytes(content)
        window = Window(at_desk.clock, path)
        window.show()
        messages = " ".join(message.text for message in window.journal.since(0))
        assert f"settings {path}" in messages
        assert window.settings.theme == "dark"
        window.leave()
        at_desk.until(lambda window=window: not window.isVisible() and not window.owner.alive)
        window.deleteLater()


def test_a_settings_folder_that_cannot_be_written_is_a_message(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be written" in settings.save(tmp_path / "file" / "window.json", settings.Settings())


def test_settings_that_cannot_be_written_are_told_to_who_started_the_window(at_desk, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    window = Window(at_desk.clock, tmp_path / "file" / "window.json")
    window.show()
    window.leave()
    at_desk.until(lambda: not window.isVisible() and not window.owner.alive)
    at_desk.until(lambda: window._finished)
    assert "cannot be written" in capsys.readouterr().err
    window.deleteLater()


@pytest.mark.parametrize("name", ["deep", "x" * 300, "guarded"])
def test_no_settings_file_raises(tmp_path, monkeypatch, name):
    path = tmp_path / name
    if name == "deep":
        path.write_text("[" * 200_000)
    elif name == "guarded":
        # As a folder that may not be entered answers; root may enter all.
        monkeypatch.setattr(Path, "read_text", refuse)
        monkeypatch.setattr(Path, "exists", refuse)
    found, complaint = settings.load(path)
    assert found == settings.Settings()
    assert "cannot be read" in complaint


def refuse(path: Path, *_: object, **__: object) -> str:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_settings_path_that_names_no_file_is_a_message(tmp_path):
    assert "cannot be written" in settings.save(Path("/"), settings.Settings())
    assert settings.load(tmp_path / "none") == (settings.Settings(), "")


def test_good_values_of_a_partly_bad_file_are_kept(tmp_path):
    path = tmp_path / "window.json"
    path.write_text(json.dumps({"theme": "light", "jog_m": "far", "folder": "/data"}))
    found, complaint = settings.load(path)
    assert (found.theme, found.folder, found.jog_m) == ("light", "/data", settings.Settings().jog_m)
    assert "jog_m" in complaint


def test_escape_closes_no_window(at_desk):
    at_desk.bot.keyClick(at_desk.window, Qt.Key_Escape)
    assert at_desk.window.isVisible()
