"""The mechanics of the simulated stage, and its motion profile."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.carriage import Carriage, StageSettings
from simulators.motion import Braking, Trapezoid

EXACT = StageSettings(limits_y_m=(0.5e-3, 24.5e-3), limits_x_m=(0.5e-3, 24.5e-3), centre_m=(12.5e-3, 12.5e-3))


def test_the_carriage_stands_where_it_was_left_and_counts_from_there():
    carriage = Carriage(EXACT, 0)
    assert carriage.counter.tolist() == [0, 0]
    assert carriage.true_displacement() == pytest.approx((1e-3, 1e-3))
    carriage.turn(0, 1000)
    assert carriage.true_displacement()[0] - 1e-3 == pytest.approx(1000 * carriage.step_m, abs=1e-9)
    carriage.reference(0)
    assert carriage.counter[0] == 0
    assert carriage.zero[0] == round(1e-3 * EXACT.microsteps_per_m) + 1000


def test_counting_anew_moves_nothing():
    carriage = Carriage(EXACT, 0)
    carriage.turn(1, 500)
    before = carriage.true_displacement()
    carriage.count_from(1, -77)
    assert carriage.counter[1] == -77
    assert (carriage.true_displacement() == before).all()


def test_the_play_of_the_nut_depends_on_turning_points_only():
    settings = StageSettings((0, 1), (0, 1), (0, 0), backlash_m=8e-6)
    one, two = Carriage(settings, 0), Carriage(settings, 0)
    for target in (50_000, -20_000, -15_000, 60_000, 59_000):
        start = int(two.counter[0])
        one.turn(0, target)
        for part in np.linspace(start, target, 7):
            two.turn(0, int(part))
        assert one.true_displacement()[0] == two.true_displacement()[0]


def test_what_is_handed_out_is_a_copy():
    carriage = Carriage(EXACT, 0)
    carriage.counter[0] = carriage.zero[0] = 5
    assert carriage.counter[0] == 0
    assert carriage.zero[0] != 5


lengths = st.floats(0, 1e9)
speeds = st.floats(1e-3, 1e7)


@given(lengths, speeds, speeds, st.floats(0, 1))
def test_a_trapezoid_goes_all_the_way_monotonically_and_inverts(distance, velocity, acceleration, part):
    profile = Trapezoid(distance, velocity, acceleration)
    times = np.linspace(0, profile.duration, 41)
    ways = [profile.travelled(t) for t in times]
    assert ways[0] == 0
    assert ways[-1] == distance
    assert (np.diff(ways) >= -1e-9 * distance).all()
    assert max(profile.velocity_at(t) for t in times) <= velocity * (1 + 1e-9)
    way = part * distance
    assert profile.travelled(profile.time_at(way)) == pytest.approx(way, rel=1e-6, abs=1e-6 * distance)


@given(lengths, speeds, speeds, st.floats(0, 1))
def test_braking_never_overshoots_the_end_of_the_profile(distance, velocity, acceleration, part):
    profile = Trapezoid(distance, velocity, acceleration)
    t = part * profile.duration
    braking = Braking(profile.velocity_at(t), acceleration)
    assert profile.travelled(t) + braking.distance <= distance * (1 + 1e-6) + 1e-9
    assert braking.travelled(braking.duration) == pytest.approx(braking.distance)


def test_no_velocity_never_arrives():
    assert Trapezoid(1.0, 0.0, 1.0).duration == math.inf
    assert Trapezoid(1.0, 0.0, 1.0).travelled(1e6) == 0.0
    assert Trapezoid(0.0, 0.0, 1.0).duration == 0.0
