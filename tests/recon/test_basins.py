"""Measures of landscapes whose shape is known."""

from __future__ import annotations

import numpy as np
import pytest

from recon.basins import (
    basin_of,
    bent_down,
    condition_number,
    deep_minima,
    hessian_at,
    local_minima,
    plateau,
    shape_of,
)

LINE = np.linspace(-2, 2, 61)
STEPS = (float(LINE[1] - LINE[0]),) * 2
A, B = np.meshgrid(LINE, LINE, indexing="ij")


def test_a_bowl_has_one_minimum_that_everybody_reaches():
    bowl = 3 * (A - 0.4) ** 2 + 12 * (B + 0.6) ** 2
    shape = shape_of(bowl, LINE, LINE)
    assert (shape.minima, shape.deep_minima, shape.basin, shape.bent_down) == (1, 1, 1.0, 0.0)
    assert shape.condition == pytest.approx(4.0, rel=1e-6)
    assert LINE[shape.optimum[0]] == pytest.approx(0.4)
    assert LINE[shape.optimum[1]] == pytest.approx(-0.6, abs=0.04)
    # The same bowl in units that make it round.
    assert shape_of(bowl, LINE, 2 * LINE).condition == pytest.approx(1.0, rel=1e-6)
    assert shape.depth == pytest.approx(bowl.max() - bowl.min())


def test_two_wells_share_the_area_and_curve_down_between():
    wells = 5 * (A**2 - 1) ** 2 + 4 * B**2 + 0.01 * A
    assert local_minima(wells).tolist() == [[15, 30], [45, 30]]
    assert deep_minima(wells) == 2
    assert deep_minima(wells, depth=6.0) == 1
    basin = basin_of(wells, STEPS)
    assert basin.mean() == pytest.approx(0.5, abs=0.03)
    assert basin[:29].all()
    assert not basin[32:].any()
    assert bent_down(wells) == pytest.approx(2 / np.sqrt(3) / 4, abs=0.03)


def test_ripples_below_a_nat_are_minima_but_not_deep_ones():
    rippled = 2 * (A**2 + B**2) + 0.2 * np.cos(9 * A) * np.cos(9 * B)
    assert len(local_minima(rippled)) == 4
    assert deep_minima(rippled) == 1


def test_a_slope_has_its_minimum_on_the_edge_and_no_hessian_there():
    slope = A + 0.1 * B
    shape = shape_of(slope, LINE, LINE)
    assert (shape.minima, shape.basin) == (0, 1.0)
    assert np.isnan(shape.condition)
    assert hessian_at(slope, shape.optimum, STEPS) is None


def test_a_saddle_is_no_optimum():
    assert np.isnan(condition_number(np.diag([1.0, -2.0])))
    assert bent_down(A**2 - B**2) == 1.0


def test_plateaus_are_where_the_slope_is_a_tenth_of_its_mean():
    assert plateau(A**2 + B**2, STEPS) == pytest.approx(0.005, abs=0.004)
    hole = -np.exp(-(A**2 + B**2) / 0.1)
    assert plateau(hole, STEPS) > 0.5
