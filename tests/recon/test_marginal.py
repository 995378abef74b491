"""Estimates that know how wrong what they are told may be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.estimator import LatentEstimator
from recon.imperfections import Imperfections
from recon.latent import LatentSettings
from recon.marginal import Marginal, marginalised
from recon.posterior import Posterior
from tests.recon import latentscene as bench
from tests.recon import test_estimator
from tests.recon.test_estimator import DRAWS

PHOTONS, WRONG = 2000, 12e-6
COUNT = len(bench.POSITIONS)
TRUTH = bench.bar(DRAWS[:1])[0].numpy()


def _estimator(photons: float) -> LatentEstimator:
    few = LatentSettings(starts=6, proposals=128, chains=32, mended=64)
    return replace(test_estimator._estimator(photons), settings=few)


def _z(found: Posterior) -> float:
    return float(np.sqrt(np.square((found.mean - TRUTH) / found.deviation).mean()))


def _errors() -> NDArray[np.float64]:
    """(N, 2) about no joint shift, which would be the bar's own."""
    errors = np.random.default_rng(4).normal(0, WRONG, (COUNT, 2))
    return errors - errors.mean(0)


def _told() -> LatentEstimator:
    """Places that are wrong by a quarter of a pixel of the decoder's."""
    estimator = _estimator(PHOTONS)
    return replace(estimator, light=replace(estimator.light, positions_m=bench.POSITIONS + _errors()), _prepared={})


@pytest.fixture(scope="module")
def found() -> Marginal:
    data = bench.measured(bench.bar(DRAWS[:1])[0], bench.light(PHOTONS), 0)
    return marginalised(_told(), [data], Imperfections.of(COUNT, position_m=WRONG))


def test_wrong_places_are_found_and_their_doubt_is_in_the_error_bars(found: Marginal) -> None:
    data = bench.measured(bench.bar(DRAWS[:1])[0], bench.light(PHOTONS), 0)
    plain, known = _told().estimate(data), _estimator(PHOTONS).estimate(data)
    assert plain.log_evidence + 5 < found.posterior.log_evidence < known.log_evidence
    assert found.posterior.spread.mean() > 1.2 * plain.spread.mean()
    assert _z(found.posterior) < _z(plain)
    assert found.posterior.counting == "events"
    # The joint shift of all places is the bar's own; about it they are told back.
    places = found.nuisances.places(found.mean) - bench.POSITIONS
    left, before = (np.square(v - v.mean(0)).mean() for v in (places, _errors()))
    assert left < 0.5 * before
    assert found.deviation.max() < 1.3
    assert found.summary()["position_moved_m"] > 3e-6
    assert found.turns <= 4


def test_the_answer_is_the_same_every_time(found: Marginal) -> None:
    data = bench.measured(bench.bar(DRAWS[:1])[0], bench.light(PHOTONS), 0)
    again = marginalised(_told(), [data], Imperfections.of(COUNT, position_m=WRONG))
    assert np.array_equal(found.posterior.mean, again.posterior.mean)
    assert np.array_equal(found.mean, again.mean)


def test_doubts_too_small_to_matter_change_nothing() -> None:
    data = bench.measured(bench.bar(DRAWS[:1])[0], bench.light(PHOTONS), 0)
    estimator = _estimator(PHOTONS)
    plain = estimator.estimate(data)
    given = Imperfections.of(COUNT, position_m=1e-9, flux=1e-5, distance_m=1e-8)
    found = marginalised(estimator, [data], given).posterior
    assert found.log_evidence == pytest.approx(plain.log_evidence, abs=0.7)
    assert np.sqrt(np.square(found.mean - plain.mean).mean()) < 0.35 * plain.spread.mean()
    assert found.spread.mean() == pytest.approx(plain.spread.mean(), rel=0.15)


def test_nothing_uncertain_is_refused() -> None:
    data = bench.measured(bench.bar(DRAWS[:1])[0], bench.light(PHOTONS), 0)
    with pytest.raises(ValueError, match="nothing is uncertain"):
        marginalised(_estimator(PHOTONS), [data], Imperfections.of(COUNT))
    with pytest.raises(ValueError, match="deviations of 3 frames given, there are 5"):
        marginalised(_estimator(PHOTONS), [data], Imperfections.of(3, flux=0.1))


def test_beside_uncertain_places_nothing_is_looked_for() -> None:
    photons = 1e5
    grain = 0.04 * np.random.default_rng(6).standard_normal(TRUTH.shape).astype(np.float32)
    data = bench.measured(torch.from_numpy(TRUTH + grain), bench.light(photons), 0)
    estimator = _estimator(photons)
    assert estimator.estimate(data).missed > 0
    found = marginalised(estimator, [data], Imperfections.of(COUNT, position_m=3e-6)).posterior
    assert found.missed == 0
    np.testing.assert_array_equal(found.mean, found.decoder_mean)
