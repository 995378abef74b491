"""A whole scan by clicks, paused, aborted and resumed, over the real runner and simulated devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.acquire.observer import RunState
from app.acquire.scan import Scan
from app.live.state import Doing
from app.profile import PROFILES, load_profile
from recon.files.read import open_run
from tests.files.compare import assert_same_measurement
from tests.gui.rigs import Desk


def run_to_the_end(desk: Desk) -> None:
    desk.until(lambda: desk.bench.run is not None and not desk.bench.run.running and desk.bench.idle)


def test_a_whole_scan_driven_by_clicks_is_the_scan_of_the_command_line(at_desk, tmp_path):
    at_desk.connect(seed=3)
    at_desk.ready_to_scan(tmp_path / "run.h5")
    at_desk.bot.keyClicks(at_desk.window.scan.form.sample, "digit on glass")
    at_desk.bot.keyClicks(at_desk.window.scan.form.notes, "from the window")
    at_desk.start_scan()
    at_desk.until(lambda: at_desk.bench.run is not None)
    run_to_the_end(at_desk)
    assert at_desk.bench.run.state is RunState.COMPLETED
    other = Scan.new(load_profile("tiny"), tmp_path / "other.h5", 3)
    with other.devices:
        other.runner().run()
    with open_run(tmp_path / "run.h5") as run, open_run(tmp_path / "other.h5") as reference:
        assert run.outcome == "completed"
        assert (run.sample_name, run.notes) == ("digit on glass", "from the window")
        for entry in range(1, run.entries + 1):
            np.testing.assert_array_equal(run.raw(entry), reference.raw(entry))
            np.testing.assert_array_equal(run.commanded_m(entry), reference.commanded_m(entry))


def test_pause_holds_the_scan_and_continue_completes_it(at_desk, tmp_path):
    at_desk.connect(speed=30.0)
    at_desk.ready_to_scan(tmp_path / "run.h5")
    scan = at_desk.window.scan
    at_desk.start_scan()
    at_desk.until(lambda: at_desk.bench.run is not None and at_desk.bench.run.done > 0)
    at_desk.click(scan.pause)
    at_desk.until(lambda: at_desk.bench.run.state is RunState.PAUSED)
    at_desk.until(lambda: scan.pause.text() == "Continue")
    plan, lock = at_desk.bench.run.plan, at_desk.window.owner._runner._wake

    def all_written() -> bool:
        step = at_desk.bench.run.step
        return at_desk.bench.run.done == sum(one.repeats for one in plan.steps[: step.number + 1])

    at_desk.until(all_written)
    held, age = at_desk.bench.run.done, at_desk.window.owner.watched.bench.newest().number
    # While it is paused the devices are still looked at, and whoever pauses or aborts need not wait for that.
    at_desk.until(lambda: at_desk.window.owner.watched.bench.newest().number > age + 3)
    assert lock.acquire(timeout=5)
    lock.release()
    assert at_desk.bench.run.done - held <= 1
    assert at_desk.bench.run.state is RunState.PAUSED
    at_desk.click(scan.pause)
    run_to_the_end(at_desk)
    assert at_desk.bench.run.state is RunState.COMPLETED


def test_an_aborted_scan_is_resumed_and_is_the_same_measurement(at_desk, tmp_path):
    at_desk.connect(speed=30.0)
    at_desk.ready_to_scan(tmp_path / "run.h5")
    scan = at_desk.window.scan
    at_desk.start_scan()
    # In the darks: no visit to a point is interrupted, so that the rest must be equal to the last bit.
    at_desk.until(lambda: at_desk.bench.run is not None and at_desk.bench.run.done > 0)
    at_desk.click(scan.abort)
    run_to_the_end(at_desk)
    assert at_desk.bench.run.state is RunState.ABORTED
    assert "can be resumed" in at_desk.messages()
    done = at_desk.bench.run.done
    scan.resume_run(tmp_path / "run.h5")
    at_desk.click(scan.confirm.yes)
    at_desk.until(lambda: at_desk.bench.run.done > done)
    run_to_the_end(at_desk)
    assert at_desk.bench.run.state is RunState.COMPLETED
    other = Scan.new(load_profile("tiny"), tmp_path / "other.h5", 0)
    with other.devices:
        other.runner().run()
    assert_same_measurement(tmp_path / "run.h5", tmp_path / "other.h5", other_visits=True)


def test_points_are_taken_again_by_clicking_them(at_desk, tmp_path):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    scan = at_desk.window.scan
    at_desk.start_scan()
    at_desk.until(lambda: at_desk.bench.run is not None)
    run_to_the_end(at_desk)
    point = next(spot for spot in scan.map.dots.points() if spot.data() == 4)
    scan.map.dots.sigClicked.emit(scan.map.dots, [point], None)
    assert scan.map.selected == {4}
    at_desk.click(scan.again)
    at_desk.click(scan.confirm.yes)
    at_desk.until(lambda: "point 4 taken again, completed" in at_desk.messages())
    at_desk.until(lambda: at_desk.bench.idle)
    with open_run(tmp_path / "run.h5") as run:
        assert [revision.point for revision in run.revisions] == [4]


def test_a_request_that_makes_no_sense_is_told_and_cannot_be_started(at_desk, tmp_path):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    scan = at_desk.window.scan
    scan.form.series.clear()
    at_desk.bot.keyClicks(scan.form.series, "3ms, hello")
    at_desk.until(lambda: "no exposure" in scan.findings.item(0).text())
    assert not scan.begin.isEnabled()
    scan.form.series.clear()
    at_desk.bot.keyClicks(scan.form.series, "0.3ms, 3000 s")
    at_desk.until(lambda: "is outside" in scan.findings.item(0).text())
    assert not scan.begin.isEnabled()


def test_numbers_of_the_form_make_the_plan(at_desk, tmp_path):
    at_desk.connect()
    at_desk.ready_to_scan(tmp_path / "run.h5")
    form = at_desk.window.scan.form
    form.positions.setValue(5)
    form.evaluation.setValue(1)
    at_desk.until(lambda: len(at_desk.window.scan.map.dots.points()) == 5)
    request = form.request()
    assert request.profile.scan.positions == 5
    assert request.profile.scan.evaluation_exposures_s == load_profile("tiny").scan.evaluation_exposures_s


def test_a_second_scan_is_refused_while_one_runs(at_desk, tmp_path):
    at_desk.connect(speed=30.0)
    at_desk.ready_to_scan(tmp_path / "run.h5")
    at_desk.start_scan()
    at_desk.until(lambda: at_desk.bench.activity.doing is Doing.SCANNING)
    at_desk.until(lambda: not at_desk.window.scan.begin.isEnabled())
    from app.live import orders

    assert not at_desk.window.owner.give(orders.jog(1e-6, 0.0))
    assert "not now, scan is under way" in at_desk.messages()
    at_desk.click(at_desk.window.scan.abort)
    run_to_the_end(at_desk)


@pytest.mark.parametrize("name", ["completed", "not a run"])
def test_what_cannot_be_resumed_says_so(at_desk, tmp_path, name):
    at_desk.connect()
    path = tmp_path / "run.h5"
    if name == "completed":
        scan = Scan.new(load_profile("tiny"), path, 7)
        with scan.devices:
            scan.runner().run()
    else:
        path.write_text("hello")
    at_desk.window.scan.resume_run(path)
    at_desk.click(at_desk.window.scan.confirm.yes)
    words = "was begun with seed 7" if name == "completed" else "not a readable HDF5 file"
    at_desk.until(lambda: words in at_desk.messages())
    at_desk.until(at_desk.window.notices.banner.isVisible)


def manual_light(folder: Path) -> str:
    """`tiny` with the beam in a person's hands."""
    path = folder / "manual.toml"
    text = (PROFILES / "tiny.toml").read_text()
    path.write_text(text.replace('[light]\ndriver = "simulated"', '[light]\ndriver = "manual"'))
    return str(path)


