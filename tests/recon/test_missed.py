"""What the decoder misses of an object: against dense normal algebra, finite differences, and on frames of bars."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from torch import Tensor

from recon import missed
from recon.bins import Bins
from recon.dataset import Ptychogram
from recon.decoders.mixture import Mixture
from recon.estimator import LatentEstimator
from recon.manner import Manner
from recon.missed import CELLS, Field, Missed, look_beside
from recon.noise import MixedGaussian
from recon.observation import Observation, Terms
from recon.posterior import Posterior
from recon.scene import Nuisances, Scene
from recon.tracker import Tracker
from recon.verdict import Word
from tests.recon import latentscene as bench
from tests.recon.test_estimator import DRAWS, _estimator

SIDE, READINGS, LATENTS = 6, 60, 4


@dataclass(frozen=True)
class Linear:
    """Readings y = A x of images x (s, s), each with unit normal noise."""

    matrix: Tensor
    readings: Tensor

    def value(self, images: Tensor) -> Tensor:
        apart = self.readings - images.flatten(1) @ self.matrix.T
        return 0.5 * (self.readings.square().sum() - apart.square().sum(1))

    def slope(self, images: Tensor) -> tuple[Tensor, Tensor]:
        apart = self.readings - images.flatten(1) @ self.matrix.T
        return self.value(images), (apart @ self.matrix).view_as(images)

    def terms(self, images: Tensor, jacobians: Tensor) -> Terms:
        value, gradient = self.slope(images)
        along = self.matrix @ jacobians
        return Terms(value, (gradient.flatten(1)[:, None] @ jacobians)[:, 0], along.transpose(1, 2) @ along)


@dataclass(frozen=True)
class Weighted:
    """Images that are linear in the latents."""

    weights: Tensor

    def images(self, zeta: Tensor) -> Tensor:
        return (zeta @ self.weights.T).view(-1, SIDE, SIDE)

    def drawn(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        return self.images(zeta), self.weights.expand(len(zeta), *self.weights.shape)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SCENE = Scene(Weighted(_random(SIDE**2, LATENTS, seed=1)), Mixture.normal(LATENTS))
MISFIT = 0.02 + 0.1 * torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def _linear(field: Tensor, seed: int = 3) -> Linear:
    """Readings of known latents with a field (s, s) beside."""
    matrix = 3 * _random(READINGS, SIDE**2, seed=seed)
    image = SCENE.images(_random(1, LATENTS, seed=4))[0] + field
    return Linear(matrix, matrix @ image.flatten() + _random(READINGS, seed=seed + 2))


def _found(observation: Linear) -> Missed:
    return look_beside(cast(Observation, observation), SCENE, torch.zeros(1, LATENTS), Field.of(MISFIT))


def _covariance(observation: Linear, variance: Tensor) -> tuple[NDArray, NDArray]:
    """Matrix of the readings (m, s^2), and the covariance of the images."""
    assert isinstance(SCENE.drawer, Weighted)
    weights = SCENE.drawer.weights.double().numpy()
    return observation.matrix.double().numpy(), weights @ weights.T + np.diag(variance.double().numpy())


def test_of_normal_frames_the_posterior_is_that_of_dense_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missed, "TELLING", 0.0)
    observation = _linear(MISFIT.sqrt() * _random(SIDE, SIDE, seed=8))
    found = _found(observation)
    matrix, prior = _covariance(observation, found.variance)
    readings = observation.readings.double().numpy()
    whole = matrix @ prior @ matrix.T + np.eye(READINGS)
    gain = prior @ matrix.T @ np.linalg.inv(whole)
    image = (SCENE.images(found.theta)[0] + found.field).flatten().numpy()
    np.testing.assert_allclose(image, gain @ readings, atol=2e-4)
    theta, fields = found.draws(20_000, 5)
    spread = (SCENE.images(theta) + fields).flatten(1).var(0) + found.left.flatten()
    np.testing.assert_allclose(spread.numpy(), np.diag(prior - gain @ matrix @ prior), rtol=0.06, atol=1e-5)
    evidence = multivariate_normal(cov=whole).logpdf(readings) - multivariate_normal(cov=np.eye(READINGS)).logpdf(
        readings
    )
    # Cells whose variance differs from the others' have their price.
    certainty = (found.strength * MISFIT.flatten() / found.variance).double().numpy()
    price = missed.FREEDOM / 2 * (certainty - 1 - np.log(certainty))
    assert price.min() >= 0
    assert found.log_evidence == pytest.approx(evidence - price.sum(), abs=0.05)
    assert found.converged


def test_directions_that_the_frames_tell_little_about_keep_their_prior() -> None:
    observation = _linear(MISFIT.sqrt() * _random(SIDE, SIDE, seed=8))
    dim = Linear(observation.matrix[:20] / 12, observation.readings[:20] / 12)
    found = _found(dim)
    count = found.directions.shape[1]
    assert 1 <= count < 20
    held = found.left.flatten() + found.directions.square().sum(1)
    np.testing.assert_allclose(held.numpy(), found.variance.numpy(), rtol=1e-4)


@pytest.mark.parametrize("strength", [0.5, 4.0])
def test_the_strength_is_the_likeliest_one(strength: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tails of a normal distribution, so that a dense evidence can be written down.
    monkeypatch.setattr(missed, "FREEDOM", 1e6)
    observation = _linear((strength * MISFIT).sqrt() * _random(SIDE, SIDE, seed=9))
    found = _found(observation)
    grid = np.geomspace(0.1, 20, 300)

    def evidence(tried: float) -> float:
        matrix, prior = _covariance(observation, tried * MISFIT.flatten())
        whole = matrix @ prior @ matrix.T + np.eye(READINGS)
        return float(multivariate_normal(cov=whole).logpdf(observation.readings.double().numpy()))

    best = grid[int(np.argmax([evidence(float(tried)) for tried in grid]))]
    assert found.strength == pytest.approx(best, rel=0.05)
    assert best == pytest.approx(strength, rel=0.6)


def test_a_cell_that_is_missed_by_far_is_not_held_back_by_the_others() -> None:
    field = MISFIT.sqrt() * _random(SIDE, SIDE, seed=10)
    field[2, 3] = 2.0
    observation = _linear(field)
    found = _found(observation)
    told = found.variance.view(SIDE, SIDE) / MISFIT
    assert float(told[2, 3]) == float(told.max())
    assert float(told[2, 3]) > 4 * float(told.median())
    assert float(found.field[2, 3]) == pytest.approx(2.0, abs=0.5)


def test_slopes_are_those_of_finite_differences() -> None:
    source = bench.light(5e4)
    data = bench.measured(bench.bar(DRAWS[:1])[0], source, 4)
    camera = bench.operator(source)
    observation = Bins.build(data, camera, bench.light_map(camera), MixedGaussian())
    directions = 0.05 * _random(bench.SIDE**2, 7, seed=11)
    problem = missed._Problem(observation, bench.scene(5), directions)
    theta, along = DRAWS[1:2].clone(), 0.3 * _random(7, seed=12)
    pull, step = problem.at(theta, along).pull, 2e-2
    for k in range(12):
        way = torch.zeros(12).index_fill(0, torch.tensor(k), step)
        values = [problem.at(theta + sign * way[None, :5], along + sign * way[5:]).value for sign in (1, -1)]
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(pull[k]), rel=0.02, abs=3.0)


@settings(deadline=None, max_examples=25)
@given(st.integers(3, 80), st.integers(0, 10**6))
def test_cells_are_orthonormal_and_hold_what_is_missed(size: int, seed: int) -> None:
    misfit = torch.rand(size, size, generator=torch.Generator().manual_seed(seed))
    field = Field.of(misfit)
    count = field.cells.shape[1]
    assert count <= CELLS**2
    torch.testing.assert_close(field.cells.T @ field.cells, torch.eye(count), atol=1e-5, rtol=0)
    # Cells and the rest together are the misfit, all in all, and where cells are pixels everywhere.
    together = field.shares @ field.misfit + field.rest
    assert float(together.sum()) == pytest.approx(float(misfit.sum()), rel=0.02)
    if size <= CELLS:
        torch.testing.assert_close(together, misfit.flatten())


class Alone(LatentEstimator):
    """Never looks beside the decoder's image."""

    looks_beside = False


