"""Optima and grids of a small scene; the loss against the full model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.decoders.companion import Companion
from recon.decoders.direct import DirectDrawer
from recon.decoders.misfit import Misfit
from recon.decoders.mixture import Mixture
from recon.decoders.scatter import Scatter
from recon.landscape import Bench, Grid, View, curvature, find_optimum, landscapes, views
from recon.nodeloss import NodeLoss, node_loss
from recon.noise import MixedGaussian
from tests.recon import latentscene as bench

PHOTONS = 1e4
TRUE = torch.tensor([[0.5, -0.8, 0.3, 0.6, -0.4]])
LINE = np.linspace(-1, 1, 9)


@pytest.fixture(scope="module")
def view() -> View:
    package = bench.package()
    companion = Companion("bars", Mixture.normal(5), DirectDrawer.of(package), Misfit.even(1e-3), Scatter.even(), {})
    source = bench.light(PHOTONS)
    [found] = views(Bench(source, source.positions_m, bench.FIELD, np.zeros(4)), [(package, companion)], energy=0.99)
    return found


@pytest.fixture(scope="module")
def data():
    return bench.measured(bench.bar(TRUE)[0], bench.light(PHOTONS), 5)


@pytest.fixture(scope="module")
def mixed(view, data) -> NodeLoss:
    return node_loss("mixed", view.lit, data)


def test_the_optimum_is_near_the_truth_and_lowest_on_its_grid(view, mixed):
    found = find_optimum(view, mixed)
    assert found.converged
    spread = np.sqrt(np.diag(np.linalg.inv(curvature(view, mixed, found.zeta))))
    assert (np.abs((found.zeta - TRUE[0]).numpy()) < 5 * spread + 0.02).all()
    grid = Grid(found.zeta, LINE, LINE)
    told: list[tuple[int, int]] = []
    [values] = landscapes(view, grid, [mixed], lambda done, total: told.append((done, total)))
    assert values.shape == (9, 9)
    assert np.unravel_index(values.argmin(), values.shape) == (4, 4)
    assert values[4, 4] == pytest.approx(found.value, abs=0.05)
    assert told == [(81, 81)]


def test_differences_are_those_of_the_full_model(view, mixed, data):
    zeta = TRUE + 0.4 * torch.randn(4, 5, generator=torch.Generator().manual_seed(4))
    [values] = landscapes(view, Grid(zeta[0], np.array([0.0, 0.5]), np.array([0.0, -0.5])), [mixed])
    points = Grid(zeta[0], np.array([0.0, 0.5]), np.array([0.0, -0.5])).points()
    full = []
    for image in bench.bar(points):
        light = bench.fields(image, bench.light(PHOTONS)).abs().square()
        reading, variance = torch.from_numpy(data.frames).double(), torch.from_numpy(data.dark_variance).double()
        full.append(float(MixedGaussian().value(light, reading, variance).sum()))
    full = np.array(full)
    assert np.ptp(full) > 20
    np.testing.assert_allclose(values.ravel() - values[0, 0], full - full[0], rtol=0.08, atol=0.05 * np.ptp(full))


def test_the_first_coordinate_is_the_leading_component(view):
    points = Grid(TRUE[0], np.array([0.0, 1.0]), np.array([0.0, 2.0])).points()
    assert points.tolist() == [
        pytest.approx([0.5, -0.8, 0.3, 0.6, -0.4]),
        pytest.approx([0.5, 1.2, 0.3, 0.6, -0.4]),
        pytest.approx([1.5, -0.8, 0.3, 0.6, -0.4]),
        pytest.approx([1.5, 1.2, 0.3, 0.6, -0.4]),
    ]
    assert view.spread.tolist() == pytest.approx([1.0] * 5)


def test_a_wish_to_stop_is_heard(view, mixed):
    assert landscapes(view, Grid(TRUE[0], LINE, LINE), [mixed], stop=lambda: True) is None


def test_a_pose_moves_the_image_and_its_jacobian(view):
    source = bench.light(PHOTONS)
    package = bench.package()
    companion = Companion("bars", Mixture.normal(5), DirectDrawer.of(package), Misfit.even(1e-3), Scatter.even(), {})
    shift = bench.FIELD / bench.SIDE * 3
    where = Bench(source, source.positions_m, bench.FIELD, np.array([shift, 0.0, 0.0, 0.0]), 1.21)
    [moved] = views(where, [(package, companion)])
    image, jacobian = moved.drawn(moved.drawer, TRUE)
    plain, plain_jacobian = view.drawn(view.drawer, TRUE)
    assert torch.allclose(image[0, 3:], 1.1 * plain[0, :-3], atol=1e-3)
    before = plain_jacobian.view(1, bench.SIDE, bench.SIDE, 5)
    assert torch.allclose(jacobian.view(1, bench.SIDE, bench.SIDE, 5)[0, 3:], 1.1 * before[0, :-3], atol=1e-3)
