"""The exact likelihood against an explicit sum in extended precision, over all brightnesses and read noises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from recon.exactnoise import PIECE, ExactMixed, mode, poisson_log, series_terms

SIZE = 500


def reference(intensity, reading, sigma):
    """-ln p, its slope and its curvature, every term that counts in extended precision."""
    reach = 14 * sigma + 40 + 30 * sigma**2
    n = np.arange(max(0, int(reading - reach)), int(max(reading, 0) + reach) + 1).astype(np.longdouble)
    i, s = np.longdouble(intensity), np.longdouble(sigma)
    log = n * np.log(i) - gammaln(n.astype(float) + 1) - ((reading - n) / s) ** 2 / 2
    top = log.max()
    term = np.exp(log - top)
    total = term.sum()
    mean = (term * n).sum() / total
    variance = (term * (n - mean) ** 2).sum() / total
    value = i - top - np.log(total) + np.log(2 * np.longdouble(math.pi) * s**2) / 2
    return float(value), float((i - mean) / i), float((mean - variance) / i**2)


@pytest.fixture(scope="module")
def cases():
    """(intensity, reading, sigma) float32-exact: half likely ones, half any combination of the ranges."""
    rng = np.random.default_rng(11)
    intensity = 10 ** rng.uniform(-6, 5, SIZE)
    sigma = np.exp(rng.uniform(math.log(0.2), math.log(5), SIZE))
    likely = rng.poisson(intensity) + sigma * rng.normal(size=SIZE)
    any_reading = 10 ** rng.uniform(-1, 5, SIZE) - 1.1
    reading = np.where(rng.random(SIZE) < 0.5, likely, any_reading).clip(-1, 1e5)
    variance = torch.from_numpy(sigma**2).float().double()
    arrays = [torch.from_numpy(intensity).float().double(), torch.from_numpy(reading).float().double(), variance]
    rows = zip(*(part.numpy() for part in (arrays[0], arrays[1], variance.sqrt())), strict=True)
    return arrays, np.array([reference(*row) for row in rows])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["double", "single"])
def test_value_and_score_are_the_sums_from_a_millionth_of_a_photon_to_full_well(cases, dtype):
    arrays, truth = cases
    exact = ExactMixed()
    inputs = [part.to(dtype) for part in arrays]
    value, score, curvature = (part.double().numpy() for part in exact.evaluate(*inputs))
    assert np.isfinite(value).all()
    # Nats; in single precision a value of 10^6 nats has no thousandths.
    rounding = 0.0 if dtype is torch.float64 else 3e-7
    assert (np.abs(value - truth[:, 0]) < 1e-3 + rounding * np.abs(truth[:, 0])).all()
    # Relative, or of a typical score where this one happens to cross zero.
    typical = exact.fisher(arrays[0], arrays[2]).sqrt().numpy()
    assert (np.abs(score - truth[:, 1]) < 1e-5 * np.maximum(np.abs(truth[:, 1]), typical)).all()
    # Where nothing bends, the sum's own rounding is left.
    bends = truth[:, 2] > 1e-9
    assert np.abs(curvature / np.where(bends, truth[:, 2], 1) - 1)[bends].max() < (1e-5 if rounding == 0 else 2e-2)
    if dtype is torch.float64:
        crossing = np.abs(truth[:, 1]) > 1e-6 * typical
        assert (np.abs(score - truth[:, 1]) < 1e-4 * np.abs(truth[:, 1]))[crossing].all()


def test_no_seam_shows_between_neighbouring_brightnesses():
    for sigma in (0.2, 0.3, 1.0, 2.3, 5.0):
        intensity = torch.logspace(-3, 4, 20_001, dtype=torch.float64)
        reading = torch.full_like(intensity, 57.3)
        variance = torch.full_like(intensity, sigma**2)
        score = ExactMixed().score(intensity, reading, variance)
        slope = torch.diff(score) / torch.diff(intensity)
        curvature = ExactMixed().curvature(intensity, reading, variance)
        middle = 0.5 * (curvature[1:] + curvature[:-1])
        assert ((slope - middle).abs() < 1e-3 * middle + 1e-12).all()


@pytest.mark.parametrize("sigma", [0.2, 0.3, 1.0])
def test_the_density_integrates_to_one(sigma):
    for intensity in (1e-4, 0.3, 8.0):
        x = torch.arange(
            -9 * sigma, intensity + 9 * math.sqrt(intensity) + 14 + 9 * sigma, sigma / 8, dtype=torch.float64
        )
        density = (-ExactMixed().value(torch.full_like(x, intensity), x, torch.full_like(x, sigma**2))).exp()
        assert float(density.sum()) * sigma / 8 == pytest.approx(1, abs=2e-6)


def test_darkness_itself_has_a_finite_score():
    zero, one = torch.zeros(3), torch.tensor([-1.0, 0.0, 1.0])
    value, score, _ = ExactMixed().evaluate(zero, one, torch.full((3,), 0.09))
    assert torch.isfinite(value).all()
    # 1 - p(X | one electron)/p(X | none)
    assert score[:2].tolist() == pytest.approx([1 - math.exp(-1.5 / 0.09), 1 - math.exp(-0.5 / 0.09)], rel=1e-4)
    assert float(score[2]) == pytest.approx(1 - math.exp(0.5 / 0.09), rel=1e-3)


def test_the_mode_is_the_largest_term():
    rng = np.random.default_rng(2)
    intensity, reading = torch.from_numpy(10 ** rng.uniform(-6, 3, 300)), torch.from_numpy(rng.uniform(-2, 400, 300))
    variance = torch.from_numpy(rng.uniform(0.04, 25, 300))
    n = torch.arange(700, dtype=torch.float64)[:, None]
    log = n * intensity.log() - torch.lgamma(n + 1) - 0.5 * (reading - n) ** 2 / variance
    found = mode(intensity, reading, variance)
    chosen = found * intensity.log() - torch.lgamma(found + 1) - 0.5 * (reading - found) ** 2 / variance
    torch.testing.assert_close(chosen, log.max(0).values, rtol=1e-9, atol=1e-9)


def test_poisson_probabilities_do_not_cancel_in_single_precision():
    n = torch.tensor([0.0, 1.0, 2.0, 30.0, 1e4, 99_000.0, 5.0])
    intensity = torch.tensor([0.3, 1.1, 40.0, 28.0, 1.01e4, 1e5, 1e-6])
    reference = intensity.double() - n.double() * intensity.double().log() + torch.lgamma(n.double() + 1)
    torch.testing.assert_close(poisson_log(n, intensity).double(), reference, rtol=2e-6, atol=2e-5)


def test_a_given_range_of_read_noise_is_the_same_likelihood():
    intensity = torch.rand(500) * 3
    variance = torch.rand(500) * 0.06 + 0.06
    reading = torch.poisson(intensity) + variance.sqrt() * torch.randn(500)
    given = ExactMixed(read_noise_e=(0.24, 0.35))
    for one, other in zip(
        given.evaluate(intensity, reading, variance), ExactMixed().evaluate(intensity, reading, variance), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_pieces_are_the_whole():
    intensity = torch.rand(3, PIECE // 2 + 77)
    reading, variance = torch.poisson(intensity), torch.full((PIECE // 2 + 77,), 0.1)
    whole = ExactMixed().evaluate(intensity, reading, variance)
    for row in range(3):
        part = ExactMixed().evaluate(intensity[row], reading[row], variance)
        for one, other in zip(whole, part, strict=True):
            assert torch.equal(one[row], other)


@pytest.mark.parametrize("sigma", [0.2, 0.3, 1.0, 2.3])
def test_the_series_is_the_likelihood_over_that_of_darkness(sigma):
    intensity = torch.logspace(-6, 0.3, 40, dtype=torch.float64)[:, None]
    reading = torch.linspace(-1.0, 4.0, 11, dtype=torch.float64)
    variance = torch.full((11,), sigma**2, dtype=torch.float64)
    exact = ExactMixed()
    terms = series_terms(2.0, 4.0, sigma)
    ratios = exact.series(reading, variance, terms)
    assert ratios.shape == (terms, 11)
    n = torch.arange(1, terms + 1, dtype=torch.float64)[:, None, None]
    together = torch.cat([torch.zeros(1, 40, 11, dtype=torch.float64), ratios[:, None] + n * intensity.log()])
    log = torch.logsumexp(together, 0) - intensity
    dark = 0.5 * (reading**2 / variance + (2 * math.pi * variance).log())
    torch.testing.assert_close(log, dark - exact.value(intensity, reading, variance), rtol=1e-6, atol=2e-5)


def test_the_series_does_not_overflow_as_logarithms():
    ratios = ExactMixed().series(torch.tensor([300.0]), torch.tensor([0.04]), 12)
    assert torch.isfinite(ratios).all()
    assert (ratios > 1000).all()