GRAIN = 0.04 * _random(bench.SIDE, bench.SIDE, seed=13)
"""Beside a bar: as much as the companion of `_estimator` says that the decoder misses."""


def _grainy(photons: float, grain: Tensor = GRAIN) -> tuple[Tensor, Ptychogram]:
    image = bench.bar(DRAWS[:1])[0] + grain
    return image, bench.measured(image, bench.light(photons), 1)


@pytest.fixture(scope="module")
def lit() -> Posterior:
    """An estimate in the light of a bar that its decoder misses a little."""
    return _estimator(3e5).estimate(_grainy(3e5)[1])


def test_in_the_light_latents_stay_in_their_class_and_the_image_gains(lit: Posterior) -> None:
    image, data = _grainy(3e5)
    found, without = lit, _estimator(3e5, kind=Alone).estimate(data)
    assert found.counting == Manner.BINS
    assert found.missed == pytest.approx(1, rel=0.5)
    assert without.missed == 0.0
    errors = [np.square(each.mean - image.numpy().clip(0, 1)).mean() for each in (found, without)]
    assert errors[0] < 0.6 * errors[1]
    truth = DRAWS[0].numpy()
    apart = [np.abs(each.theta.mean(0) - truth).max() for each in (found, without)]
    assert apart[0] < apart[1]
    # True error bars, of the image and of the latents.
    assert 0.6 < np.sqrt(errors[0] / np.square(found.deviation).mean()) < 1.4
    assert np.abs((found.theta.mean(0) - truth) / found.theta.std(0)).max() < 4
    assert found.verdict.word is Word.RECOVERED
    assert found.mode_images.shape == (1, bench.SIDE, bench.SIDE)
    assert found.mode_log_evidence == (found.log_evidence,)
    assert found.log_evidence > without.log_evidence
    # What the decoder draws is kept apart from what it misses.
    decoded = bench.bar(torch.from_numpy(found.theta)).mean(0).numpy()
    np.testing.assert_allclose(found.decoder_mean, decoded, atol=1e-4)
    assert np.abs(found.mean - found.decoder_mean).max() > 0.05


