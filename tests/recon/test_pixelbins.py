"""Tables of bins against the exact likelihood of their pixels, one by one in double precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.bins import Bins
from recon.dataset import Ptychogram
from recon.exactnoise import ExactMixed
from recon.information import exact_information
from recon.noise import Likelihood, MixedGaussian, ShiftedPoisson
from recon.pixelbins import BRIGHTEST_E, MOST_E, NODES, PixelTables, read_noise_range
from tests.recon import latentscene as bench
from tests.recon.test_bins import has_the_slope_of_its_value

TRUE = torch.tensor([[0.4, -0.7, 0.3, 0.5, 0.2]])
NEAR = TRUE + 0.25 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
LIGHTS = torch.cat((torch.zeros(1), torch.logspace(-7, math.log10(BRIGHTEST_E), 80)[:-1]))
"""Electrons a pixel."""
Readings = tuple[Tensor, Tensor, Tensor]


def _readings(read_noise: float, pixels: int, light: float, bins: int = 200) -> Readings:
    """Readings, variances, which spread by a factor of two, and whether they count, (bins, pixels) each."""
    generator = torch.Generator().manual_seed(pixels)
    variance = read_noise**2 * (1 + torch.rand(bins, pixels, generator=generator))
    photons = torch.poisson(torch.full((bins, pixels), light), generator=generator)
    reading = photons + variance.sqrt() * torch.randn(bins, pixels, generator=generator)
    good = torch.rand(bins, pixels, generator=generator) < 0.9
    good[:, 0] = True
    return reading, variance, good


def _tables(*frames: Readings, most: int | None = None) -> PixelTables:
    spread = read_noise_range(torch.cat([variance[good] for _, variance, good in frames]))
    return PixelTables.build(spread, frames, most or max(len(reading) for reading, _, _ in frames))


def _lights(readings: Readings) -> Tensor:
    """(1, m, S) lights of the bins."""
    return LIGHTS * readings[2].sum(1)[None, :, None]


def _summed(readings: Readings) -> tuple[Tensor, Tensor]:
    """(m, S) minus the log-likelihood over that of no light, and its slope in the bins' lights, in double precision."""
    x, v, good = (part[:, :, None] for part in readings)
    x, v, light = x.double(), v.double(), LIGHTS.double().expand(*x.shape[:2], -1)
    value, score, _ = ExactMixed().evaluate(light, x.expand_as(light), v.expand_as(light))
    dark = 0.5 * (x.square() / v + (2 * math.pi * v).log())
    return torch.where(good, value - dark, 0.0).sum(1), torch.where(good, score, 0.0).sum(1) / good.sum(1)


@pytest.mark.parametrize("read_noise", [0.45, 0.7, 1.0, 1.5, 8.0])
@pytest.mark.parametrize("pixels", [1, 9])
@pytest.mark.parametrize("light", [0.003, 1.0])
def test_it_is_the_sum_over_the_pixels_of_a_bin(read_noise: float, pixels: int, light: float) -> None:
    readings = _readings(read_noise, pixels, light)
    cost, slope = _tables(readings).evaluate(_lights(readings))
    expected, steep = _summed(readings)
    # No light at all is a billionth of an electron to `ExactMixed`, which a reading of several electrons notices.
    error = (cost[0, :, 1:] - expected[:, 1:]).abs()
    assert float(error.max()) < 1e-3
    assert float(cost[0, :, 0].abs().max()) == 0
    # Of the slope what counts is its error times the light.
    assert float(((slope[0] - steep) * _lights(readings)[0])[:, 1:].abs().max()) < 5e-3


def test_the_slope_is_that_of_the_value() -> None:
    readings = _readings(0.6, 9, 0.5)
    tables = _tables(readings)
    light = _lights(readings)[:, :, 1:].double()
    step = 1e-5 * light
    wide = replace(tables, scale=tables.scale.double(), step=tables.step.double(), cubics=tables.cubics.double())
    numeric = (wide.cost(light + step) - wide.cost(light - step)) / (2 * step)
    _, slope = wide.evaluate(light)
    assert torch.allclose(slope, numeric, rtol=1e-4, atol=1e-4)


def test_beyond_the_table_it_goes_on_along_the_logarithm() -> None:
    readings = _readings(0.7, 9, 0.1)
    tables = _tables(readings)
    last = BRIGHTEST_E * tables.pixels[:, :, None]
    (value, slope), (there, slope_there) = (tables.evaluate(k * last) for k in (1.0, 1.001))
    assert torch.allclose(slope, slope_there, rtol=2e-3)
    assert torch.allclose(there, value + 0.001 * last * slope, rtol=1e-5, atol=1e-3)
    far, slope_far = tables.evaluate(100 * last)
    # Readings hold next to nothing: each photon that is too much costs its nat.
    assert torch.allclose(slope_far, torch.ones_like(slope_far), atol=0.05)
    assert bool(far.isfinite().all())


