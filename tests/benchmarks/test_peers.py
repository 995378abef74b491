"""The score of the comparison with the peers, and its curves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.objecterror import peers_error
from benchmarks.peers import envelope, error_at, middle, rows_of, seconds_to


@pytest.fixture(scope="module")
def truth():
    noise = np.random.default_rng(3).normal(size=(160, 160))
    grains = ndimage.gaussian_filter(noise, 3.0)
    return 0.5 + 0.2 * grains / grains.std() + 0j


def test_shift_and_complex_scale_do_not_count(truth):
    moved = ndimage.shift(truth.real, (2.3, -1.6), order=5, mode="nearest")
    assert peers_error(moved * 3 * np.exp(0.7j), truth, 40) < 3e-3
    # A grid of another size, its origin in the middle too.
    assert peers_error(np.pad(truth, 10), truth, 40) < 1e-6


def test_noise_and_a_ramp_count(truth):
    rng = np.random.default_rng(4)
    noise = rng.normal(size=truth.shape) * 0.05
    share = np.linalg.norm(noise[40:120, 40:120]) / np.linalg.norm(truth[40:120, 40:120])
    assert peers_error(truth + noise, truth, 40) == pytest.approx(share, rel=0.15)
    tilted = truth * np.exp(0.01j * np.arange(160))
    assert peers_error(tilted, truth, 40) > 0.1
    assert peers_error(tilted, truth, 40, ramp=True) < 5e-3


def test_an_object_that_is_not_finite_is_infinitely_wrong(truth):
    spoiled = truth.copy()
    spoiled[80, 80] = np.nan
    assert peers_error(spoiled, truth, 40) == np.inf


def test_the_envelope_is_the_best_of_all_settings_so_far():
    curve = envelope([[(1.0, 0.4), (4.0, 0.1), (8.0, 0.3)], [(2.0, 0.2), (3.0, 0.25)]])
    assert curve == [(1.0, 0.4), (2.0, 0.2), (4.0, 0.1)]


def test_curves_are_read_between_their_points():
    curve = [(1.0, 0.4), (4.0, 0.1)]
    assert seconds_to(curve, 0.2) == pytest.approx(2.0)
    assert seconds_to(curve, 0.5) == 1.0
    assert seconds_to(curve, 0.05) is None
    assert error_at(curve, 2.0) == pytest.approx(0.2)
    assert error_at(curve, 0.5) is None
    assert error_at(curve, 100.0) == pytest.approx(0.1)


def test_what_most_seeds_never_reach_has_no_median():
    assert middle([1.0, 3.0, 2.0]) == 2.0
    assert middle([1.0, None, 2.0]) == 2.0
    assert middle([1.0, None, None]) is None


def test_the_ratio_is_of_equal_errors():
    curves = {seed: {"ours": [(1.0, 0.2), (4.0, 0.05)], "theirs": [(2.0, 0.3), (8.0, 0.1)]} for seed in (1, 2)}
    name, measured, claim = rows_of(curves)[-1]
    assert "best error of any peer" in name
    assert "2.0 against 8.0 (theirs, 0.100): 4.0 times" in measured
    assert measured.endswith("median 4.0 times")
    assert claim == "at least 2 times"
