"""Mixtures: density, gradient and draws against independent computations, and what expectation maximisation finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from recon.decoders import mixture as module
from recon.decoders.mixture import Mixture, fit_mixture, maximised
from tests.decoders.toys import toy_mixture


def _double(prior: Mixture) -> Mixture:
    return Mixture(prior.weights.double(), prior.means.double(), prior.factors.double(), prior.labels)


def _covariances(prior: Mixture) -> torch.Tensor:
    return prior.factors @ prior.factors.mT


def test_the_density_is_scipys():
    prior = toy_mixture()
    points = prior.sample(50, 1)
    parts = [
        float(w) * multivariate_normal(m.numpy(), c.numpy()).pdf(points.numpy())
        for w, m, c in zip(prior.weights, prior.means, _covariances(prior), strict=True)
    ]
    np.testing.assert_allclose(prior.log_density(points).numpy(), np.log(np.sum(parts, 0)), atol=2e-5)
    np.testing.assert_allclose(prior.joint(points).exp().T.numpy(), np.array(parts), rtol=1e-4, atol=1e-12)


def test_whitened_is_the_solution_of_the_triangular_system():
    prior = toy_mixture()
    points = 2 * prior.sample(20, 2)
    difference = points[:, None] - prior.means
    back = torch.einsum("kij,nkj->nki", prior.factors, prior.whitened(points))
    assert torch.allclose(back, difference, atol=1e-5)


def test_gradient_and_precision_are_those_of_the_density():
    prior = _double(toy_mixture())
    points = prior.sample(12, 3).double()
    value, gradient, precision = prior.terms(points)
    assert torch.allclose(value, prior.log_density(points))
    step = 1e-5
    for axis in range(prior.size):
        shift = step * torch.eye(prior.size, dtype=torch.float64)[axis]
        slope = (prior.log_density(points + shift) - prior.log_density(points - shift)) / (2 * step)
        assert torch.allclose(slope, gradient[:, axis], atol=1e-6)
    assert torch.allclose(precision, precision.mT)
    assert torch.linalg.eigvalsh(precision).min() > 0
    inverses = torch.linalg.inv(_covariances(prior))
    assert torch.allclose(prior.precisions, inverses, atol=1e-8)


def test_with_one_component_the_precision_is_minus_the_second_derivative():
    prior = _double(toy_mixture()).of_class(7)
    points = prior.sample(3, 4).double()
    _, _, precision = prior.terms(points)
    for point, found in zip(points, precision, strict=True):
        hessian = torch.autograd.functional.hessian(lambda z: prior.log_density(z[None])[0], point)
        assert torch.allclose(-hessian, found, atol=1e-8)


def test_draws_have_the_moments_of_the_mixture_and_repeat():
    prior = toy_mixture()
    draws = prior.sample(40_000, 6)
    mean = prior.weights @ prior.means
    apart = prior.means - mean
    within = (prior.weights[:, None, None] * _covariances(prior)).sum(0)
    covariance = within + (prior.weights[:, None] * apart).T @ apart
    assert torch.allclose(draws.mean(0), mean, atol=0.06)
    assert torch.allclose(torch.cov(draws.T), covariance, atol=0.03 * float(covariance.diagonal().max()))
    assert torch.equal(draws, prior.sample(40_000, 6))
    assert not torch.equal(draws, prior.sample(40_000, 7))


def test_a_class_is_its_components_alone():
    prior = toy_mixture()
    part = prior.of_class(0)
    assert part.classes == [0]
    assert float(part.weights.sum()) == pytest.approx(1)
    assert torch.equal(part.means, prior.means[:2])
    with pytest.raises(ValueError, match=r"class 3 is not in this prior; it has 0, 7"):
        prior.of_class(3)


def test_class_probabilities_are_shares_of_the_density():
    prior = toy_mixture()
    points = prior.sample(30, 8)
    found = prior.classified(points)
    zero = float(prior.weights[:2].sum()) * prior.of_class(0).log_density(points).exp()
    assert torch.allclose(found.sum(1), torch.ones(30))
    assert torch.allclose(found[:, 0], zero / prior.log_density(points).exp(), atol=1e-4)


def test_the_unit_normal_is_the_unit_normal():
    prior = Mixture.normal(3)
    value, gradient, precision = prior.terms(torch.tensor([[1.0, 2.0, -1.0]]))
    assert float(value) == pytest.approx(-3 - 1.5 * np.log(2 * np.pi))
    assert torch.equal(gradient, torch.tensor([[-1.0, -2.0, 1.0]]))
    assert torch.equal(precision[0], torch.eye(3))


def test_one_component_is_the_mean_and_covariance_of_its_class():
    points = toy_mixture().sample(2000, 9)
    labels = (points[:, 0] > 0).long() * 4
    fitted = fit_mixture(points, labels, 1)
    assert fitted.labels.tolist() == [0, 4]
    for k, label in enumerate((0, 4)):
        members = points[labels == label]
        assert float(fitted.weights[k]) == pytest.approx(len(members) / 2000)
        assert torch.allclose(fitted.means[k], members.mean(0), atol=1e-4)
        assert torch.allclose(_covariances(fitted)[k], torch.cov(members.T, correction=0), atol=1e-3)


def test_a_known_mixture_is_found_again():
    truth = toy_mixture()
    points = truth.sample(6000, 10)
    fitted = fit_mixture(points, torch.zeros(6000, dtype=torch.int64), 3)
    unseen = truth.sample(4000, 11)
    assert float(truth.log_density(unseen).mean() - fitted.log_density(unseen).mean()) < 0.02
    nearest = torch.cdist(truth.means, fitted.means).argmin(1)
    assert sorted(nearest.tolist()) == [0, 1, 2]
    assert torch.allclose(fitted.means[nearest], truth.means, atol=0.15)
    assert torch.allclose(fitted.weights[nearest], truth.weights, atol=0.03)
    assert torch.allclose(_covariances(fitted)[nearest], _covariances(truth), atol=0.15)


def test_every_iteration_gains_likelihood_until_it_stops(monkeypatch):
    points = toy_mixture(seed=6).sample(3000, 12)
    reached = [float(maximised(points, 4, 0, iterations=n).log_density(points).mean()) for n in range(1, 9)]
    gains = np.diff(reached)
    assert (gains > -1e-4).all()  # the pull towards the class's covariance may cost a trace of likelihood
    assert gains[0] > 0.02
    calls = []
    counted = module._expected
    monkeypatch.setattr(module, "_expected", lambda *a: calls.append(1) or counted(*a))
    maximised(points, 2, 0, iterations=1000)
    assert len(calls) < 200


def test_chunks_make_no_difference(monkeypatch):
    points = toy_mixture().sample(700, 13)
    whole = maximised(points, 3, 0, iterations=5)
    monkeypatch.setattr(module, "CHUNK", 64)
    parts = maximised(points, 3, 0, iterations=5)
    assert torch.allclose(whole.means, parts.means, atol=1e-4)
    assert torch.allclose(whole.factors, parts.factors, atol=1e-4)


def test_few_images_get_few_components_and_no_variance_of_zero():
    same = torch.ones(5, 3)
    fitted = fit_mixture(torch.cat((same, torch.randn(130, 3, generator=torch.Generator().manual_seed(0)))),
                         torch.tensor([1] * 5 + [2] * 130), 8)  # fmt: skip
    assert fitted.labels.tolist() == [1, 2, 2]
    assert bool(fitted.factors.isfinite().all())
    assert float(fitted.factors.diagonal(dim1=1, dim2=2).min()) > 0
