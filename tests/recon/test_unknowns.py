"""The gauges of the positions, and the adjoint of how they are put together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recon.unknowns import Unknowns


def unknowns(lit=None):
    nominal = torch.from_numpy(np.random.default_rng(1).normal(size=(20, 2))) * 12 + 3
    lit = torch.ones(20, dtype=torch.bool) if lit is None else lit
    field = torch.ones(1, 4, 4, dtype=torch.complex128)
    u = Unknowns(torch.ones(8, 8, dtype=torch.complex128), field, nominal, torch.arange(20), lit)
    u.affine.copy_(torch.tensor([1.0, 0.6, -0.4]))
    u.deviation.copy_(torch.from_numpy(np.random.default_rng(2).normal(size=(20, 2))) + torch.tensor([0.7, -0.3]))
    return u


def linear_part(u):
    centred = u.nominal_px - u.nominal_px.mean(0)
    moved = u.positions_px()
    return torch.linalg.lstsq(centred, moved - moved.mean(0)).solution.T


def test_positions_keep_their_mean_and_scale():
    u = unknowns()
    torch.testing.assert_close(u.positions_px().mean(0), u.nominal_px.mean(0))
    linear = linear_part(u)
    assert float(torch.trace(linear)) == pytest.approx(2, abs=1e-9)
    # rotation by 1 px at the rms radius
    assert float(linear[1, 0] - linear[0, 1]) == pytest.approx(2.0 / u.radius, rel=1e-9)


def test_dark_points_follow_the_affine_map_of_the_lit():
    lit = torch.arange(20) % 4 != 0
    u = unknowns(lit)
    assert float(u.own()[~lit].abs().max()) < 1e-12
    own = u.own()[lit]
    assert float(own.abs().max()) > 0.5
    plane = torch.cat((torch.ones(15, 1, dtype=torch.float64), u.centred[lit]), 1)
    torch.testing.assert_close(plane.T @ own, torch.zeros(3, 2, dtype=torch.float64), atol=1e-9, rtol=0)


def test_the_pull_back_is_the_adjoint():
    u = unknowns(torch.arange(20) != 3)
    gradient = torch.from_numpy(np.random.default_rng(3).normal(size=(20, 2)))
    affine, deviation = u.pulled(gradient)
    for name, slope in (("affine", affine), ("deviation", deviation)):
        tensor = getattr(u, name)
        direction = torch.from_numpy(np.random.default_rng(4).normal(size=tuple(tensor.shape)))
        before = u.positions_px()
        tensor.add_(direction)
        change = u.positions_px() - before
        assert float((slope * direction).sum()) == pytest.approx(float((gradient * change).sum()), rel=1e-9)


def test_a_snapshot_comes_back():
    u = unknowns()
    kept = u.snapshot()
    before = u.positions_px()
    u.deviation.zero_()
    u.object.zero_()
    u.load(kept)
    torch.testing.assert_close(u.positions_px(), before)
    assert u.object.abs().sum() > 0
