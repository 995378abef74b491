from itertools import pairwise

import numpy as np
import pytest

from app.acquire.plan import Plan, Stream
from app.acquire.planning import approach_point, make_plan, plan_cost, step_durations
from app.profile import Profile, load_profile
from tests.acquire.fakes import FakeBench, small_profile


def test_the_order_is_darks_then_empty_then_whole_series_at_each_point():
    plan = make_plan(load_profile("quick"))
    streams = [step.stream for step in plan.steps]
    darks = streams.count(Stream.DARK)
    assert darks == 6  # the empty, the calibration and the longest evaluation exposure are one and the same
    assert set(streams[:darks]) == {Stream.DARK}
    assert streams[darks] is Stream.EMPTY
    assert not any(step.light_on for step in plan.steps[:darks])
    assert all(step.light_on for step in plan.steps[darks:])
    assert [step.number for step in plan.steps] == list(range(len(plan.steps)))
    rest = plan.steps[darks + 1 :]
    visited = [step.position_index for step in rest if step.stream is Stream.CALIBRATION]
    assert sorted(visited) == list(range(96))
    for before, step in pairwise(rest):
        if step.stream is Stream.EVALUATION:
            assert step.position_index == before.position_index
            assert step.target == before.target
            if before.stream is Stream.EVALUATION:
                assert step.exposure_s > before.exposure_s
    assert streams.count(Stream.EVALUATION) == 16 * 6
    assert plan.frames == 6 * 30 + 4 + 96 + 16 * 6


def test_targets_put_the_beam_where_the_scan_wants_it():
    raw = load_profile("tiny").model_dump()
    raw["stage"]["stage_to_object"] = ((0.0, -2.0), (0.5, 0.1))
    profile = Profile.model_validate(raw)
    plan = make_plan(profile)
    matrix, centre = np.array(profile.stage.stage_to_object), np.array(profile.stage.centre_m)
    for step in plan.steps:
        if step.position_index >= 0:
            position = matrix @ (np.array(step.target.as_tuple()) - centre)
            assert position == pytest.approx(plan.positions_m[step.position_index], abs=1e-12)


def test_a_plan_survives_json():
    plan = make_plan(load_profile("tiny"))
    assert Plan.from_json(plan.to_json()) == plan


def test_what_is_not_wanted_is_not_planned():
    plan = make_plan(small_profile(empty_frames=0, evaluation_positions=0))
    assert {step.stream for step in plan.steps} == {Stream.DARK, Stream.CALIBRATION}
    assert plan.evaluation_exposures_s == ()
    assert len([s for s in plan.steps if s.stream is Stream.DARK]) == 1


def test_the_cost_counts_light_on_the_sample_and_travel_between_points_only():
    bench = FakeBench(small_profile(positions=2, overlap=0.5))
    cost = plan_cost(bench.plan, bench.stage.info, bench.profile)
    assert cost.travel_m == pytest.approx(0.25e-3)
    rate = bench.profile.light.photons_per_second
    assert cost.sample_photons == pytest.approx(rate * (2 * 0.3 + 3e-4 + 3e-2))
    assert cost.beam_photons == pytest.approx(cost.sample_photons + rate * 2 * 0.3)
    assert cost.frames == 3 * 3 + 2 + 2 + 2
    durations = step_durations(bench.plan, bench.stage.info, bench.profile.stage.approach_m, 0.03)
    assert cost.duration_s == pytest.approx(sum(durations))
    assert cost.duration_s > sum(step.repeats * (step.exposure_s + 0.03) for step in bench.plan.steps)


def test_the_approach_begins_below_on_both_axes():
    target = make_plan(load_profile("tiny")).steps[-1].target
    begin = approach_point(target, 5e-5)
    assert (target.y - begin.y, target.x - begin.x) == pytest.approx((5e-5, 5e-5))
