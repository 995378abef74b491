"""Every loss against a plain reference, its gradient, its mask, and where its expectation is least."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from recon.noise import LOSSES, ExactMixed, MixedGaussian, PaperPoisson, loss_named, pixel_weights


def case(seed=0, top=6.0, size=(3, 8, 9)):
    rng = np.random.default_rng(seed)
    expected = rng.uniform(0.02, top, size)
    variance = rng.uniform(0.05, 0.3, size[1:])
    measured = rng.poisson(expected) + rng.normal(size=size) * np.sqrt(variance)
    weight = (rng.uniform(size=size) > 0.3).astype(float)
    return expected, measured, variance, weight


def tensors(arrays, dtype=torch.float32):
    return [torch.from_numpy(np.asarray(a)).to(dtype) for a in arrays]


def exact_density(expected, measured, variance):
    """Sum over electrons n of Poisson(n; I) Normal(X; n, s^2)."""
    n = np.arange(80)
    poisson = stats.poisson.pmf(n, np.asarray(expected)[..., None])
    normal = stats.norm.pdf(np.asarray(measured)[..., None], n, np.sqrt(np.asarray(variance))[..., None])
    return (poisson * normal).sum(-1)


REFERENCES = {
    "mixed": lambda i, x, s2: -2 * stats.norm.logpdf(x, i, np.sqrt(i + s2)) - np.log(2 * np.pi),
    "poisson": lambda i, x, s2: (np.sqrt(np.maximum(x, 0)) - np.sqrt(i)) ** 2,
    "amplitude": lambda i, x, s2: (
        4 * (np.sqrt(np.maximum(x + s2 + 3 / 8, 0)) - np.sqrt(i + s2 + 3 / 8)) ** 2  # noqa: RUF100
    ),
}


def test_every_loss_has_its_name():
    assert set(LOSSES) == {"mixed", "poisson", "amplitude", "exact"}
    for name in LOSSES:
        assert loss_named(name).name == name
    with pytest.raises(ValueError, match=r"unknown loss 'median'; known: mixed, poisson"):
        loss_named("median")


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_values_are_those_of_the_formula(name):
    expected, measured, variance, weight = case()
    reference = (weight * REFERENCES[name](expected, measured, variance)).sum()
    loss = PaperPoisson(floor=0.0) if name == "poisson" else loss_named(name)
    value = loss(*tensors((expected, measured, variance, weight), torch.float64))
    assert float(value) == pytest.approx(reference, rel=1e-9)


def test_the_floor_of_the_papers_loss_changes_little_and_bounds_its_slope():
    arguments = tensors(case(), torch.float64)
    assert float(PaperPoisson()(*arguments)) == pytest.approx(float(PaperPoisson(0.0)(*arguments)), rel=1e-3)
    dark = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    ones = torch.ones(1, 1, dtype=torch.float64)
    PaperPoisson()(dark, 4 * ones, ones, ones).backward()
    assert dark.grad is not None
    # d/dI (2 - sqrt(I + f))^2 = -(2 - sqrt f)/sqrt f
    assert float(dark.grad) == pytest.approx(-(2 - 0.01) / 0.01, rel=1e-6)


def test_the_exact_loss_is_the_explicit_sum_over_electrons_up_to_a_constant_of_the_data():
    expected, measured, variance, weight = case()
    other = expected * 0.6 + 0.1

    def reference(i):
        return -2 * (weight * np.log(exact_density(i, measured, variance))).sum()

    def value(i):
        return float(ExactMixed()(*tensors((i, measured, variance, weight), torch.float64)))

    assert value(expected) - value(other) == pytest.approx(reference(expected) - reference(other), rel=1e-5)
    # The constant: the normal's prefactor and the distance to the nearest whole number of electrons.
    nearest = np.maximum(np.round(measured), 0)
    constant = np.log(2 * np.pi * variance) + (measured - nearest) ** 2 / variance
    assert value(expected) + (weight * constant).sum() == pytest.approx(reference(expected), rel=1e-5)


def test_the_exact_loss_tells_one_electron_from_none_where_the_gaussian_cannot():
    variance = torch.full((1, 1), 0.01)
    one = torch.ones(1, 1)

    def gap(loss):
        bright, dark = one, torch.full((1, 1), 0.02)
        return float(loss(dark, one, variance, one) - loss(bright, one, variance, one))

    # ratio of P(1; 1) and P(1; 0.02), both Poisson
    assert gap(ExactMixed()) == pytest.approx(2 * np.log(np.exp(-1) / (0.02 * np.exp(-0.02))), rel=1e-3)
    assert gap(MixedGaussian()) > 3 * gap(ExactMixed())


def test_single_precision_holds():
    arrays = case(3)
    for name in LOSSES:
        single = float(loss_named(name)(*tensors(arrays)))
        double = float(loss_named(name)(*tensors(arrays, torch.float64)))
        assert single == pytest.approx(double, rel=1e-4), name


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_finite_differences(name):
    expected, measured, variance, weight = tensors(case(5, size=(1, 4, 4)), torch.float64)
    loss = loss_named(name)
    expected.requires_grad_()
    assert torch.autograd.gradcheck(lambda i: loss(i, measured, variance, weight), (expected,), eps=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_masked_pixels_do_not_count_whatever_they_hold(name):
    expected, measured, variance, weight = tensors(case(6))
    loss = loss_named(name)
    clean = loss(expected, measured, variance, weight)
    spoiled = torch.where(weight > 0, measured, torch.full_like(measured, 6e4))
    expected.requires_grad_()
    value = loss(expected, spoiled, variance, weight)
    assert float(value.detach()) == pytest.approx(float(clean), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, expected)
    assert gradient[weight == 0].abs().max() == 0
    assert gradient[weight > 0].abs().min() > 0


def test_the_exact_loss_refuses_bright_pixels_and_names_the_way_out():
    bright = torch.full((1, 2, 2), 30.0)
    variance, weight = torch.full((2, 2), 0.09), torch.ones(2, 2)
    with pytest.raises(ValueError, match=r"a pixel holds 30 electrons.*use the loss 'mixed'"):
        ExactMixed()(bright, bright, variance, weight)
    ExactMixed(60)(bright, bright, variance, weight)


@pytest.mark.parametrize("true", [0.05, 0.7, 6.0])
@pytest.mark.parametrize("name", ["mixed", "exact"])
def test_the_expected_loss_is_least_at_the_true_intensity(name, true):
    variance = 0.09
    x = np.linspace(-2.4, 24, 6001)
    density = exact_density(np.full_like(x, true), x, np.full_like(x, variance))
    assert integrate.trapezoid(density, x) == pytest.approx(1, abs=1e-6)
    weight = density * (x[1] - x[0])
    loss = ExactMixed(80) if name == "exact" else loss_named(name)

    def mean_loss(level):
        i = torch.tensor(level, dtype=torch.float64, requires_grad=True)
        arguments = tensors((x[None], np.full_like(x[None], variance), weight[None]), torch.float64)
        value = loss(i.expand(1, len(x)), *arguments)
        (slope,) = torch.autograd.grad(value, i)
        return float(value.detach()), float(slope)

    value, slope = mean_loss(true)
    # Fisher's bound on a slope of order 1/I keeps this from passing by flatness.
    assert slope == pytest.approx(0, abs=2e-4 / true)
    assert mean_loss(true * 0.7)[0] > value + 1e-4
    assert mean_loss(true * 1.4)[0] > value + 1e-4


def test_weights_are_the_good_pixels_that_are_not_clipped():
    mask = torch.tensor([[True, False], [True, True]])
    clipped = torch.tensor([[[False, False], [True, False]], [[True, False], [False, False]]])
    assert pixel_weights(mask, None).tolist() == [[1, 0], [1, 1]]
    assert pixel_weights(mask, clipped).tolist() == [[[1, 0], [0, 1]], [[0, 0], [1, 1]]]
