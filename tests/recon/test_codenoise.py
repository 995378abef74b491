"""The likelihood of codes: it sums to one, is the Gaussian one where steps are fine, and knows the measured noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from recon.codenoise import CodeMixed
from recon.exactnoise import ExactMixed
from recon.files.darks import DarkAccumulator, histogram_edges
from recon.information import exact_information
from recon.readkernel import FLOOR, gaussian_kernel, good_residuals, measured_kernel

CAMERAS = [(0.3, 0.1), (2.42, 2.6), (0.4, 1.0)]


def codes(intensity, noise, gain):
    """Every code that may occur, off the electrons' places by an odd fraction, in electrons."""
    low = -12 * noise
    high = intensity + 9 * math.sqrt(intensity) + 14 + 12 * noise
    return torch.arange(math.floor(low / gain), math.ceil(high / gain), dtype=torch.float64) * gain - 0.137 * gain


@pytest.mark.parametrize(("noise", "gain"), CAMERAS)
@pytest.mark.parametrize("intensity", [1e-6, 1e-2, 1.0, 30.0, 2e3])
def test_the_probabilities_of_all_codes_sum_to_one_and_the_mean_score_is_zero(noise, gain, intensity):
    likelihood = CodeMixed(gaussian_kernel(noise, gain))
    x = codes(intensity, noise, gain)
    value, score, _ = likelihood.evaluate(torch.full_like(x, intensity), x, torch.ones_like(x))
    chance = (-value).exp()
    assert float(chance.sum()) == pytest.approx(1, abs=5e-5)
    assert float((chance * score).sum()) == pytest.approx(0, abs=1e-4 / math.sqrt(intensity))


@pytest.mark.parametrize("intensity", [1e-3, 0.4, 25.0])
def test_it_is_the_explicit_sum_over_electrons_of_rounded_noise(intensity):
    noise, gain = 0.4, 1.0
    pure = math.sqrt(noise**2 - gain**2 / 12)
    x = codes(intensity, noise, gain)
    x = x[(x > -0.6) & (x < intensity + 4 * math.sqrt(intensity) + 3)]
    n = np.arange(80)
    r = x.numpy()[:, None] - n
    rounded = stats.norm.cdf((r + gain / 2) / pure) - stats.norm.cdf((r - gain / 2) / pure)
    reference = -np.log((rounded * stats.poisson.pmf(n, intensity)).sum(1))
    value = CodeMixed(gaussian_kernel(noise, gain)).value(torch.full_like(x, intensity), x, torch.ones_like(x))
    assert value.numpy() == pytest.approx(reference, abs=1e-3)


def test_fine_steps_are_the_exact_likelihood_of_normal_noise():
    rng = np.random.default_rng(5)
    intensity = torch.from_numpy(10 ** rng.uniform(-3, 4, 400))
    x = torch.from_numpy(rng.poisson(intensity.numpy()) + 0.3 * rng.normal(size=400))
    variance = torch.full_like(x, 0.09)
    fine = CodeMixed(gaussian_kernel(0.3, 0.03))
    exact = ExactMixed()
    # Of one code against a density per electron.
    torch.testing.assert_close(
        fine.value(intensity, x, variance) + math.log(0.03), exact.value(intensity, x, variance), rtol=0, atol=2e-2
    )
    typical = exact.fisher(intensity, variance).sqrt()
    difference = fine.score(intensity, x, variance) - exact.score(intensity, x, variance)
    assert (difference / typical).abs().max() < 1e-2
    assert fine.fisher(intensity, variance).numpy() == pytest.approx(
        exact.fisher(intensity, variance).numpy(), rel=0.01
    )


def test_scores_are_slopes_and_values_carry_gradients():
    likelihood = CodeMixed(gaussian_kernel(0.4, 1.0))
    intensity = torch.logspace(-5, 4, 60, dtype=torch.float64)
    x = torch.poisson(intensity) + 0.3
    one = torch.ones_like(x)
    step = 1e-5 * intensity
    slope = (likelihood.value(intensity + step, x, one) - likelihood.value(intensity - step, x, one)) / (2 * step)
    score = likelihood.score(intensity, x, one)
    torch.testing.assert_close(slope, score, rtol=1e-5, atol=1e-6)
    asked = intensity.clone().requires_grad_()
    likelihood.value(asked, x, one).sum().backward()
    assert asked.grad is not None
    torch.testing.assert_close(asked.grad, score)
    assert (likelihood.curvature(intensity, x, one) >= 0).all()


def test_single_precision_holds_from_a_millionth_of_a_photon_to_full_well():
    rng = np.random.default_rng(6)
    likelihood = CodeMixed(gaussian_kernel(0.3, 0.1))
    intensity = torch.from_numpy(10 ** rng.uniform(-6, 5, 500)).float()
    reading = torch.poisson(intensity) + 0.3 * torch.randn(500, generator=torch.Generator().manual_seed(1))
    reading[::7] = -1.0
    value, score, curvature = likelihood.evaluate(intensity, reading, torch.ones(500))
    truth = likelihood.evaluate(intensity.double(), reading.double(), torch.ones(500).double())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), truth[0], rtol=1e-5, atol=2e-3)
    typical = likelihood.fisher(intensity, torch.ones(500)).sqrt()
    assert ((score - truth[1]).abs() < 2e-3 * torch.maximum(typical, truth[1].abs())).all()
    assert torch.isfinite(curvature).all()


