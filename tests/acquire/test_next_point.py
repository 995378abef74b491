"""A low-dose scan whose next point is chosen on the way: the real runner, the real file, the tiny bench."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from app.acquire.observer import Enough, RunState
from app.acquire.plan import Plan, Stream
from app.acquire.planning import make_low_dose_plan
from app.acquire.scan import Scan
from app.profile import load_profile
from app.replaying import Recorded
from app.worker.book import RunBook
from app.worker.source import RecordedSource
from recon.dataset import DatasetError
from recon.files import schema
from recon.files.read import open_run
from recon.files.results import StoredCalibration, store_calibration
from recon.files.write import RunWriter
from tests.files.compare import assert_same_measurement

TINY = load_profile("tiny")
PASSES = 3


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a calibration that nobody has to wait for."""
    path = tmp_path_factory.mktemp("bright") / "bright.h5"
    scan = Scan.new(TINY, path, 0)
    with scan.devices:
        scan.runner().run()
    with open_run(path) as run:
        data = run.ptychogram(1)
    probe, pixel = np.full((32, 32), 30, np.complex64), data.geometry.pixel_size_m
    store_calibration(
        path, StoredCalibration(probe, pixel, probe, pixel, 0.02, data.positions_m, np.ones(1), {"window_px": 64}, {})
    )
    return path


def _scan(bright: Path, path: Path) -> Scan:
    return Scan.low_dose(TINY, path, bright, 0, passes=PASSES)


def _farthest(step: int, points: tuple[int, ...]) -> int:
    """The largest index of those to come: its visits come first, then those of the next smaller one."""
    return max(points)


def _carried_out(scan: Scan, choose: Callable[[int, tuple[int, ...]], int | None] = _farthest) -> RunState:
    with scan.devices:
        return scan.runner(next_point=choose).run()


def _visits(plan: Plan) -> list[int]:
    return [step.position_index for step in plan.visits_from(0)]


def _chosen(plan: Plan) -> list[int]:
    """Where `_farthest` goes: the plan's first point, then the largest index as often as it is planned, and so on."""
    first, *rest = _visits(plan)
    return [first, *sorted(rest, reverse=True)]


def _read(path: Path) -> tuple[list[int], Plan]:
    """The points of entry 2 in the order in which their frames were taken, and the plan."""
    with open_run(path) as run:
        return run.ptychogram(2).indices.tolist(), Plan.from_json(run.plan_json)


def test_visits_come_in_the_order_that_was_chosen_and_the_file_says_so(bright: Path, tmp_path: Path) -> None:
    asked: list[tuple[int, ...]] = []

    def choose(step: int, points: tuple[int, ...]) -> int:
        asked.append(points)
        return _farthest(step, points)

    scan = _scan(bright, tmp_path / "low.h5")
    assert _carried_out(scan, choose) is RunState.COMPLETED
    wanted = _chosen(scan.plan)
    assert wanted != _visits(scan.plan)
    points, plan = _read(scan.path)
    assert points == wanted
    assert _visits(plan) == wanted
    # Every visit is made once, with its whole series, and no other step has moved.
    assert sorted(wanted) == sorted(_visits(scan.plan))
    series = [step.exposure_s for step in plan.steps if step.stream is Stream.EVALUATION]
    assert series == list(TINY.scan.evaluation_exposures_s) * len(wanted)
    first = plan.visits_from(0)[0].number
    assert plan.steps[:first] == scan.plan.steps[:first]
    # Asked before each visit but the first one, with all that are still to come.
    assert [sorted(points) for points in asked] == [sorted(wanted[k:]) for k in range(1, len(wanted))]
    with h5py.File(scan.path) as file:
        text = bytes(file[f"entry_1/{schema.PLAN}"][()]).decode()
    # The plan itself is not rewritten.
    assert text == scan.plan.to_json()


def test_it_is_the_run_of_a_plan_in_that_order(bright: Path, tmp_path: Path) -> None:
    scan = _scan(bright, tmp_path / "chosen.h5")
    _carried_out(scan)
    plan = _read(scan.path)[1]
    other = replace(_scan(bright, tmp_path / "planned.h5"), plan=plan)
    with other.devices:
        other.runner().run()
    for path in (scan.path, other.path):
        with h5py.File(path, "r+") as file:
            # The two differ in how they say it.
            del file[f"entry_1/{schema.PLAN}"], file[f"entry_1/{schema.ORDER}"]
    assert_same_measurement(scan.path, other.path)


