"""Enough light in a single-trajectory scan: exposures that are not needed any more are left out, and can be taken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from app.acquire.observer import Enough, RunState, SilentObserver
from app.acquire.plan import Plan, Stream
from app.acquire.runner import Runner
from app.acquire.scan import describe
from app.replaying import Recorded
from app.runs import points_left
from app.worker.source import RecordedSource
from recon.dataset import DatasetError
from recon.files.read import open_run
from recon.files.write import RunWriter
from tests.acquire.fakes import FakeBench, small_profile
from tests.files.compare import assert_same_measurement

SERIES = (3e-4, 3e-3, 3e-2)
PROFILE = small_profile(positions=7, evaluation_positions=3, evaluation_exposures_s=SERIES)


class Judge(SilentObserver):
    """Says so at the second question; counts frames and keeps the last progress."""

    def __init__(self, from_s: float = 3e-3, at: int = 2):
        self.asked: list[int] = []
        self.progress = None
        self.frames: list[tuple[int, int]] = []
        self._from_s, self._at = from_s, at

    def frame_committed(self, frame, progress):
        self.progress = progress
        self.frames.append((frame.step.number, frame.repeat))

    def enough(self, step: int) -> Enough | None:
        self.asked.append(step)
        return Enough(self._from_s, "it is sharp") if len(self.asked) >= self._at else None


def runner(bench: FakeBench, open_writer, judge: Judge, **more) -> Runner:
    return Runner(bench.plan, bench.devices, 0.0, lambda: None, open_writer, judge, enough=judge.enough, **more)


def create(bench: FakeBench, path) -> RunWriter:
    run = describe(bench.plan, bench.profile, bench.devices, spare_visits=len(bench.plan.evaluation_indices))
    return RunWriter.create(path, run, bench.clock)


def taken(path) -> list[int]:
    with open_run(path) as run:
        return [run.committed(entry) for entry in range(1, run.entries + 1)]


@pytest.fixture
def run(tmp_path):
    """A run that left the two longer exposures out at the last of three points."""
    bench, judge, path = FakeBench(PROFILE), Judge(), tmp_path / "run.h5"
    assert runner(bench, lambda: create(bench, path), judge).run() is RunState.COMPLETED
    return bench.plan, judge, path


def visits(plan: Plan) -> list[int]:
    """Points of the series in the order in which they are visited."""
    return list(dict.fromkeys(s.position_index for s in plan.steps if s.stream is Stream.EVALUATION))


def test_longer_exposures_are_left_out_at_the_points_to_come_and_the_bright_scan_never(run):
    plan, judge, path = run
    assert taken(path) == [7, 3, 2, 2]
    # Asked before the second and the third point of the series, where the next light is spent.
    bright = {s.position_index: s.number for s in plan.steps if s.stream is Stream.CALIBRATION}
    assert judge.asked == [bright[point] for point in visits(plan)[1:]]
    assert (judge.progress.done, judge.progress.total) == (plan.frames - 2, plan.frames - 2)
    assert judge.progress.remaining_s == 0.0
    with open_run(path) as file:
        assert file.outcome == "completed"
        assert file.steps_committed == len(plan.steps)
        assert list(file.ptychogram(4).indices) == visits(plan)[:2]
        (line,) = (line for line in file.log if "enough light" in line)
        assert line.endswith(f"from step {judge.asked[1]} on without 0.003 s, 0.03 s: it is sharp")
        gone = plan.left_out(file.steps_committed, file.series_committed)
        assert [(s.position_index, s.exposure_s) for s in gone] == [(visits(plan)[2], e) for e in SERIES[1:]]
        assert points_left(file) == (visits(plan)[2],)


def test_nobody_is_asked_about_light_that_is_not_planned(tmp_path):
    bench, judge = FakeBench(PROFILE), Judge(from_s=0.0, at=1)
    runner(bench, lambda: create(bench, tmp_path / "run.h5"), judge).run()
    # With the whole series left out there is no more question, and the bright scan goes on to its end.
    assert len(judge.asked) == 1
    assert taken(tmp_path / "run.h5") == [7, 1, 1, 1]


def test_readers_know_what_was_left_out(run):
    plan, judge, path = run
    source = RecordedSource(path)
    gone = [s.number for s in plan.steps if s.position_index == visits(plan)[2] and s.exposure_s in SERIES[1:]]
    assert list(source.left_out) == gone
    darks = {s.number for s in plan.steps if s.stream is Stream.DARK}
    assert list(source.order) == [key for key in judge.frames if key[0] not in darks]
    frames = source.frames(source.order)
    assert len(frames) == len(source.order)
    recorded = Recorded.open(path)
    try:
        assert len(recorded.moments) == len(frames)
        for number, frame in enumerate(frames):
            np.testing.assert_array_equal(recorded.image(number), frame.image)
            assert recorded.step_of(number).position_index == frame.position_index
    finally:
        recorded.close()


@pytest.mark.parametrize("after", range(6))
def test_a_run_that_is_aborted_after_it_goes_on_leaving_out(run, tmp_path, after):
    _, whole, path = run
    bench, judge = FakeBench(PROFILE), Judge()
    first = runner(bench, lambda: create(bench, tmp_path / "aborted.h5"), judge)
    left = len([key for key in whole.frames if key[0] >= whole.asked[1]])
    count = len(whole.frames) - left + after

    def abort() -> None:
        if len([line for line in bench.log if line.startswith("expose")]) == count:
            first.abort()

    bench.camera.on_acquire = abort
    assert first.run() is (RunState.ABORTED if after < left else RunState.COMPLETED)
    again = FakeBench(PROFILE)
    deaf = Judge(at=99)
    resumed = runner(again, lambda: RunWriter.resume(tmp_path / "aborted.h5", again.clock), deaf)
    assert resumed.run() is RunState.COMPLETED
    if after < 2:
        # In the very visit, before anything had been left out: that was not decided as far as the file knows.
        assert taken(tmp_path / "aborted.h5") == [7, 3, 3, 3]
    else:
        assert taken(tmp_path / "aborted.h5") == [7, 3, 2, 2]
        assert_same_measurement(tmp_path / "aborted.h5", path)
    assert deaf.progress is None or deaf.progress.done == deaf.progress.total


def test_what_was_left_out_is_taken_with_its_whole_visit(run):
    plan, _, path = run
    with open_run(path) as file:
        (point,) = points_left(file)
    bench, judge = FakeBench(PROFILE), Judge()
    bench.clock.sleep(1000.0)
    later = runner(bench, lambda: RunWriter.resume(path, bench.clock), judge, retaken=point, whole=True)
    assert later.run() is RunState.COMPLETED
    # Its bright frame and its short one as well: the stage has not come back to the very same place.
    assert len(judge.frames) == 4
    assert not judge.asked
    assert taken(path) == [7, 3, 3, 3]
    with open_run(path) as file:
        assert points_left(file) == ()
        assert file.outcome == "completed"
        (revision,) = file.revisions
        assert revision.point == point
        assert [entry for entry, _ in revision.superseded] == [1, 2]
        assert any("what enough light left out is taken" in line for line in file.log)
        for entry in range(1, 5):
            data = file.ptychogram(entry)
            assert list(data.indices)[-1 if entry > 1 else revision.superseded[0][1]] == point
    source = RecordedSource(path)
    assert source.left_out == ()
    # All frames of the point are of this visit.
    frames = source.frames(source.order)
    assert min(f.time for f in frames if f.position_index == point) > max(
        f.time for f in frames if f.position_index != point
    )
    # Every frame that the sample saw counts: the visit's bright and short ones twice.
    planned = 7 * plan.calibration_exposure_s + 3 * sum(SERIES)
    assert source.exposed_s == pytest.approx(planned + plan.calibration_exposure_s + SERIES[0])


def test_an_interruption_in_it_is_taken_up_again(run):
    _, _, path = run
    with open_run(path) as file:
        (point,) = points_left(file)
    for after, expected in ((1, [7, 3, 2, 2]), (4, [7, 3, 3, 2]), (99, [7, 3, 3, 3])):
        bench, judge = FakeBench(PROFILE), Judge()
        later = runner(bench, lambda bench=bench: RunWriter.resume(path, bench.clock), judge, retaken=point, whole=True)

        def abort(bench=bench, later=later, after=after) -> None:
            if len([line for line in bench.log if line.startswith("expose")]) == after - 1:
                later.abort()

        bench.camera.on_acquire = abort
        assert later.run() is (RunState.COMPLETED if after == 99 else RunState.ABORTED)
        assert taken(path) == expected
    with open_run(path) as file:
        assert [len(revision.superseded) for revision in file.revisions] == [2, 3]


def test_a_point_that_is_taken_again_stays_without_what_was_left_out(run):
    _, _, path = run
    with open_run(path) as file:
        (point,) = points_left(file)
    bench, judge = FakeBench(PROFILE), Judge()
    assert runner(bench, lambda: RunWriter.resume(path, bench.clock), judge, retaken=point).run() is RunState.COMPLETED
    assert len(judge.frames) == 2
    assert taken(path) == [7, 3, 2, 2]


def test_what_was_left_out_is_taken_in_its_order(tmp_path):
    bench, path = FakeBench(PROFILE), tmp_path / "run.h5"
    runner(bench, lambda: create(bench, path), Judge(at=1)).run()
    with open_run(path) as file:
        first, second = points_left(file)
    again = FakeBench(PROFILE)
    early = runner(again, lambda: RunWriter.resume(path, again.clock), Judge(), retaken=second, whole=True)
    with pytest.raises(DatasetError, match=f"take point {first} before {second}"):
        early.run()
    assert not any(line.startswith("move") for line in again.log)
    for point in (first, second):
        again = FakeBench(PROFILE)
        writer = lambda again=again: RunWriter.resume(path, again.clock)  # noqa: E731
        assert runner(again, writer, Judge(), retaken=point, whole=True).run() is RunState.COMPLETED
    assert taken(path) == [7, 3, 3, 3]


def test_only_the_next_step_can_be_left_out(tmp_path):
    bench = FakeBench(PROFILE)
    with create(bench, tmp_path / "run.h5") as writer:
        with pytest.raises(DatasetError, match="step 5 cannot be left out, expected frame 0 of step 0"):
            writer.leave_out(5)
        writer.leave_out(0)
        writer.leave_out(0)
        assert writer.steps_committed == 1


def test_a_low_dose_plan_ends_when_nothing_else_is_left(tmp_path):
    from app.acquire.planning import make_low_dose_plan

    bench = FakeBench(PROFILE)
    bench.plan = make_low_dose_plan(PROFILE, passes=2)
    judge = Judge(from_s=SERIES[0])
    assert runner(bench, lambda: create(bench, tmp_path / "run.h5"), judge).run() is RunState.COMPLETED
    assert taken(tmp_path / "run.h5") == [0, 2, 2, 2]
    # It can go on where it ended.
    again = FakeBench(PROFILE)
    again.plan = bench.plan
    open_writer = lambda: RunWriter.resume(tmp_path / "run.h5", again.clock)  # noqa: E731
    assert runner(again, open_writer, Judge(at=99)).run() is RunState.COMPLETED
    assert taken(tmp_path / "run.h5") == [0, 6, 6, 6]


def test_a_plan_says_what_was_left_out_of_an_exposure():
    plan = FakeBench(PROFILE).plan
    assert plan.left_out(len(plan.steps), dict.fromkeys(SERIES, 3)) == ()
    gone = plan.left_out(len(plan.steps), {SERIES[0]: 3, SERIES[1]: 1, SERIES[2]: 0})
    assert sorted(s.exposure_s for s in gone) == [3e-3] * 2 + [3e-2] * 3
    # Of a step that is still to come nobody says that it was left out.
    assert plan.left_out(gone[0].number, dict.fromkeys(SERIES, 0))[-1].number < gone[0].number
    assert replace(plan, steps=()).left_out(0, {}) == ()