def test_a_reading_that_no_light_explains_stays_a_number() -> None:
    reading = torch.tensor([[MOST_E, -6.0, 0.1], [-6.0, -6.0, -6.0]])
    readings = reading, torch.full((2, 3), 0.2), torch.ones(2, 3, dtype=torch.bool)
    cost, slope = _tables(readings).evaluate(_lights(readings))
    assert bool(cost.isfinite().all())
    assert bool(slope.isfinite().all())
    assert float(cost[0, 0, 0]) == float(cost[0, 1, 0]) == 0
    # Twelve electrons where there are 24 explain some 1400 nats.
    assert float(cost[0, 0, -1]) == pytest.approx(float(_summed(readings)[0][0, -1]), rel=1e-4)
    # The more light, the likelier that one reading, all the way.
    assert bool(((_lights(readings) - cost)[0].diff(dim=1) >= 0).all())


def test_information_is_that_of_the_pixels() -> None:
    variance = torch.full((4, 9), 0.49)
    tables = _tables((torch.zeros(4, 9), variance, torch.ones(4, 9, dtype=torch.bool)))
    for light in (1e-3, 0.1, 2.0):
        found = tables.fisher(torch.full((1, 4, 1), 9 * light), variance.sum(1)[None])
        assert float(found[0, 0, 0]) == pytest.approx(exact_information(light, 0.7) / 9, rel=1e-3)


def test_information_is_the_spread_of_the_slopes() -> None:
    readings = _readings(0.6, 9, 0.05, bins=4000)
    tables = _tables(readings)
    light = 0.05 * tables.pixels[:, :, None]
    _, slope = tables.evaluate(light)
    variance = torch.where(readings[2], readings[1], 0.0).sum(1)[None]
    whitened = slope / tables.fisher(light, variance).sqrt()
    # Pixels of a bin count with their mean variance, which is some percent off where they differ by a factor of two.
    assert float(whitened.mean()) == pytest.approx(0.0, abs=0.06)
    assert float(whitened.square().mean()) == pytest.approx(1.0, abs=0.12)


def test_pixels_that_do_not_count_may_hold_anything() -> None:
    reading, variance, good = readings = _readings(0.7, 9, 0.1)
    for junk in (math.nan, math.inf, 1e9, -50.0):
        there = torch.where(good, reading, junk), torch.where(good, variance, junk), good
        assert torch.equal(_tables(there).cubics, _tables(readings).cubics)


def test_frames_joined_are_frames_built_together() -> None:
    first, second = _readings(0.7, 9, 0.1, bins=30), _readings(0.9, 4, 0.1, bins=20)
    joined = _tables(first).joined(_tables(second))
    together = _tables(first, second)
    assert joined.read_noise_e == together.read_noise_e
    for name in ("pixels", "scale", "step", "cubics"):
        assert torch.equal(getattr(joined, name), getattr(together, name)), name
    # What follows the second frame's bins says nothing.
    light = torch.ones(2, 30, 3)
    assert torch.equal(together.cost(light)[1, 20:], light[1, 20:])
    fewer = together.every(4)
    assert torch.equal(fewer.cost(light[:, ::4]), together.cost(light)[:, ::4])


# Bins of a frame.


def _data(photons: float, read_noise: float = 0.7) -> Ptychogram:
    return bench.measured(bench.bar(TRUE)[0], bench.light(photons), 0, read_noise)


def _bins(data: Ptychogram, frames: Sequence[int] = range(5), likelihood: Likelihood | None = None) -> Bins:
    camera = bench.operator(bench.light(2000.0))
    chosen, light = data.select(np.array(frames)), bench.light_map(camera).select(frames)
    return Bins.build(chosen, camera.select(list(frames)), light, likelihood or ExactMixed(), 5)


@pytest.fixture(scope="module")
def bins() -> Bins:
    return _bins(_data(2000.0))


def test_value_is_that_of_every_pixel(bins: Bins) -> None:
    # Bins of one pixel at this pitch, all but the dimmest of them.
    data, images = _data(2000.0), bench.bar(NEAR)
    found = bins.value(images).double()
    intensity = bins.operator.fields(images).abs().square().double()
    reading, variance = torch.from_numpy(data.frames).double()[:, None], torch.tensor(0.49).double()
    whole = ExactMixed().value(torch.zeros(()).double(), reading, variance) - ExactMixed().value(
        intensity, reading, variance
    )
    expected = whole.sum((0, 2, 3))
    assert float(expected.max()) > 100
    assert float((found - expected).abs().max()) < 0.02 * float(expected.abs().max())
    assert bins.counting == "pixels"