def test_nobody_who_chooses_leaves_the_plan_as_it_is(bright: Path, tmp_path: Path) -> None:
    scan, other = _scan(bright, tmp_path / "none.h5"), _scan(bright, tmp_path / "plain.h5")
    _carried_out(scan, lambda step, points: None if step % 4 else points[0])
    with other.devices:
        other.runner().run()
    with open_run(scan.path) as run:
        assert run.plan_json == scan.plan.to_json()
    assert_same_measurement(scan.path, other.path)


@pytest.mark.parametrize("inside", [False, True])
def test_an_interrupted_run_goes_on_in_the_order_that_it_had(bright: Path, tmp_path: Path, inside: bool) -> None:
    whole = _scan(bright, tmp_path / "whole.h5")
    _carried_out(whole)
    scan = _scan(bright, tmp_path / "low.h5")
    runner = scan.runner(next_point=_farthest)
    # The fifth visit of nine: between points, or in the middle of its series.
    stop = _read(whole.path)[1].visits_from(0)[4].number + inside
    seed = scan.devices.seed_frame
    assert seed is not None

    def seed_frame(code: int, index: int) -> None:
        seed(code, index)
        if index // 2**20 % 2**24 == stop:
            runner.abort()

    object.__setattr__(scan.devices, "seed_frame", seed_frame)
    with scan.devices:
        assert runner.run() is RunState.ABORTED
    points, plan = _read(scan.path)
    assert points == _chosen(scan.plan)[: 5 if inside else 4]
    # What was chosen is kept; what was not yet asked for is in the plan's order.
    assert _visits(plan)[:5] == _chosen(scan.plan)[:5]
    rest = Scan.interrupted(scan.path)
    assert rest.plan == plan
    assert _carried_out(rest) is RunState.COMPLETED
    assert _read(scan.path)[0] == _chosen(scan.plan)
    assert _visits(_read(scan.path)[1]) == _chosen(scan.plan)
    with open_run(scan.path) as run:
        assert [revision.point for revision in run.revisions] == ([_chosen(scan.plan)[4]] if inside else [])
    if not inside:
        assert_same_measurement(scan.path, whole.path)


def test_a_point_that_is_not_to_come_fails_the_run_and_nothing_moves(bright: Path, tmp_path: Path) -> None:
    scan = _scan(bright, tmp_path / "low.h5")
    elsewhere = next(k for k in range(len(scan.plan.positions_m)) if k not in scan.plan.evaluation_indices)
    with pytest.raises(ValueError, match=f"point {elsewhere} is not among those that its plan still visits"):
        _carried_out(scan, lambda step, points: elsewhere)
    points, plan = _read(scan.path)
    assert points == _visits(scan.plan)[:1]
    with open_run(scan.path) as run:
        assert run.outcome == "failed"
    # All that was asked of the stage were planned targets, or their approaches.
    assert plan == scan.plan
    assert _carried_out(Scan.interrupted(scan.path)) is RunState.COMPLETED


def test_after_a_stop_while_the_next_point_is_chosen_nothing_moves(bright: Path, tmp_path: Path) -> None:
    scan = _scan(bright, tmp_path / "low.h5")
    moves: list[Any] = []
    runner = scan.runner()

    def choose(step: int, points: tuple[int, ...]) -> int:
        runner.abort()
        stage, original = scan.devices.stage, scan.devices.stage.move_to
        stage.move_to = lambda *where: moves.append(where) or original(*where)  # type: ignore[method-assign]
        return max(points)

    runner._next_point = choose
    with scan.devices:
        assert runner.run() is RunState.ABORTED
    assert moves == []


def test_enough_light_is_asked_first_and_ends_it(bright: Path, tmp_path: Path) -> None:
    scan, asked = _scan(bright, tmp_path / "low.h5"), []

    def choose(step: int, points: tuple[int, ...]) -> int:
        asked.append(step)
        return _farthest(step, points)

    with scan.devices:
        enough = scan.plan.visits_from(0)[2].number
        scan.runner(enough=lambda step: Enough(0.0, "good") if step >= enough else None, next_point=choose).run()
    assert len(asked) == 1
    assert _read(scan.path)[0] == _chosen(scan.plan)[:2]