def test_the_series_is_the_likelihood_over_that_of_darkness():
    likelihood = CodeMixed(gaussian_kernel(0.3, 0.1))
    intensity = torch.logspace(-6, 0, 30, dtype=torch.float64)[:, None]
    x = torch.tensor([-0.43, 0.05, 0.4, 0.77, 1.1, 1.9], dtype=torch.float64)
    ratios = likelihood.series(x, torch.ones_like(x), 9)
    n = torch.arange(1, 10, dtype=torch.float64)[:, None, None]
    together = torch.cat([torch.zeros(1, 30, 6, dtype=torch.float64), ratios[:, None] + n * intensity.log()])
    log = torch.logsumexp(together, 0) - intensity
    value = likelihood.value(intensity, x, torch.ones_like(x))
    torch.testing.assert_close(log, -likelihood.log_kernel(x) - value, rtol=1e-6, atol=1e-6)


def test_a_reading_that_nothing_explains_says_little():
    kernel = gaussian_kernel(0.3, 0.1)
    likelihood = CodeMixed(kernel)
    far = torch.tensor([-40.0], dtype=torch.float64)
    value, score, _ = likelihood.evaluate(torch.full_like(far, 0.01), far, far)
    assert float(value) == pytest.approx(-math.log(FLOOR), rel=0.01)
    # All numbers of electrons are equally unlikely, so the reading tells nothing about them.
    assert abs(float(score)) < 1.01


def test_information_of_coarse_codes_depends_on_their_fraction_and_is_averaged():
    noise, gain = 0.4, 1.0
    likelihood = CodeMixed(gaussian_kernel(noise, gain))
    level, own = 0.05, []
    for fraction in np.linspace(0, 1, 16, endpoint=False):
        x = codes(level, noise, gain) + fraction
        value, score, _ = likelihood.evaluate(torch.full_like(x, level), x, x)
        own.append(float(((-value).exp() * score.square()).sum()))
    assert max(own) > 1.3 * min(own)
    found = float(likelihood.fisher(torch.tensor([level]), torch.ones(1)))
    assert found == pytest.approx(np.mean(own), rel=5e-3)
    # Rounding as if it were normal noise throws some of it away.
    assert found > exact_information(level, noise)


def residuals(rng, noise_adu, tail, size, dithered):
    """Dark codes minus their pixel's mean; `tail` of them three widths to the right."""
    place = rng.uniform(0, 1, size) if dithered else np.full(size, 0.3)
    x = noise_adu * rng.normal(size=size)
    x[rng.random(size) < tail] += 3 * noise_adu
    return np.rint(place + x) - place - tail * 3 * noise_adu


@pytest.mark.parametrize("dithered", [True, False])
@pytest.mark.parametrize(("noise_adu", "tail"), [(3.0, 0.0), (3.0, 0.01), (0.88, 0.02)])
def test_a_kernel_is_found_from_the_residuals_of_darks(noise_adu, tail, dithered):
    rng = np.random.default_rng(8)
    histogram, edges = np.histogram(residuals(rng, noise_adu, tail, 1_000_000, dithered), histogram_edges())
    kernel = measured_kernel(histogram, edges, 0.1)
    r = np.linspace(-3 * noise_adu, 5 * noise_adu, 200)

    def box(centre):
        return stats.norm.cdf((r + 0.5 - centre) / noise_adu) - stats.norm.cdf((r - 0.5 - centre) / noise_adu)

    mean = tail * 3 * noise_adu
    truth = (1 - tail) * box(-mean) + tail * box(3 * noise_adu - mean)
    found = kernel.probability(r)
    assert np.abs(found - truth).max() < 0.015 * truth.max()
    assert np.abs(found / truth - 1)[truth > 1e-3].max() < 0.1
    for fraction in (0.0, 0.21, 0.5):
        assert kernel.probability(np.arange(-60, 61) + fraction).sum() == pytest.approx(1, abs=1e-9)


def test_tails_make_an_electron_less_certain():
    rng = np.random.default_rng(9)
    histogram, edges = np.histogram(residuals(rng, 3.0, 0.01, 1_000_000, True), histogram_edges())
    measured, normal = CodeMixed(measured_kernel(histogram, edges, 0.1)), CodeMixed(gaussian_kernel(0.3, 0.1))
    dim, reading = torch.tensor([1e-3], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    # A tail at three widths looks like an electron, and one reading in a hundred is one.
    assert float(normal.score(dim, reading, dim)) < -150
    assert float(measured.score(dim, reading, dim)) > -100


def test_bad_pixels_are_left_out_of_the_residuals():
    rng = np.random.default_rng(10)
    darks = DarkAccumulator((40, 50), keep=6)
    good = np.ones((40, 50), bool)
    good[3, ::5] = False
    for _ in range(40):
        noise = np.where(good, 3.0, 60.0) * rng.normal(size=(40, 50))
        darks.add(np.rint(np.clip(300 + noise, 0, 4095)).astype(np.uint16))
    summary = darks.summary()
    kept = good_residuals(summary.raw, summary.mean, good, histogram_edges())
    assert kept.sum() == 6 * good.sum()
    assert measured_kernel(kept, histogram_edges(), 1.0).variance_e2 == pytest.approx(9 + 1 / 12, rel=0.05)
    assert measured_kernel(summary.histogram, histogram_edges(), 1.0).variance_e2 > 10.5


def test_noise_below_rounding_and_too_few_darks_are_refused():
    with pytest.raises(
        ValueError, match=r"0.2 e- rms is less than what rounding to 1 e- a digital number makes, 0.289 e-"
    ):
        gaussian_kernel(0.2, 1.0)
    with pytest.raises(ValueError, match=r"12 residuals of darks, it takes at least 1000; record more darks"):
        measured_kernel(np.array([4, 8]), np.array([0.0, 1.0, 2.0]), 1.0)
