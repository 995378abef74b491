import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.acquire import fermat

DIAMETER = 500e-6


def test_the_papers_scan_has_the_overlap_asked_for_and_a_short_path():
    spacing = fermat.spacing_for_overlap(96, DIAMETER, 0.80)
    points = fermat.spiral(96, spacing)
    found = fermat.overlaps(points, DIAMETER)
    assert found is not None
    assert found.linear_mean == pytest.approx(0.80, abs=1e-9)
    assert found.linear_mean > found.linear_worst > 0.7
    order = fermat.visiting_order(points)
    assert sorted(order) == list(range(96))
    # The mean nearest-neighbour distance of 96 points is 1.676 c; lengths in units of c do not depend on the overlap.
    assert spacing == pytest.approx(100e-6 / 1.676, rel=1e-3)
    assert fermat.path_length(points) / spacing == pytest.approx(66e-3 / 57e-6, rel=0.02)
    assert fermat.path_length(points[order]) / spacing < 10e-3 / 57e-6


def test_the_spiral_is_the_one_of_the_formula():
    points = fermat.spiral(5, 2.0)
    assert np.hypot(*points.T) == pytest.approx(2.0 * np.sqrt([1, 2, 3, 4, 5]))
    angle = np.pi * (3 - np.sqrt(5))
    assert points[0] == pytest.approx([2 * np.sin(angle), 2 * np.cos(angle)])


@given(st.integers(2, 120), st.floats(0.0, 0.95), st.floats(1e-5, 1e-2))
@settings(max_examples=40, deadline=None)
def test_the_solved_spacing_gives_the_overlap(count, overlap, diameter):
    found = fermat.overlaps(fermat.spiral(count, fermat.spacing_for_overlap(count, diameter, overlap)), diameter)
    assert found is not None
    assert found.linear_mean == pytest.approx(overlap, abs=1e-8)
    assert found.linear_worst <= found.linear_mean + 1e-12
    assert 0.0 <= found.area <= 1.0


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_path_visits_every_point_once_and_is_no_longer_than_the_given_order(count, seed):
    points = np.random.default_rng(seed).normal(size=(count, 2))
    order = fermat.visiting_order(points)
    assert sorted(order) == list(range(count))
    if count > 4:
        assert fermat.path_length(points[order]) <= fermat.path_length(points) + 1e-12


def test_the_shared_area_of_two_discs():
    assert fermat.overlaps(np.array([[0.0, 0.0], [0.0, 1e-9]]), 1.0).area == pytest.approx(1.0, abs=1e-6)
    apart = fermat.overlaps(np.array([[0.0, 0.0], [0.0, 2.0]]), 1.0)
    assert apart.area == 0.0
    assert apart.linear_mean == pytest.approx(-1.0)
    # Discs of radius 1 at distance 1: 2 pi/3 - sqrt(3)/2 of pi.
    half = fermat.overlaps(np.array([[0.0, 0.0], [0.0, 1.0]]), 2.0)
    assert half.area == pytest.approx((2 * np.pi / 3 - np.sqrt(3) / 2) / np.pi)


@pytest.mark.parametrize(("count", "wanted"), [(96, 16), (96, 0), (9, 3), (10, 3), (5, 5), (1, 1)])
def test_the_evaluation_subset_is_every_kth_point(count, wanted):
    chosen = fermat.every_kth(count, wanted)
    assert len(chosen) == len(set(chosen)) == wanted
    assert all(0 <= k < count for k in chosen)
    assert len(set(np.diff(chosen))) <= 1


def test_a_single_point_has_no_overlap():
    assert fermat.overlaps(fermat.spiral(1, 1e-4), DIAMETER) is None
    assert fermat.spacing_for_overlap(1, DIAMETER, 0.8) > 0
