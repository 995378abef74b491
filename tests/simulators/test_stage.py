"""The simulated stage against a model of it, and what it refuses."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.base import Cancelled, LimitError, NotReadyError, Stage, StagePosition
from drivers.clock import VirtualClock
from simulators.carriage import StageSettings
from simulators.stage import HOMING_VELOCITY_M_S, SimulatedStage

EXACT = StageSettings(limits_y_m=(0.5e-3, 24.5e-3), limits_x_m=(1e-3, 20e-3), centre_m=(12.5e-3, 12.5e-3))
STEP = 1 / EXACT.microsteps_per_m


def homed(settings=EXACT, clock=None, seed=3):
    stage = SimulatedStage(settings, clock or VirtualClock(), seed)
    stage.open()
    stage.home()
    return stage


def test_is_a_stage_and_opening_moves_nothing():
    clock = VirtualClock()
    stage = SimulatedStage(EXACT, clock, 0)
    stage.open()
    stage.open()
    assert isinstance(stage, Stage)
    assert not stage.homed
    assert stage.position() == StagePosition(0, 0)
    assert stage.true_displacement() == pytest.approx((1e-3, 1e-3))
    assert clock.monotonic() == 0
    stage.close()
    stage.close()


def test_refuses_what_it_cannot_do():
    stage = SimulatedStage(EXACT, VirtualClock(), 0)
    for call in (stage.position, stage.home, lambda: stage.info, lambda: stage.move_to(StagePosition(0.01, 0.01))):
        with pytest.raises(NotReadyError, match="stage: is closed; open it first"):
            call()
    stage.open()
    with pytest.raises(NotReadyError, match="not homed"):
        stage.move_to(StagePosition(0.01, 0.01))
    stage.home()
    for target in ((0.0, 0.01), (0.01, 0.0201), (float("nan"), 0.01)):
        with pytest.raises(LimitError, match="is outside"):
            stage.move_to(StagePosition(*target))
    assert stage.position() == StagePosition(0, 0)


def test_homing_takes_its_time_and_sets_zero():
    clock = VirtualClock()
    stage = homed(replace(EXACT, start_m=(2e-3, 1e-3), backlash_m=8e-6), clock)
    assert stage.homed
    assert clock.monotonic() == pytest.approx(2e-3 / HOMING_VELOCITY_M_S, rel=1e-3)
    assert stage.position() == StagePosition(0, 0)
    assert stage.true_displacement() == pytest.approx((0, 0), abs=1e-12)
    stage.move_to(StagePosition(5e-3, 5e-3))
    stage.home()
    assert stage.true_displacement() == pytest.approx((0, 0), abs=1e-12)


def test_moves_take_the_time_that_the_profile_tells():
    clock = VirtualClock()
    stage = homed(clock=clock)
    for target in ((1e-3, 1e-3), (1.0001e-3, 1e-3), (9e-3, 2e-3)):
        start, begin = stage.position(), clock.monotonic()
        there = stage.move_to(StagePosition(*target))
        expected = stage.info.move_duration_s(start, there) + EXACT.settling_s
        assert clock.monotonic() - begin == pytest.approx(expected, abs=1e-4)


def test_positions_are_whole_microsteps():
    coarse = replace(EXACT, microsteps_per_m=1e5)
    stage = homed(coarse)
    there = stage.move_to(StagePosition(5.004e-3, 5.006e-3))
    assert there.as_tuple() == pytest.approx((5.00e-3, 5.01e-3), abs=1e-12)
    assert stage.true_displacement() == pytest.approx(there.as_tuple(), abs=1e-12)
    assert stage.info.step_m == 1e-5


def test_the_position_advances_during_a_move_and_a_cancel_stops_it():
    stage = homed()
    seen = []

    def cancel():
        seen.append(stage.position().y)
        return stage.position().y > 4e-3

    with pytest.raises(Cancelled, match=r"stage: the move was stopped at y 0\.00"):
        stage.move_to(StagePosition(10e-3, 1e-3), cancel)
    assert seen == sorted(seen)
    assert len(set(seen)) > 50
    assert np.diff(seen).max() <= 1.5e-3 * 0.02 * 1.01
    assert 4e-3 < stage.position().y < 4.1e-3
    assert stage.homed
    stage.move_to(StagePosition(6e-3, 2e-3))
    assert stage.true_displacement() == pytest.approx((6e-3, 2e-3), abs=2 * STEP)


def test_a_cancelled_homing_leaves_it_unhomed():
    stage = homed()
    stage.move_to(StagePosition(5e-3, 5e-3))
    with pytest.raises(Cancelled, match="homing"):
        stage.home(lambda: True)
    assert not stage.homed
    stage.home()
    assert stage.position() == StagePosition(0, 0)


def test_stop_from_another_thread_and_only_one_motion_at_a_time():
    clock = VirtualClock()
    stage = homed(clock=clock)
    refused = []

    def other():
        try:
            stage.move_to(StagePosition(2e-3, 2e-3))
        except NotReadyError as error:
            refused.append(str(error))
        stage.stop()

    def cancel():
        if stage.position().y > 3e-3 and not refused:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        return False

    with pytest.raises(Cancelled):
        stage.move_to(StagePosition(10e-3, 1e-3), cancel)
    assert "is moving for another caller" in refused[0]
    # A stop is for the motion it met, not for the next one.
    stage.stop()
    assert stage.move_to(StagePosition(5e-3, 5e-3)).y == pytest.approx(5e-3, abs=STEP)


def test_closing_ends_a_move():
    stage = homed()

    def cancel():
        stage.close()
        return False

    with pytest.raises(Cancelled):
        stage.move_to(StagePosition(10e-3, 1e-3), cancel)


def test_backlash_remembers():
    stage = homed(replace(EXACT, backlash_m=8e-6))

    def error(y):
        stage.move_to(StagePosition(y, 5e-3))
        return stage.true_displacement()[0] - y

    near = {"abs": 3 * STEP}
    assert error(5e-3) == pytest.approx(0, **near)
    assert error(4.997e-3) == pytest.approx(3e-6, **near)  # not yet taken up: the carriage has not moved at all
    assert error(4.995e-3) == pytest.approx(5e-6, **near)
    assert error(4.9e-3) == pytest.approx(8e-6, **near)
    assert error(4.902e-3) == pytest.approx(6e-6, **near)
    assert error(4.95e-3) == pytest.approx(0, **near)
    assert stage.true_displacement()[1] == pytest.approx(5e-3, **near)


def test_linear_errors_are_about_the_centre():
    errors = replace(EXACT, rotation_rad=6e-3, scale_error=(2e-3, -2e-3), shear=3e-3)
    stage = homed(errors)
    stage.move_to(StagePosition(12.5e-3, 12.5e-3))
    assert stage.true_displacement() == pytest.approx((12.5e-3, 12.5e-3), abs=2 * STEP)
    stage.move_to(StagePosition(13.5e-3, 12.5e-3))
    c, s = np.cos(6e-3), np.sin(6e-3)
    dy, dx = 1.002e-3, 3e-6
    expected = (12.5e-3 + c * dy - s * dx, 12.5e-3 + s * dy + c * dx)
    assert stage.true_displacement() == pytest.approx(expected, abs=2 * STEP)


def test_arrival_errors_have_the_stated_spread_and_depend_only_on_where_and_how():
    settings = replace(EXACT, repeatability_m=3e-6, backlash_m=8e-6, settling_s=0.0, acceleration_m_s2=1.0)
    targets = [StagePosition(4e-3 + k * 1e-5, 4e-3 + k * 1.3e-5) for k in range(300)]

    def errors(stage, order):
        found = {}
        for k in order:
            stage.move_to(StagePosition(targets[k].y - 5e-5, targets[k].x - 5e-5))
            there = stage.move_to(targets[k])
            found[k] = stage.true_displacement() - there.as_tuple()
        return np.array([found[k] for k in sorted(found)])

    one = errors(homed(settings), range(300))
    assert one.std(axis=0) == pytest.approx(3e-6, rel=0.15)
    assert np.abs(one.mean(axis=0)).max() < 1e-6
    assert abs(np.corrcoef(one.T)[0, 1]) < 0.2
    # The same in any order, and so after a resume.
    assert errors(homed(settings), reversed(range(300))) == pytest.approx(one, abs=1e-10)
    assert np.abs(errors(homed(settings, seed=4), range(20)) - one[:20]).min() > 0
    again = homed(settings)
    again.seed_visit(1)
    assert np.abs(errors(again, range(20)) - one[:20]).min() > 0


def test_an_axis_that_does_not_move_keeps_its_error():
    stage = homed(replace(EXACT, repeatability_m=3e-6))
    stage.move_to(StagePosition(5e-3, 5e-3))
    before = stage.true_displacement()
    stage.move_to(StagePosition(6e-3, 5e-3))
    assert stage.true_displacement()[1] == before[1]
    assert stage.true_displacement()[0] != before[0]


coordinates = st.floats(-2e-3, 26e-3, allow_nan=False)
moves = st.lists(st.tuples(coordinates, coordinates, st.integers(0, 40)), max_size=8)


@settings(max_examples=40, deadline=None)
@given(moves)
def test_any_sequence_of_moves_agrees_with_a_model(sequence):
    """Limits hold at all times, the counter is the last target reached, the carriage follows within the backlash."""
    play = 8e-6
    setting = replace(EXACT, backlash_m=play, velocity_m_s=5e-3, acceleration_m_s2=50e-3)
    stage = homed(setting)
    counter, carriage = np.zeros(2), np.zeros(2)
    for y, x, patience in sequence:
        inside = 0.5e-3 <= y <= 24.5e-3 and 1e-3 <= x <= 20e-3
        asked = [0]
        trail = []

        def cancel(asked=asked, patience=patience, trail=trail):
            asked[0] += 1
            trail.append(stage.position().as_tuple())
            return patience < 30 and asked[0] > patience

        try:
            there = stage.move_to(StagePosition(y, x), cancel)
        except LimitError:
            assert not inside
            assert not trail
        except Cancelled:
            assert inside
            assert asked[0] == patience + 1
        else:
            assert inside
            assert there.as_tuple() == pytest.approx((y, x), abs=STEP)
        # Monotonic between start and target, hence inside the limits once it has been inside.
        for point in [*trail, stage.position().as_tuple()]:
            for axis, goal in ((0, y), (1, x)):
                low, high = sorted((counter[axis], goal))
                assert not inside or low - STEP <= point[axis] <= high + STEP
        counter = np.array(stage.position().as_tuple())
        carriage = np.clip(carriage, counter, counter + play)
        assert stage.true_displacement() == pytest.approx(carriage, abs=1e-9)