def test_a_person_who_holds_the_shutter_is_asked_in_the_window(at_desk, tmp_path):
    at_desk.connect(profile=manual_light(tmp_path))
    at_desk.ready_to_scan(tmp_path / "run.h5")
    confirm = at_desk.window.notices.confirm
    at_desk.start_scan()
    at_desk.until(confirm.isVisible)
    assert "block the beam" in confirm.words
    at_desk.click(confirm.yes)
    at_desk.until(lambda: confirm.isVisible() and "let the beam through" in confirm.words)
    at_desk.click(confirm.yes)
    run_to_the_end(at_desk)
    assert at_desk.bench.run.state is RunState.COMPLETED


def test_an_abort_ends_the_question(at_desk, tmp_path):
    at_desk.connect(profile=manual_light(tmp_path))
    at_desk.ready_to_scan(tmp_path / "run.h5")
    at_desk.start_scan()
    at_desk.until(at_desk.window.notices.confirm.isVisible)
    at_desk.click(at_desk.window.scan.abort)
    run_to_the_end(at_desk)
    assert at_desk.bench.run.state is RunState.ABORTED
    at_desk.until(lambda: not at_desk.window.notices.confirm.isVisible())


def test_a_beam_that_nobody_blocked_is_told(at_desk, tmp_path):
    at_desk.connect(profile=manual_light(tmp_path))
    at_desk.ready_to_scan(tmp_path / "run.h5")
    at_desk.start_scan()
    at_desk.until(at_desk.window.notices.confirm.isVisible)
    at_desk.click(at_desk.window.notices.confirm.no)
    run_to_the_end(at_desk)
    assert at_desk.bench.run.state is RunState.FAILED
    assert "was not confirmed" in at_desk.messages()