def test_replay_and_worker_see_the_points_that_were_visited(bright: Path, tmp_path: Path) -> None:
    scan = _scan(bright, tmp_path / "low.h5")
    _carried_out(scan)
    points, plan = _read(scan.path)
    recorded = Recorded.open(scan.path)
    try:
        assert _visits(recorded.plan) == points
        targets = [step.target for step in plan.visits_from(0)]
        seen = [recorded.moments[k].commanded for k in range(len(recorded.moments))]
        assert list(dict.fromkeys(seen))[-len(set(targets)) :] == list(dict.fromkeys(targets))
    finally:
        recorded.close()
    source = RecordedSource(scan.path)
    exposure = TINY.scan.evaluation_exposures_s[0]
    # The worker knows the plan as it was when the run began.
    book = RunBook(replace(source.begin, plan=scan.plan.to_json()))
    for held in (RunBook(source.begin), book):
        for frame in source.frames(source.order):
            assert held.add(frame)
        for dark in plan.exposures_s:
            told = source.darks(dark)
            assert told is not None
            held.add_darks(told)
        data = held.ptychogram(held.evaluation(exposure), "evaluation")
        assert data.indices.tolist() == points
        with open_run(scan.path) as run:
            assert np.array_equal(data.positions_m, run.ptychogram(2).positions_m)
    frame = source.frames(source.order[-1:])[0]
    outside = next(k for k in range(len(plan.positions_m)) if k not in plan.evaluation_indices)
    with pytest.raises(DatasetError, match="is not in its plan"):
        book.add(replace(frame, position_index=outside))


def test_a_point_is_taken_again_where_it_was_visited_last(bright: Path, tmp_path: Path) -> None:
    scan = _scan(bright, tmp_path / "low.h5")
    _carried_out(scan)
    points, plan = _read(scan.path)
    point = max(points)
    assert points.index(point) == 1
    again = replace(Scan.interrupted(scan.path), retaken=point)
    with again.devices:
        assert again.runner().run() is RunState.COMPLETED
    with open_run(scan.path) as run:
        (revision,) = run.revisions
        assert revision.superseded == ((2, PASSES), (3, PASSES))
    last = max(k for k, other in enumerate(points) if other == point)
    assert last == PASSES
    assert [step.position_index for step in plan.last_visit(point)] == [point] * 2


def test_a_plan_brings_whole_visits_forward() -> None:
    plan = make_low_dose_plan(TINY, passes=2)
    visits = plan.visits_from(0)
    moved, order = plan.brought_forward(visits[1].number, visits[4].number)
    points = _visits(plan)
    assert _visits(moved) == [points[k] for k in (0, 4, 1, 2, 3, 5)]
    assert [step.number for step in moved.steps] == list(range(len(plan.steps)))
    assert [replace(step, number=0) for step in moved.steps] == [replace(plan.steps[k], number=0) for k in order]
    assert plan.brought_forward(visits[2].number, visits[2].number)[0] == plan
    for number, first in (
        (visits[2].number, visits[1].number),
        (visits[1].number, visits[2].number + 1),
        (0, len(plan.steps)),
        (0, 0),
    ):
        with pytest.raises(ValueError, match=f"no visit begins at step {first}"):
            plan.brought_forward(number, first)


def test_two_visits_to_a_point_in_a_row_are_two() -> None:
    plan = make_low_dose_plan(TINY, passes=2)
    visits = plan.visits_from(0)
    same = next(step for step in visits[1:] if step.position_index == visits[0].position_index)
    moved, _ = plan.brought_forward(visits[1].number, same.number)
    assert _visits(moved)[:2] == [visits[0].position_index] * 2
    assert moved.longest_visit == plan.longest_visit
    assert moved.start_of_visit(visits[1].number) == visits[1].number


def test_what_is_committed_does_not_change_places_and_a_bright_run_has_no_order(bright: Path, tmp_path: Path) -> None:
    scan = _scan(bright, tmp_path / "low.h5")
    _carried_out(scan)
    count = len(scan.plan.steps)
    for path in (scan.path, bright):
        with (
            RunWriter.resume(path, scan.devices.clock) as writer,
            pytest.raises(DatasetError, match="its steps cannot change places"),
        ):
            writer.reorder([*range(count - 2), count - 1, count - 2])


def test_a_damaged_order_is_told_of(bright: Path, tmp_path: Path) -> None:
    scan = _scan(bright, tmp_path / "low.h5")
    _carried_out(scan)
    with h5py.File(scan.path, "r+") as file:
        order = file[f"entry_1/{schema.ORDER}"]
        order[-1] = order[-2]
    with open_run(scan.path) as run, pytest.raises(DatasetError, match="the order of its plan's steps is damaged"):
        json.loads(run.plan_json)
