"""The guided alignment: plan, confirm, result, and nothing written before somebody says so."""

from __future__ import annotations

from app.bench import align as measurement
from app.bench.align import AlignError
from app.live import alignment
from tests.gui.rigs import Desk


def planned(desk: Desk) -> None:
    desk.window.show_panel("align")
    desk.click(desk.window.align.plan)
    desk.until(desk.window.align.confirm.isVisible)


def test_the_plan_lists_the_moves_and_moves_nothing(at_desk):
    at_desk.connect()
    planned(at_desk)
    words = at_desk.window.align.moves.text()
    assert "moves: home both axes" in words
    assert "15 places each along y and x, 50 um apart" in words
    at_desk.click(at_desk.window.align.confirm.no)
    assert at_desk.stage.motions == []


def test_a_start_outside_the_limits_is_refused_before_anything_is_asked(at_desk):
    at_desk.connect()
    at_desk.window.align.y.setValue(24.4e-3)
    at_desk.click(at_desk.window.align.plan)
    at_desk.until(lambda: "is outside 0.0005 .. 0.0245 m" in at_desk.messages())
    assert not at_desk.window.align.confirm.isVisible()


def test_a_failure_is_told_and_the_stage_is_stopped(at_desk, monkeypatch):
    def fails(session, start, now):
        raise AlignError("no edge of the sample is in the beam; bring one there")

    monkeypatch.setattr(alignment, "align", fails)
    at_desk.connect()
    planned(at_desk)
    at_desk.click(at_desk.window.align.confirm.yes)
    at_desk.until(lambda: "no edge of the sample" in at_desk.messages())
    at_desk.until(lambda: at_desk.bench.idle)
    assert at_desk.stage.motions == ["home"]
    assert at_desk.stage.stops == ["devices"]
    assert at_desk.window.align.result is None


def test_a_measured_alignment_is_shown_and_written_only_when_wished(at_desk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Fewer places and no second look: how good it is, is for the tests of the measurement.
    monkeypatch.setattr(measurement, "STEPS", 3)
    monkeypatch.setattr(measurement, "SECOND_LOOKS", 0)
    at_desk.connect()
    planned(at_desk)
    align, file = at_desk.window.align, tmp_path / "characterisation.toml"
    at_desk.click(align.confirm.yes)
    at_desk.until(lambda: align.result is not None)
    assert "rotation" in align.values.text()
    at_desk.click(align.keep)
    at_desk.click(align.confirm.no)
    assert not file.exists()
    at_desk.click(align.keep)
    at_desk.click(align.confirm.yes)
    assert "[alignment]" in file.read_text()
