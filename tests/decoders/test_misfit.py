"""The misfit's table: what lies in which bin, bins that few pixels fill, and that it foretells what it measured."""

from __future__ import annotations

import pytest
import torch

from recon.decoders.misfit import CONTRASTS, LEVELS, Misfit


def test_flat_images_fill_the_bins_of_no_contrast():
    drawn = torch.stack([torch.full((10, 10), 0.04), torch.full((10, 10), 0.54), torch.full((10, 10), 1.0)])
    errors = torch.tensor([0.01, 0.2, 0.05])
    table = Misfit.measured(drawn + errors[:, None, None], drawn).variance
    assert table.shape == (LEVELS, CONTRASTS)
    mean = float(errors.square().mean())
    for level, error in zip((0, 6, LEVELS - 1), errors.tolist(), strict=True):
        expected = (100 * error**2 + 20 * mean) / 120
        assert float(table[level, 0]) == pytest.approx(expected, rel=1e-4)
    assert float(table[3, 5]) == pytest.approx(mean, rel=1e-4)  # nothing lies there


def test_an_edge_is_known_by_its_neighbours():
    drawn = torch.zeros(1, 6, 6)
    drawn[:, :, 3:] = 1
    images = drawn.clone()
    images[:, :, 2:4] -= 0.5  # wrong at the edge alone
    foretold = Misfit.measured(images.repeat(200, 1, 1), drawn.repeat(200, 1, 1)).of(drawn)[0]
    assert torch.allclose(foretold[:, 2:4], torch.full((6, 2), 0.25), rtol=0.02)
    assert float(foretold[:, :2].max()) < 1e-2
    assert float(foretold[:, 4:].max()) < 1e-2


def test_errors_that_follow_the_table_have_unit_z():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(600, 12, 12, generator=generator)
    scale = 0.02 + 0.1 * drawn
    first, second = (drawn + scale * torch.randn(drawn.shape, generator=generator) for _ in range(2))
    misfit = Misfit.measured(first, drawn)
    z = ((second - drawn).square() / misfit.of(drawn)).mean().sqrt()
    assert float(z) == pytest.approx(1, abs=0.03)


def test_shapes_and_the_even_table():
    misfit = Misfit.even(0.04)
    assert misfit.of(torch.rand(5, 8, 8)).shape == (5, 8, 8)
    assert misfit.of(torch.rand(2, 3, 8, 8)).shape == (2, 3, 8, 8)
    assert torch.equal(misfit.of(torch.rand(8, 8)), torch.full((8, 8), 0.04))