def test_where_nothing_is_missed_nothing_is_looked_for() -> None:
    _, data = _grainy(3e5, torch.zeros(bench.SIDE, bench.SIDE))
    found = _estimator(3e5).estimate(data)
    assert found.missed == 0.0
    np.testing.assert_array_equal(found.mean, found.decoder_mean)


def test_more_than_a_class_is_ever_missed_by_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.estimator.MOST_MISSED", 0.5)
    found = _estimator(3e5).estimate(_grainy(3e5)[1])
    assert found.missed == 0.0
    np.testing.assert_array_equal(found.mean, found.decoder_mean)


def test_in_the_dark_it_is_not_looked_for() -> None:
    _, data = _grainy(1000)
    found = _estimator(1000).estimate(data)
    assert found.counting == Manner.EVENTS
    assert found.missed == 0.0


def test_it_goes_on_from_a_part_of_the_data_in_the_same_cells() -> None:
    observation = _linear(MISFIT.sqrt() * _random(SIDE, SIDE, seed=8))
    half = Linear(observation.matrix[::2], observation.readings[::2])
    before, anew = _found(half), _found(observation)
    # Whatever cells are offered: the known amounts belong to those that they were found in.
    other = Field.of(MISFIT.flip(0) * (MISFIT > 0.08))
    start = torch.ones(1, LATENTS)
    found = look_beside(cast(Observation, observation), SCENE, start, other, before)
    assert found.within is before.within
    assert found.iterations < anew.iterations
    np.testing.assert_allclose(found.field, anew.field, atol=0.1)


def test_frame_by_frame_it_comes_to_the_same() -> None:
    _, data = _grainy(3e5)
    estimator = _estimator(3e5)
    tracker = Tracker.of(estimator, data.indices, data.exposures_s, data.dark_variance, data.mask)
    for k in range(len(data)):
        found = tracker.add(data.select(np.array([k])))
    assert found.followed > 0
    assert found.missed > 0
    settled = tracker.settled()
    assert settled.followed == 0
    assert np.sqrt(np.square((found.mean - settled.mean) / settled.deviation).mean()) < 0.5


def test_draws_are_the_same_every_time(lit: Posterior) -> None:
    again = _estimator(3e5).estimate(_grainy(3e5)[1])
    assert np.array_equal(again.samples, lit.samples)


def test_a_free_pose_and_flux_go_with_it() -> None:
    image, data = _grainy(3e5)
    estimator = _estimator(3e5, Nuisances(flux=0.05, shift_m=40e-6, rotation_rad=0.1, scale=0.05))
    found = estimator.estimate(replace(data, frames=1.05 * data.frames))
    assert found.missed > 0
    assert found.flux[0] == pytest.approx(1.05, abs=5 * max(found.flux[1], 0.01))
    assert -10 * np.log10(np.square(found.mean - image.numpy()).mean()) > 24
