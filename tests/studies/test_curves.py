"""Doses at which half and nine tenths succeed; curves do not depend on the order of the cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from app.studies.cases import Case, Frames, Outcome
from app.studies.curves import dose, dose_at, logistic_fit, make_curves, rows, text_table

PHOTONS = np.array([10.0, 30, 100, 300, 1000, 3000, 1e4, 1e5, 1e6])


def test_the_fit_finds_the_curve_that_made_the_data():
    share = expit(4.0 * (np.log10(PHOTONS) - 2.3))
    middle, slope = logistic_fit(np.log10(PHOTONS), np.full(9, 1000.0), 1000 * share)
    assert middle == pytest.approx(2.3, abs=0.01)
    assert slope == pytest.approx(4.0, rel=0.02)
    assert dose_at(PHOTONS, np.full(9, 1000.0), 1000 * share, 0.9) == pytest.approx(
        10 ** (2.3 + np.log(9) / 4), rel=0.03
    )


def test_a_share_that_is_never_reached_has_no_dose():
    never = np.full(9, 24.0)
    assert dose_at(PHOTONS, never, np.zeros(9), 0.5) == np.inf
    # Levels off at 30 %, and one whose slope points down.
    assert dose_at(PHOTONS, never, np.minimum(24 * expit(4 * (np.log10(PHOTONS) - 2)), 7), 0.9) == np.inf
    assert dose_at(PHOTONS, never, 12 - np.arange(9.0), 0.9) == np.inf


def test_what_succeeds_everywhere_needs_at_most_the_darkest_exposure():
    found = dose(PHOTONS, np.ones((5, 9)), 0.9)
    assert (found.photons, found.at_most) == (10.0, True)


def test_a_clean_step_lies_between_its_exposures():
    success = np.tile(PHOTONS >= 300, (10, 1)).astype(float)
    found = dose(PHOTONS, success, 0.5)
    assert found.photons is not None
    assert 100 < found.photons < 300


def test_the_interval_is_over_objects_and_holds_what_is_not_reached():
    rng = np.random.default_rng(1)
    # Every object has its own midpoint, and some never succeed.
    middles = rng.normal(2.5, 0.5, 40)
    success = (np.log10(PHOTONS) > middles[:, None]).astype(float)
    found = dose(PHOTONS, success, 0.5)
    assert found.low < found.photons < found.high
    assert found.low < 10**2.5 < found.high
    success[:6] = 0
    assert dose(PHOTONS, success, 0.9).photons is None
    assert dose(PHOTONS, success, 0.5).photons is not None


def test_missing_cases_do_not_count_as_failures():
    success = np.tile(PHOTONS >= 300, (10, 1)).astype(float)
    holes = success.copy()
    holes[3:, ::2] = np.nan
    assert dose(PHOTONS, holes, 0.5).photons == pytest.approx(dose(PHOTONS, success, 0.5).photons, rel=0.3)


def _case(k: int, photons: float, noise: float, seed: int, method: str = "paper") -> Case:
    frames = Frames(f"o:{k}", f"{k:012d}", "matched", "known", photons, noise, 16, seed, "scene")
    return Case(frames, method, "mnist", "sha", "sha")


def test_curves_average_over_objects_and_seeds_in_any_order():
    cases = [_case(k, p, s, n) for k in range(4) for p in (10.0, 100.0) for s in (0.3, 2.3) for n in (0, 1)]
    outcomes = {c.key: Outcome(10.0 + k, 9.0 + k, 0.5, k % 2 == 0, 0.1 * k) for k, c in enumerate(cases)}
    forward = make_curves(cases, outcomes)
    shuffled = [cases[k] for k in np.random.default_rng(0).permutation(len(cases))]
    backward = sorted(make_curves(shuffled, outcomes), key=lambda c: c.read_noise)
    assert [c.summary() for c in forward] == [c.summary() for c in backward]
    mine = [outcomes[c.key].psnr_db for c in cases if c.frames.photons == 10 and c.frames.read_noise == 0.3]
    assert forward[0].psnr_db[0] == pytest.approx(np.mean(mine))
    assert forward[0].count.tolist() == [8, 8]
    assert len(rows(forward)) == 4
    assert "dose90: above 100 photons" in text_table(forward)


def test_keys_tell_apart_everything_that_matters():
    keys = {_case(k, p, s, n, m).key for k in (0, 1) for p in (10.0, 11.0) for s in (0.3, 2.3) for n in (0, 1)
            for m in ("paper", "latent")}  # fmt: skip
    assert len(keys) == 32
