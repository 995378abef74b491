"""Every likelihood of a pixel: slopes, information, agreement where there is much light, and the choice among them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from recon.codenoise import CodeMixed
from recon.counting import Counting
from recon.exactnoise import ExactMixed
from recon.information import exact_information, sandwich
from recon.likelihoods import LIKELIHOODS, choose, likelihood_named
from recon.noise import MixedGaussian, PaperPoisson, ShiftedPoisson, TruePoisson
from recon.readkernel import gaussian_kernel

NAMES = sorted(LIKELIHOODS)
OF_THE_RIGHT_VARIANCE = ("mixed", "amplitude", "shifted-poisson", "exact")


def double(*values):
    return [torch.as_tensor(value, dtype=torch.float64) for value in values]


def scattered(seed=0, size=600, sigma=(0.2, 5.0)):
    """Intensities over eleven decades, each read out once."""
    rng = np.random.default_rng(seed)
    intensity = 10 ** rng.uniform(-6, 5, size)
    noise = np.exp(rng.uniform(*np.log(sigma), size))
    return double(intensity, rng.poisson(intensity) + noise * rng.normal(size=size), noise**2)


def test_the_family_is_complete_and_knows_its_names():
    assert set(NAMES) == {"mixed", "poisson", "amplitude", "true-poisson", "shifted-poisson", "exact"}
    for name in NAMES:
        assert likelihood_named(name).name == name
    with pytest.raises(ValueError, match=r"unknown likelihood 'best'; known: mixed, poisson"):
        likelihood_named("best")


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_slopes_of_the_values(name):
    expected, measured, variance = scattered()
    likelihood = likelihood_named(name)
    step = 1e-5 * expected
    above = likelihood.value(expected + step, measured, variance)
    below = likelihood.value(expected - step, measured, variance)
    slope = (above - below) / (2 * step)
    score = likelihood.score(expected, measured, variance)
    # Differences of values carry the values' rounding.
    noise = 1e-15 * above.abs() / step
    assert ((slope - score).abs() <= 1e-5 * score.abs() + 1e-5 * expected.rsqrt() + 10 * noise).all()


@pytest.mark.parametrize("name", NAMES)
def test_values_carry_gradients(name):
    expected, measured, variance = scattered(1, 40)
    likelihood = likelihood_named(name)
    asked = expected.clone().requires_grad_()
    likelihood.value(asked, measured, variance).sum().backward()
    assert asked.grad is not None
    torch.testing.assert_close(asked.grad, likelihood.score(expected, measured, variance), rtol=1e-6, atol=1e-9)
    rows = torch.ones(1, dtype=torch.float64, requires_grad=True)
    likelihood.value(rows, measured, variance).sum().backward()
    assert rows.grad is not None
    assert float(rows.grad) == pytest.approx(float(likelihood.score(rows.detach(), measured, variance).sum()), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_evaluating_is_the_three_at_once_and_everything_broadcasts(name):
    expected = torch.rand(3, 5, 7) * 4
    measured = torch.poisson(expected) + 0.3 * torch.randn(3, 5, 7)
    variance = torch.full((5, 7), 0.09)
    likelihood = likelihood_named(name)
    together = likelihood.evaluate(expected, measured, variance)
    apart = (likelihood.value, likelihood.score, likelihood.curvature)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other(expected, measured, variance))
        assert one.dtype == torch.float32
        assert one.shape == expected.shape
    single = likelihood.evaluate(expected[0, 0, 0], measured, variance)
    assert single[0].shape == measured.shape
    assert likelihood.fisher(expected[0, 0, 0], variance).shape == variance.shape


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(NAMES),
    intensity=st.floats(1e-6, 1e5),
    reading=st.floats(-1, 1e5),
    sigma=st.floats(0.2, 5.0),
)
def test_everything_is_finite_and_bends_upwards_in_single_precision(name, intensity, reading, sigma):
    i, x, v = torch.tensor([intensity]), torch.tensor([reading]), torch.tensor([sigma**2])
    likelihood = likelihood_named(name)
    value, score, curvature = likelihood.evaluate(i, x, v)
    assert torch.isfinite(value).all()
    assert torch.isfinite(score).all()
    assert torch.isfinite(curvature).all()
    assert (curvature >= 0).all()


@settings(deadline=None, max_examples=150)
@given(intensity=st.floats(1e-6, 1e5), reading=st.floats(-1, 1e5), sigma=st.floats(0.2, 5.0))
def test_more_electrons_speak_for_more_light_and_less_light_for_a_steeper_score(intensity, reading, sigma):
    i, x, v = double([intensity], [reading], [sigma**2])
    exact = ExactMixed(read_noise_e=(sigma, sigma))
    here = float(exact.score(i, x, v))
    assert float(exact.score(i, x + 0.5, v)) < here
    # -ln p is convex in I, so that one intensity alone fits a pixel best.
    assert float(exact.score(2 * i, x, v)) >= here - 1e-9 * abs(here)


@pytest.mark.parametrize("name", NAMES)
def test_all_agree_with_a_poisson_where_there_is_much_light(name):
    intensity, sigma = 4e4, 2.0
    reading = intensity + np.array([-300.0, -40.0, 10.0, 250.0])
    likelihood = likelihood_named(name)
    expected, measured, variance = double(np.full(4, intensity), reading, np.full(4, sigma**2))
    poisson = -stats.poisson.logpmf(np.round(reading), intensity)
    value = likelihood.value(expected, measured, variance).numpy()
    if name in ("poisson", "amplitude"):
        # These leave the density of sqrt X out.
        value = value + 0.5 * np.log(2 * np.pi * intensity)
    assert value == pytest.approx(poisson, abs=0.02)
    score = likelihood.score(expected, measured, variance).numpy()
    assert score * math.sqrt(intensity) == pytest.approx((1 - reading / intensity) * math.sqrt(intensity), abs=0.02)
    assert likelihood.fisher(expected, variance).numpy() == pytest.approx(1 / intensity, rel=1e-3)


@pytest.mark.parametrize("likelihood", [ExactMixed(), CodeMixed(gaussian_kernel(0.3, 0.1))], ids=["exact", "codes"])
def test_numbers_come_without_a_graph_even_from_what_carries_gradients(likelihood):
    expected = torch.rand(40, generator=torch.Generator().manual_seed(3), requires_grad=True)
    reading, variance = torch.linspace(-1, 3, 40), torch.full((40,), 0.09)
    plain = likelihood.evaluate(expected.detach(), reading, variance)
    for one, other in zip(likelihood.evaluate(expected, reading, variance), plain, strict=True):
        assert not one.requires_grad
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", [*NAMES, "codes"])
def test_nothing_waits_for_the_device(name):
    """A tensor without values raises where a program would read one."""
    given = {"exact": ExactMixed(read_noise_e=(0.28, 0.32)), "codes": CodeMixed(gaussian_kernel(0.3, 0.1), "meta")}
    likelihood = given[name] if name in given else likelihood_named(name)
    expected, variance = torch.ones(2, 3, 4, device="meta"), torch.ones(3, 4, device="meta")
    for part in likelihood.evaluate(expected, expected, variance):
        assert part.shape == expected.shape
    if name != "codes":  # whose information is tabulated at the first call, with the values
        assert likelihood.fisher(expected, variance).shape == expected.shape


def test_a_poisson_is_a_poisson_at_every_brightness():
    counts = np.array([0, 1, 3, 19, 20, 21, 400, 5000])
    for intensity in (1e-3, 0.7, 18.0, 4000.0):
        expected, measured, variance = double(np.full(8, intensity), counts, np.zeros(8))
        reference = -stats.poisson.logpmf(counts, intensity)
        value = TruePoisson().value(expected, measured, variance).numpy()
        assert value == pytest.approx(reference, rel=1e-6, abs=1e-6)


def test_the_papers_value_is_twice_its_loss_and_eq_1s_half():
    expected, measured, variance = scattered(2, 30, (0.3, 2.0))
    one = torch.ones(30, dtype=torch.float64)
    paper, eq1 = PaperPoisson(), MixedGaussian()
    assert float(paper.value(expected, measured, variance).sum()) == pytest.approx(
        2 * float(paper(expected, measured, variance, one)), rel=1e-9
    )
    constant = 30 * math.log(2 * math.pi)
    assert 2 * float(eq1.value(expected, measured, variance).sum()) - constant == pytest.approx(
        float(eq1(expected, measured, variance, one)), rel=1e-9
    )


def test_own_information_is_the_mean_square_score_under_the_own_model():
    rng = np.random.default_rng(3)
    for intensity, v in ((0.05, 0.09), (2.0, 1.0)):
        total = intensity + v
        draws = {
            "mixed": rng.normal(intensity, math.sqrt(total), 400_000),
            "true-poisson": rng.poisson(intensity, 400_000),
            "shifted-poisson": rng.poisson(total, 400_000) - v,
            "exact": rng.poisson(intensity, 400_000) + math.sqrt(v) * rng.normal(size=400_000),
        }
        for name, readings in draws.items():
            expected, measured, variance = double(np.full(400_000, intensity), readings, np.full(400_000, v))
            likelihood = likelihood_named(name)
            squares = likelihood.score(expected, measured, variance).square()
            fisher = float(likelihood.fisher(expected[:1], variance[:1]))
            error = float(squares.std()) / math.sqrt(400_000)
            assert abs(float(squares.mean()) - fisher) < 4 * error + 1e-3 * fisher, name


@pytest.mark.parametrize("likelihood", [MixedGaussian(), ShiftedPoisson()], ids=["mixed", "shifted"])
@pytest.mark.parametrize(("intensity", "sigma"), [(1e-3, 0.3), (0.2, 0.3), (0.2, 2.3), (40.0, 0.6)])
def test_sandwiches_from_moments_are_those_by_quadrature(likelihood, intensity, sigma):
    found = sandwich(likelihood.score, intensity, sigma)
    slope, spread = likelihood.sandwich(*double(intensity, sigma**2))
    assert found.bias == pytest.approx(0, abs=1e-6 * math.sqrt(found.spread))
    assert found.slope == pytest.approx(float(slope), rel=1e-5)
    assert found.spread == pytest.approx(float(spread), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.3, 0.6, 1.0, 2.3])
def test_no_unbiased_score_beats_the_exact_one(sigma):
    for intensity in 10.0 ** np.arange(-5, 3):
        bound = 1 / exact_information(intensity, sigma)
        for likelihood in (MixedGaussian(), ShiftedPoisson()):
            assert sandwich(likelihood.score, intensity, sigma).variance > bound * (1 - 1e-6)


def relative_variance(score, intensity, sigma):
    """Of one pixel's estimate, over the exact likelihood's."""
    return sandwich(score, intensity, sigma).variance * exact_information(intensity, sigma)


@pytest.mark.parametrize(("eq1", "shifted"), [(4.9, 27.0), (2.0, 6.0), (1.4, 2.0), (1.25, 1.07)])
def test_one_intensity_explains_what_eq_1_and_the_shifted_poisson_lose_on_the_bench(eq1, shifted):
    """Variances of 22 modes at 1e2, 1e3, 1e4 and 1e6 photons an exposure and read noise 0.3, against one pixel's.

    The intensity at which one pixel loses as much as the bench by the shifted Poisson is where it does by Eq. 1, to a
    quarter: a beam is no single intensity.
    """
    level = brentq(
        lambda log: relative_variance(ShiftedPoisson().score, math.exp(log), 0.3) - shifted, math.log(1e-3), 0.5
    )
    assert relative_variance(MixedGaussian().score, math.exp(level), 0.3) == pytest.approx(eq1, rel=0.25)


def test_at_the_baslers_read_noise_eq_1_loses_nothing():
    losses = [relative_variance(MixedGaussian().score, level, 2.3) for level in 10.0 ** np.arange(-5, 4)]
    assert max(losses) < 1.015
    assert min(losses) >= 1 - 1e-6


def test_prepared_and_plain_are_one_likelihood():
    rng = np.random.default_rng(4)
    light = 10 ** rng.uniform(-3, 3, (2, 20, 20))
    frames = torch.from_numpy(rng.poisson(light) + 0.3 * rng.normal(size=light.shape))
    variance = torch.full((20, 20), 0.09, dtype=torch.float64)
    prepared = Counting(frames, variance)
    expected = torch.from_numpy(light * rng.uniform(0.8, 1.25, light.shape))
    value, slope = prepared(expected, slice(0, 2))
    other, changed = prepared(expected * 1.02, slice(0, 2))
    exact = ExactMixed()
    torch.testing.assert_close(slope, 2 * exact.score(expected, frames, variance), rtol=2e-4, atol=2e-4)
    difference = 2 * (exact.value(expected * 1.02, frames, variance) - exact.value(expected, frames, variance))
    torch.testing.assert_close(other - value, difference, rtol=1e-3, atol=1e-4)
    assert changed.shape == slope.shape


@pytest.mark.parametrize(
    ("numbers", "name", "words"),
    [
        ((0.3, 0.1, 1.0), "exact", r"read noise 0.3 e- leaves photons apart.*Eq. 1 would lose"),
        ((0.3, math.nan, 1e5), "exact", r"the brightest pixel holds 1e\+05 e-"),
        ((2.42, 2.6, 30.0), "mixed", r"above 1.5 e-, where the exact likelihood gains at most 3 %"),
        ((0.05, 0.1, 3.0), "true-poisson", r"below 0.1 e-, readings are whole electrons"),
        ((0.3, 1.0, 3.0), "codes", r"a digital number is 1 e- and the read noise before rounding 0.0816 e-"),
    ],
)
def test_the_camera_decides(numbers, name, words):
    choice = choose(*numbers)
    assert choice.likelihood.name == name
    assert choice.reason.startswith(f"{name}: ")
    assert choice.likelihood.evaluate(*(torch.ones(2) for _ in range(3)))[0].shape == (2,)
    assert re.search(words, choice.reason)


def test_a_measured_kernel_is_used_where_photons_are_resolved():
    kernel = gaussian_kernel(0.3, 0.1)
    choice = choose(0.3, 0.1, 1.0, kernel)
    assert choice.likelihood.name == "codes"
    assert "darks say what the noise is like" in choice.reason
    assert choose(2.42, 2.6, 1.0, gaussian_kernel(2.42, 2.6)).likelihood.name == "mixed"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((-1.0, 1.0, 1.0), r"read noise: -1.0 e- rms; .*record darks"),
        ((math.nan, 1.0, 1.0), r"read noise: nan"),
        ((1.0, 0.0, 1.0), r"gain: 0.0 electrons per digital number; it must be positive"),
        ((1.0, 1.0, -2.0), r"brightest pixel: -2.0 electrons"),
    ],
)
def test_impossible_cameras_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        choose(*numbers)
