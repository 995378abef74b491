"""Likelihoods on nodes against sums over pixels: equal where every pixel is a node, close where few are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.dataset import Ptychogram
from recon.likelihoods import likelihood_named
from recon.nodeloss import NodeLoss, TableNodes, node_loss
from recon.paper import LitBlocks
from tests.recon import latentscene as bench

NAMES = ("mixed", "poisson", "exact", "amplitude")
PHOTONS = 3000.0
SOURCE = bench.light(PHOTONS)
ZETA = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)).clamp(-1.5, 1.5)


def _blocks(side: int) -> LitBlocks:
    camera = bench.operator(SOURCE, seconds=1.0)
    return LitBlocks.build(camera, bench.bar(ZETA), side=side, energy=0.97)


@pytest.fixture(scope="module")
def data() -> Ptychogram:
    """A bar, with dead and clipped pixels in the middle of the light."""
    taken = bench.measured(bench.bar(ZETA[:1])[0], SOURCE, 3)
    mask = taken.mask.copy()
    mask[90:94, 95] = False
    saturated = np.zeros(taken.frames.shape, bool)
    saturated[1, 97, 92:99] = True
    return replace(taken, mask=mask, saturated=saturated)


@pytest.fixture(scope="module")
def pixels() -> LitBlocks:
    return _blocks(1)


def _total(loss: NodeLoss, lit: LitBlocks, images: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(len(images), dtype=torch.float64)
    for j in range(len(lit.rows)):
        total += loss.value(j, lit.fields(j, images)[1]).double()
    return total + loss.offset


def _by_pixels(name: str, lit: LitBlocks, data: Ptychogram, images: torch.Tensor) -> torch.Tensor:
    """The likelihood itself, at the pixels that the nodes of `lit` are."""
    likelihood = likelihood_named(name)
    total = torch.zeros(len(images), dtype=torch.float64)
    wide = lit.grid[1]
    for j, index in enumerate(lit.chosen):
        row, column = (index // wide + lit.corner[0]).numpy(), (index % wide + lit.corner[1]).numpy()
        good = data.mask[row, column] & ~data.saturated[j][row, column]
        light = (lit.fields(j, images)[1] * bench.SECONDS)[torch.from_numpy(good)].double()
        reading = torch.from_numpy(data.frames[j][row, column][good]).double()[:, None].expand_as(light)
        variance = torch.from_numpy(data.dark_variance[row, column][good]).double()[:, None].expand_as(light)
        total += likelihood.value(light, reading, variance).sum(0)
    return total


@pytest.mark.parametrize("name", NAMES)
def test_with_a_node_a_pixel_it_is_the_likelihood(pixels, data, name):
    images = bench.bar(ZETA)
    found, true = _total(node_loss(name, pixels, data), pixels, images), _by_pixels(name, pixels, data, images)
    # Constants of the data may differ; differences between images must not.
    assert torch.allclose(found - found[0], true - true[0], atol=0.02, rtol=1e-4)
    assert (true - true[0]).abs().max() > 50


@pytest.mark.parametrize("name", NAMES)
def test_slopes_are_those_of_the_values(pixels, data, name):
    loss = node_loss(name, pixels, data)
    light = pixels.fields(2, bench.bar(ZETA))[1]
    along = torch.rand(light.shape, generator=torch.Generator().manual_seed(2)) * light
    step = 1e-2
    ahead, behind = (loss.value(2, light + sign * step * along).double() for sign in (1, -1))
    assert torch.allclose((ahead - behind) / (2 * step), (loss.slope(2, light) * along).sum(0).double(), rtol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_few_nodes_tell_images_apart_as_all_pixels_do(pixels, data, name):
    images = bench.bar(ZETA)
    sparse = _blocks(5)
    few = _total(node_loss(name, sparse, data), sparse, images)
    true = _by_pixels(name, pixels, data, images)
    # The square root of the light has a cusp at its zeros, which nodes resolve worst.
    assert torch.allclose(few - few[0], true - true[0], rtol=0, atol=0.03 * float(true.max() - true.min()))


def test_every_second_node_is_half_of_it(pixels, data):
    for name in NAMES:
        loss = node_loss(name, pixels, data)
        light = pixels.fields(0, bench.bar(ZETA))[1]
        half = loss.every(2)
        assert torch.allclose(half.slope(0, light[::2]), loss.slope(0, light)[::2])
        assert torch.allclose(half.fisher(0, light[::2]), loss.fisher(0, light)[::2])


def test_information_is_counted_in_the_light_of_one_second(pixels, data):
    loss = node_loss("mixed", pixels, data)
    light = pixels.fields(0, bench.bar(ZETA[:1]))[1]
    each = likelihood_named("mixed").fisher(light * bench.SECONDS, torch.full_like(light, bench.READ_NOISE**2))
    good = loss.fisher(0, light) > 0
    assert torch.allclose(loss.fisher(0, light)[good], each[good] * bench.SECONDS**2, rtol=1e-4)


def test_light_beyond_a_table_is_refused(pixels, data):
    loss = node_loss("exact", pixels, data)
    assert isinstance(loss, TableNodes)
    light = pixels.fields(0, bench.bar(ZETA[:1]))[1]
    with pytest.raises(ValueError, match=r"frame 0: .* electrons a pixel, its table ends"):
        loss.value(0, 1e6 * light)


@pytest.mark.parametrize("name", ["exact", "mixed"])
def test_bright_light_is_no_trouble(pixels, name):
    """Where thousands of electrons were counted and an image promises none, -ln p grows as X ln I, without end."""
    source = bench.light(1e6)
    lit = replace(pixels, rows=[part * (1e6 / PHOTONS) ** 0.5 for part in pixels.rows])
    bright = bench.measured(bench.bar(ZETA[:1])[0], source, 3)
    data = replace(bright, saturated=np.zeros(bright.frames.shape, bool))
    images = bench.bar(ZETA)
    found, true = _total(node_loss(name, lit, data), lit, images), _by_pixels(name, lit, data, images)
    assert (true - true[0])[1:].min() > 1e4
    assert torch.allclose(found - found[0], true - true[0], rtol=2e-3)


def test_an_unknown_likelihood_is_named(pixels, data):
    with pytest.raises(ValueError, match="unknown likelihood 'cauchy'; known: mixed"):
        node_loss("cauchy", pixels, data)
