"""`study next`: orders of the points on the small scene, what is kept, and what is made of it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import app.studies.nextframe_study as study_module
from app.errors import Interrupted, UsageError
from app.studies.nextframe import NextAssignment, NextCase, NextShop, NextStudy, Walk
from app.studies.nextframe_curves import first_reached, order_curves
from app.studies.nextframe_study import run_next_study
from app.studies.objects import load_objects
from app.studies.scene import POINTS, StudyScene
from tests.studies.rigs import objects_file

SCENE = StudyScene.small(POINTS)
STEPS = {"spiral": 0.5, "random": 0.5, "prior": 0.7, "posterior": 1.0}
"""Decibels that an invented order gains a frame."""


def _asked(folder: Path, **changes: Any) -> NextStudy:
    plain: dict[str, Any] = {"objects": str(objects_file(folder)), "count": None, "photons": 300.0, "frames": 4}
    return NextStudy(**(plain | {"candidates": 16} | changes))


def _invented(assignment: NextAssignment, cases: list[NextCase]) -> Any:
    """Walks that take no time: so many decibels more a frame, recovered from 12 dB on."""
    for case in cases:
        gained = 10 + STEPS[case.order] * np.arange(1, case.frames + 1) + case.seed
        good = [bool(value >= 12) for value in gained]
        yield case, Walk(list(range(case.frames)), gained.tolist(), [0.05] * case.frames, good, [0.5], 0.4, 8.0)


def _run(asked: NextStudy, out: Path) -> dict[str, Any]:
    return run_next_study(asked, out, device="cpu", process_count=1, scene=SCENE)


def test_each_order_takes_the_points_that_it_says(tmp_path: Path) -> None:
    asked = _asked(tmp_path, frames=2, orders=("posterior", "spiral"), count=1)
    objects = load_objects(asked.objects, 1)
    shop = NextShop(NextAssignment(SCENE, {o.name: o for o in objects}, "mnist"))
    posterior, spiral = (shop.walk(case) for case in asked.cases(objects, SCENE, "sha"))
    assert spiral.points == [0, 6]
    assert set(posterior.points) <= set(range(0, POINTS, 6))
    # The first frame is that of the fixed order for the prior, whose first point tells most on the average.
    case = asked.cases(objects, SCENE, "sha")[0]
    known = [point for point, _ in shop._planned(case)[0].points]
    fixed = shop._fixed(replace(case, order="prior"), known, shop._planned(case)[1])
    assert fixed is not None
    assert posterior.points[0] == fixed[0]
    drawn = shop._fixed(replace(case, order="random", frames=16), known, shop._planned(case)[1])
    assert drawn is not None
    assert sorted(drawn) == known
    for walk in (posterior, spiral):
        assert len(walk.psnr32_db) == len(walk.sigma) == len(walk.recovered) == len(walk.success) == 2
        assert walk.psnr32_db[-1] > 8
        assert 0 < walk.sigma[-1] < 0.3
        assert walk.estimating_s > walk.choosing_s > 0
    # A frame at a point is the same whatever the order, and another on the next visit.
    frames = [shop._frame(replace(case, order=order), 6, 0).frames for order in ("spiral", "posterior")]
    assert np.array_equal(*frames)
    assert not np.array_equal(frames[0], shop._frame(case, 6, 1).frames)


def test_it_ends_in_a_figure_a_table_and_numbers_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, out = _asked(tmp_path), tmp_path / "out"
    monkeypatch.setattr(study_module, "walks", _invented)
    values = _run(asked, out)
    json.dumps(values, allow_nan=False)
    by_order = {curve["order"]: curve for curve in values["orders"]}
    assert by_order["posterior"]["to_target"]["mean"] == 600
    assert by_order["spiral"]["to_target"] == {"mean": 1200, "low": 1200, "high": 1200}
    assert by_order["posterior"]["saved"]["mean"] == pytest.approx(0.5)
    assert by_order["random"]["saved"]["mean"] == 0
    assert by_order["prior"]["better_db"]["mean"] == pytest.approx(0.5)
    assert by_order["spiral"]["saved"] is None
    assert (out / "next.png").read_bytes()[:4] == b"\x89PNG"
    assert len((out / "table.csv").read_text().splitlines()) == 1 + 4 * 4
    assert "saved 50%" in (out / "table.txt").read_text()
    assert len((out / "cases.jsonl").read_text().splitlines()) == 8
    monkeypatch.setattr(study_module, "walks", lambda *_: pytest.fail("a finished scan ran again"))
    assert _run(asked, out)["orders"] == values["orders"]
    # Another target is another table of the same scans.
    never = _run(replace(asked, sigma=0.01), out)["orders"]
    assert {curve["missed"] for curve in never} == {1.0}


def test_what_is_stopped_keeps_what_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(assignment: NextAssignment, cases: list[NextCase]) -> Any:
        yield from _invented(assignment, cases[:5])

    asked, out = _asked(tmp_path), tmp_path / "out"
    monkeypatch.setattr(study_module, "walks", stopped)
    with pytest.raises(Interrupted, match="5 of 8 scans are kept") as told:
        _run(asked, out)
    assert (told.value.values["cases"], told.value.values["cases_asked"]) == (5, 8)
    assert len(told.value.values["orders"]) == 4
    assert "over 1 scans" in (out / "table.txt").read_text()
    monkeypatch.setattr(study_module, "walks", _invented)
    assert _run(asked, out)["cases"] == 8
    assert "over 2 scans" in (out / "table.txt").read_text()


def test_a_target_needs_both_the_verdict_and_the_deviation() -> None:
    walk = Walk([0, 6, 12], [10, 11, 12], [0.05, 0.2, 0.05], [False, True, True], [0.1, 0.9, 0.9], 0.1, 1.0)
    assert first_reached(walk, 0.1) == 3
    assert first_reached(walk, 0.3) == 2
    assert first_reached(walk, 0.01) is None


def test_orders_are_compared_over_the_objects_that_all_have_and_seeds_are_no_objects(tmp_path: Path) -> None:
    asked = _asked(tmp_path, orders=("spiral", "posterior"), seeds=2)
    cases = asked.cases(load_objects(asked.objects, None), SCENE, "sha")
    found = list(_invented(None, cases))  # type: ignore[arg-type]
    curves = order_curves(found, 0.1)
    assert [len(curve.points) for curve in curves] == [4, 4]
    # Both objects alike: the seeds differ, and no draw of objects sees that.
    assert curves[1].to_target.low == curves[1].to_target.high
    assert [len(curve.points) for curve in order_curves(found[:-1], 0.1)] == [3, 3]
    assert order_curves([], 0.1) == []
    assert order_curves(found[:1] + found[-1:], 0.1) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"orders": ("best",)}, "--orders 'best': choose from spiral, random"),
        ({"truth": "grey"}, "--truth 'grey'"),
        ({"candidates": 20}, "--candidates 20: choose from 16, 48, 96"),
        ({"photons": 0.5}, "--photons 0.5"),
        ({"read_noise": 0.0}, "--read-noise 0"),
        ({"frames": 17}, "--frames 17: a random order has 16 points"),
        ({"sigma": 1.0}, "--sigma 1"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        _run(_asked(tmp_path, **changes), tmp_path / "out")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_settings_make_the_key(tmp_path: Path) -> None:
    case = _asked(tmp_path).cases(load_objects(_asked(tmp_path).objects, None), SCENE, "sha")[0]
    other = {"photons": 100.0, "frames": 5, "candidates": 48, "read_noise": 0.4, "seed": 1, "decoder_sha256": "other"}
    keys = {replace(case, **{name: value}).key for name, value in other.items()} | {case.key}
    assert len(keys) == len(other) + 1
    assert json.loads(json.dumps(asdict(case))) == asdict(case)
