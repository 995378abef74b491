"""Fisher information: the table against quadrature, quadrature against draws, and the limits that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon.exactnoise import ExactMixed
from recon.information import exact_information, fisher_table, grid


@pytest.mark.parametrize("sigma", [0.2, 0.3, 0.7, 2.3, 5.0])
def test_the_table_is_the_quadrature(sigma):
    levels = 10 ** np.random.default_rng(1).uniform(-6, 4, 25)
    truth = np.array([exact_information(level, sigma) for level in levels])
    expected = torch.from_numpy(levels)
    found = fisher_table(sigma, sigma).look_up(expected, torch.full_like(expected, sigma**2)).numpy()
    assert found == pytest.approx(truth, rel=2e-3)
    single = fisher_table(sigma, sigma).look_up(expected.float(), torch.full((25,), sigma**2)).numpy()
    assert single == pytest.approx(truth, rel=3e-3)


def test_a_table_over_read_noises_interpolates_between_them():
    table = fisher_table(0.25, 0.4)
    for sigma in (0.253, 0.3, 0.399):
        for level in (1e-5, 1e-3, 0.1, 3.0):
            found = table.look_up(torch.tensor(level), torch.tensor(sigma**2))
            assert float(found) == pytest.approx(exact_information(level, sigma), rel=5e-3)


@pytest.mark.parametrize(("intensity", "sigma"), [(0.01, 0.3), (0.3, 0.3), (0.3, 1.0), (20.0, 2.3)])
def test_information_is_the_mean_square_score(intensity, sigma):
    rng = np.random.default_rng(7)
    size = 400_000
    reading = torch.from_numpy(rng.poisson(intensity, size) + sigma * rng.normal(size=size))
    level, variance = torch.full_like(reading, intensity), torch.full_like(reading, sigma**2)
    squares = ExactMixed().score(level, reading, variance).square()
    error = float(squares.std()) / math.sqrt(size)
    assert abs(float(squares.mean()) - exact_information(intensity, sigma)) < 4 * error
    # Information is also the mean curvature.
    bends = ExactMixed().curvature(level, reading, variance)
    error = float(bends.std()) / math.sqrt(size)
    assert abs(float(bends.mean()) - exact_information(intensity, sigma)) < 4 * error


def test_limits_of_much_light_of_no_noise_and_of_darkness():
    assert exact_information(2000.0, 2.3) == pytest.approx(1 / (2000 + 2.3**2), rel=1e-5)
    assert exact_information(0.5, 0.1) == pytest.approx(2.0, rel=1e-3)
    # In darkness the score is 1 - exp((X - 1/2)/s^2), log-normal under the normal of no photon.
    assert exact_information(1e-6, 1.0) == pytest.approx(math.exp(1.0) - 1, rel=1e-3)


def test_read_noise_only_takes_information_away():
    for level in (1e-4, 1e-2, 1.0, 30.0):
        values = [exact_information(level, sigma) for sigma in (0.15, 0.3, 0.6, 1.2, 2.4)]
        assert values == sorted(values, reverse=True)
        assert values[0] < 1 / level * (1 + 1e-9)


def test_quadrature_knows_mean_and_variance():
    for intensity, sigma in ((1e-3, 0.3), (4.0, 0.2), (60.0, 2.3)):
        x, probability, mean = grid(intensity, sigma)
        assert probability.sum() == pytest.approx(1, abs=1e-9)
        assert (probability * x).sum() == pytest.approx(intensity, rel=1e-7)
        assert (probability * (x - intensity) ** 2).sum() == pytest.approx(intensity + sigma**2, rel=1e-6)
        assert (probability * mean).sum() == pytest.approx(intensity, rel=1e-7)


def test_read_noises_without_a_table_are_refused():
    with pytest.raises(ValueError, match=r"a read noise of 0.05 .. 0.3 e- lies outside 0.1 .. 20 e-; mask such pixels"):
        fisher_table(0.05, 0.3)
    with pytest.raises(ValueError, match=r"0.3 .. 40 e- lies outside"):
        ExactMixed().fisher(torch.ones(2), torch.tensor([0.09, 1600.0]))