def test_bins_of_nine_pixels_hold_the_readings_of_their_own() -> None:
    pixel = bench.PIXEL / 2
    source = bench.light(2000.0, 150, (256, 256), pixel)
    data = bench.measured(bench.bar(TRUE)[0], source, 0, 0.7)
    camera = bench.operator(source)
    bins = Bins.build(data, camera, bench.light_map(camera, pixel), ExactMixed())
    assert bins.tables is not None
    assert float(bins.tables.pixels[0, 0]) == 9
    # The very pixels, by the light of each: that of their bin's middle is their mean within 0.3 %.
    image = bench.bar(TRUE)
    intensity = camera.fields(image)[:, 0].abs().square().double()
    reading, variance = torch.from_numpy(data.frames).double(), torch.tensor(0.49).double()
    whole = ExactMixed().value(torch.zeros(()).double(), reading, variance) - ExactMixed().value(
        intensity, reading, variance
    )
    assert float(bins.value(image)) == pytest.approx(float(whole.sum()), rel=0.03)
    assert float(bins.value(image)) > 100


def test_more_is_told_than_by_sums(bins: Bins) -> None:
    # Eq. 1 is no better than this one, whose own information is its precision.
    sums = _bins(_data(2000.0), likelihood=ShiftedPoisson())
    drawn = bench.scene().drawn(TRUE)
    ours, theirs = (part.terms(*drawn).information[0].logdet() / 5 for part in (bins, sums))
    assert float((ours - theirs).exp()) > 1.2


def test_gradient_is_the_slope_of_the_value(bins: Bins) -> None:
    has_the_slope_of_its_value(bins, 0.01)


def test_a_black_image_gives_zero(bins: Bins) -> None:
    black = torch.zeros(1, bench.SIDE, bench.SIDE)
    value, gradient = bins.slope(black)
    assert value.tolist() == bins.value(black).tolist() == [0.0]
    assert float(gradient.abs().max()) == 0


def test_masked_and_clipped_pixels_do_not_matter_whatever_they_hold() -> None:
    data = _data(2000.0)
    mask = np.ones(data.geometry.shape, bool)
    mask[88:93, 95:102] = False
    clipped = np.zeros(data.frames.shape, bool)
    clipped[1, 96:99, 96:99] = True
    clean = replace(data, mask=mask, saturated=clipped)
    for junk in (np.nan, 1e9):
        variance = data.dark_variance.copy()
        variance[~mask] = junk
        frames = np.where(clipped | ~mask, np.float32(junk), data.frames)
        here, there = (_bins(part) for part in (clean, replace(clean, frames=frames, dark_variance=variance)))
        assert torch.equal(here.value(bench.bar(NEAR)), there.value(bench.bar(NEAR)))
    assert not torch.allclose(here.value(bench.bar(NEAR)), _bins(data).value(bench.bar(NEAR)), atol=0.3)


def test_parts_joined_are_frames_looked_at_together(bins: Bins) -> None:
    data, images = _data(2000.0), bench.bar(NEAR)
    parts = [_bins(data, frames) for frames in ((0, 1), (2, 3, 4))]
    joined = parts[0].joined(parts[1])
    assert torch.allclose(joined.value(images), sum(part.value(images) for part in parts), rtol=1e-5)
    assert torch.allclose(joined.value(images), bins.value(images), rtol=0.02)
    assert joined.counting == "pixels"


def test_pixels_and_sums_are_not_joined(bins: Bins) -> None:
    sums = _bins(_data(2000.0), likelihood=MixedGaussian())
    with pytest.raises(ValueError, match="looked at as pixels and as bins"):
        bins.joined(sums)


def test_quick_is_every_so_many_th_bin(bins: Bins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recon.bins.QUICK_ROWS", sum(bins.counts) // 3)
    quick = bins.quick()
    assert bins.tables is not None
    assert quick.tables is not None
    assert torch.equal(quick.tables.cubics, bins.tables.cubics[:, ::3])
    assert quick.tables.cubics.shape[2] == NODES
    zeta = torch.cat((torch.randn(100, 5, generator=torch.Generator().manual_seed(2)), TRUE))
    assert float(quick.value(bench.bar(zeta))[100]) > float(quick.value(bench.bar(zeta)).median())
