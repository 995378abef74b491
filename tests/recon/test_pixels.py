"""Free pixels under total variation: likelihood, adjoint, proximal map, solver and the choice of strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.counting import PREPARED, Counting, Mixed
from recon.knownlight import KnownLight, coarse_probe
from recon.noise import ExactMixed, MixedGaussian
from recon.pixels import Proximal, as_channels, as_field, divergence, metric_of, slopes, solve, total_variation
from recon.strength import KAPPAS, noise_scale, validated
from tests.recon.test_reconstruct import data, grid_size, light

PHOTONS = 2e4


@pytest.fixture(scope="module")
def disc():
    """A bright disc in the dark, (M, M) amplitude."""
    axis = np.arange(grid_size()) - grid_size() // 2
    return np.where(np.hypot(axis[:, None], axis[None, :]) < 14, 0.9, 0.2).astype(np.float32)


@pytest.fixture(scope="module")
def lit(disc):
    torch.set_num_threads(1)
    return KnownLight.build(data(disc, PHOTONS), light(PHOTONS), 1)


@pytest.mark.parametrize(("kind", "reference"), [(Counting, ExactMixed()), (Mixed, MixedGaussian())])
def test_prepared_likelihoods_equal_their_plain_forms(kind, reference):
    generator = torch.Generator().manual_seed(1)
    frames = torch.poisson(2 * torch.ones(3, 8, 8), generator) + 0.3 * torch.randn(3, 8, 8, generator=generator)
    variance = torch.full((8, 8), 0.09)
    expected = (0.2 + 4 * torch.rand(3, 8, 8, generator=generator)).requires_grad_()
    other = torch.full_like(expected, 1.5)
    weight = torch.ones(1)
    plain = reference(expected, frames, variance, weight)
    plain.backward()
    likelihood = kind(frames, variance)
    value, slope = likelihood(expected.detach(), slice(0, 3))
    torch.testing.assert_close(slope, expected.grad, rtol=2e-3, atol=2e-3)
    # Constants of the measurement aside, values agree too.
    difference = value.sum() - likelihood(other, slice(0, 3))[0].sum()
    assert float(difference) == pytest.approx(
        float(plain.detach() - reference(other, frames, variance, weight)), rel=1e-3, abs=0.05
    )


def test_counting_is_finite_and_lowest_near_the_measured_at_every_brightness():
    for electrons in (0.0, 3.0, 40.0, 7000.0):
        frames = torch.full((1, 1, 1), electrons + 0.1)
        likelihood = Counting(frames, torch.full((1, 1), 0.09))
        tried = torch.linspace(0.5, 1.5, 41) * max(electrons, 1.0)
        values = torch.stack([likelihood(v.view(1, 1, 1), slice(0, 1))[0].squeeze() for v in tried])
        assert bool(torch.isfinite(values).all())
        if electrons:
            assert float(tried[values.argmin()]) == pytest.approx(electrons, rel=0.06)


def test_the_gradient_is_that_of_the_loss(lit):
    generator = torch.Generator().manual_seed(2)
    obj = torch.complex(*(0.3 + 0.3 * torch.rand(2, lit.size, lit.size, generator=generator)))
    way = torch.complex(*torch.randn(2, lit.size, lit.size, generator=generator)) * (metric_of(lit) > 0)
    likelihood = PREPARED["amplitude"](lit.frames, lit.variance)
    gradient = lit.loss(obj, likelihood, lit.good)[2]
    step = 1e-3
    ahead, back = (lit.loss(obj + sign * step * way, likelihood, lit.good)[0] for sign in (1, -1))
    expected = float((gradient.conj() * way).real.sum())
    assert (ahead - back) / (2 * step) == pytest.approx(expected, rel=5e-3)


def test_divergence_is_minus_the_adjoint_of_the_slopes():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 9, 7, generator=generator)
    p = torch.randn(2, 2, 9, 7, generator=generator)
    # Differences across the border do not exist.
    p[0, :, -1], p[1, :, :, -1] = 0, 0
    assert float((slopes(x) * p).sum()) == pytest.approx(-float((x * divergence(p)).sum()), rel=1e-4)


def test_total_variation_is_height_times_length():
    step = torch.zeros(1, 12, 12)
    step[:, :, 6:] = 0.8
    assert float(total_variation(step)) == pytest.approx(0.8 * 12)


@pytest.mark.parametrize("bounded", [False, True])
def test_no_nearby_image_is_better_than_the_proximal_map(bounded):
    generator = torch.Generator().manual_seed(4)
    metric = 1 + 4 * torch.rand(16, 16, generator=generator)
    v = torch.randn(1, 16, 16, generator=generator)
    proximal = Proximal(metric, 0.8, bounded, 1)
    x = v
    for _ in range(20):
        x = proximal(v, x)

    def objective(y):
        return float(((y - v).square() * metric).double().sum() / 2 + 0.8 * total_variation(y.double()))

    for _ in range(20):
        y = x + 0.02 * torch.randn(x.shape, generator=generator)
        assert objective(y.clamp(0, 1) if bounded else y) > objective(x) - 1e-4
    if bounded:
        assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_the_solver_says_whether_it_has_converged(lit):
    likelihood = PREPARED["exact"](lit.frames, lit.variance)
    start = as_channels(torch.full((lit.size, lit.size), 0.5, dtype=torch.complex64), True)
    keywords = {"bounded": True, "tolerance": 1e-3}
    strength = 0.4 * noise_scale(lit)
    short = solve(lit, likelihood, lit.good, start, strength, steps=3, **keywords)
    long = solve(lit, likelihood, lit.good, start, strength, steps=300, **keywords)
    assert not short.converged
    assert long.converged
    assert long.change < 1e-3
    assert long.losses[-1] < short.losses[-1] < short.losses[0]
    stopped = solve(lit, likelihood, lit.good, start, strength, steps=9, told=lambda n, _: n == 2, **keywords)
    assert stopped.interrupted
    assert len(stopped.losses) == 2


def test_the_strength_chosen_is_the_one_that_predicts_best(lit):
    likelihood = PREPARED["exact"](lit.frames, lit.variance)
    start = as_channels(torch.full((lit.size, lit.size), 0.5, dtype=torch.complex64), True)
    choice = validated(lit, likelihood, start, bounded=True, seed=0)
    assert choice.kappa in KAPPAS
    assert choice.kappa == min(choice.tried, key=lambda pair: pair[1])[0]
    assert 0.05 < choice.kappa < 2


def test_a_coarse_probe_keeps_the_energy():
    probe = light(100.0).probe
    for factor in (1, 2, 4):
        energy = float((np.abs(coarse_probe(probe, factor)) ** 2).sum())
        assert energy == pytest.approx(float((np.abs(probe) ** 2).sum()), rel=1e-4)
    field = torch.complex(*torch.rand(2, 4, 4))
    assert torch.equal(as_field(as_channels(field, False)), field)
