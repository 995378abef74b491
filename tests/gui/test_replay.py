"""A recorded run in the window: the same frames and positions as the run, at any speed, and nothing can move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.acquire.observer import RunState
from app.acquire.scan import Label, Scan
from app.live.state import Health, Kind
from app.profile import load_profile
from drivers.base import LightState
from recon.files.read import open_run
from tests.gui.rigs import Desk


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "run.h5"
    scan = Scan.new(load_profile("tiny"), path, 5, label=Label("slide 7", ""))
    with scan.devices:
        assert scan.runner().run() is RunState.COMPLETED
    return path


def opened(desk: Desk, path: Path) -> None:
    desk.window.open_recording(path)
    desk.until(lambda: desk.bench.kind is Kind.REPLAY and desk.bench.idle)
    desk.until(lambda: desk.bench.run is not None)


def test_the_window_says_that_it_is_a_replay_and_offers_no_motion(at_desk, recorded):
    opened(at_desk, recorded)
    window = at_desk.window
    at_desk.until(lambda: window.windowTitle().endswith("run.h5  –  REPLAY"))
    at_desk.until(lambda: window.docks["replay"].isVisible())
    assert window.top.lamps["stage"].health is Health.CONNECTED
    stage, light, scan = window.stage, window.light, window.scan
    for widget in (
        *stage.pad.arrows.values(),
        *(stage.home, stage.go, stage.park, stage.load, stage.centre),
        *(light.open, light.block),
        *(scan.begin, scan.resume, scan.again),
        *(window.align.plan, window.camera.exposure, window.camera.live),
    ):
        assert not widget.isEnabled()


def test_stepping_shows_the_frames_and_positions_of_the_run(at_desk, recorded):
    opened(at_desk, recorded)
    window, own = at_desk.window, at_desk.window.owner.replay.recorded
    with open_run(recorded) as run:
        raw = {entry: run.raw(entry) for entry in range(1, run.entries + 1)}
        places = {entry: run.commanded_m(entry) for entry in range(1, run.entries + 1)}
    assert len(own.moments) == sum(len(frames) for frames in raw.values()) + 1
    for number, (entry, index) in enumerate(own._places):

        def shown(number=number) -> bool:
            view = window.camera._view
            return view is not None and view.look.number == number and at_desk.bench.run.done == number + 1

        at_desk.until(shown)
        image = window.camera._view.look.exposure.image
        if entry:
            np.testing.assert_array_equal(image, raw[entry][index])
            here = at_desk.bench.stage.position
            assert np.abs(np.array(here.as_tuple()) - places[entry][index]).max() < 1e-9
        assert at_desk.bench.beam.state is LightState.OPEN
        assert at_desk.bench.run.step == own.step_of(number)
        window.replay.on.click()


def test_it_plays_to_the_end_at_any_speed_and_scrubs(at_desk, recorded):
    opened(at_desk, recorded)
    panel, head = at_desk.window.replay, at_desk.window.owner.replay.playhead
    panel.speed.setCurrentText("200 x")
    assert head.speed == 200.0
    at_desk.click(panel.play)
    at_desk.until(lambda: head.number == head.count - 1)
    at_desk.until(lambda: panel.play.text() == "Play")
    at_desk.until(lambda: "frame 16 of 16" in panel.words.text())
    assert "slide 7" in panel.about.text()
    panel.slider.setValue(4)
    assert head.number == 4
    at_desk.until(lambda: at_desk.bench.run.done == 5)
    at_desk.click(panel.back)
    assert head.number == 3
    at_desk.click(panel.first)
    assert head.number == 0


def test_the_map_shows_how_far_the_recorded_scan_was(at_desk, recorded):
    opened(at_desk, recorded)
    window, head = at_desk.window, at_desk.window.owner.replay.playhead
    head.seek(head.count - 1)
    last = at_desk.window.owner.replay.recorded.step_of(head.count - 1).position_index
    at_desk.until(lambda: window.scan.map._current == last)
    assert len(window.scan.map._done) == 8


def test_from_a_replay_to_a_bench_and_back(at_desk, recorded):
    opened(at_desk, recorded)
    at_desk.connect()
    assert at_desk.bench.kind is Kind.SIMULATED
    at_desk.until(at_desk.window.stage.home.isEnabled)
    opened(at_desk, recorded)
    at_desk.until(lambda: not at_desk.window.stage.home.isEnabled())


def test_what_is_no_run_is_a_message(at_desk, tmp_path):
    path = tmp_path / "nothing.h5"
    path.write_bytes(b"nothing")
    at_desk.window.open_recording(path)
    at_desk.until(lambda: "not a readable HDF5 file" in at_desk.messages())
