"""Frames in bins against their likelihood pixel by pixel, and what bins may leave out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.bins import Bins
from recon.dataset import Ptychogram
from recon.noise import MixedGaussian
from tests.recon import latentscene as bench

TRUE = torch.tensor([[0.4, -0.7, 0.3, 0.5, 0.2]])
NEAR = TRUE + 0.25 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
NOISY = 2.3


def _bins(data: Ptychogram, photons: float, pixel_m: float = bench.PIXEL) -> Bins:
    side = data.geometry.shape[0]
    camera = bench.operator(bench.light(photons, 88, (side, side), pixel_m))
    return Bins.build(data, camera, bench.light_map(camera, pixel_m), MixedGaussian())


def _data(photons: float, read_noise: float = NOISY, seed: int = 0) -> Ptychogram:
    return bench.measured(bench.bar(TRUE)[0], bench.light(photons), seed, read_noise)


def test_value_is_that_of_every_pixel() -> None:
    # Bins of one pixel at this pitch, all but the dimmest of them.
    data = _data(3e5)
    bins = _bins(data, 3e5)
    images = bench.bar(NEAR)
    found = bins.value(images).double()
    intensity = bins.operator.fields(images).abs().square().double()
    reading, variance = torch.from_numpy(data.frames).double()[:, None], torch.tensor(NOISY**2).double()
    whole = -MixedGaussian().value(intensity, reading, variance).sum((0, 2, 3))
    apart, expected = found - found[0], whole - whole[0]
    assert float(expected.abs().max()) > 1000
    assert float((apart - expected).abs().max()) < 0.02 * float(expected.abs().max())
    black = -MixedGaussian().value(torch.zeros_like(intensity[:, 0]), reading[:, 0], variance).sum()
    assert torch.allclose(found, whole - black, rtol=0.01)


def test_bins_of_nine_pixels_are_sums() -> None:
    # At half the pitch three by three pixels are one bin; its light is that of its middle.
    pixel = bench.PIXEL / 2
    source = bench.light(3e5, 150, (256, 256), pixel)
    data = bench.measured(bench.bar(TRUE)[0], source, 0, NOISY)
    camera = bench.operator(source)
    bins = Bins.build(data, camera, bench.light_map(camera, pixel), MixedGaussian())
    assert float(bins.variance[0, 0]) == pytest.approx(9 * NOISY**2, rel=1e-5)
    # The expected light of all bins of the first frame is that of their pixels.
    half, local = bins.rows.shape[1] // 2, camera.local(bench.bar(TRUE)).flatten(2)[0, 0]
    light = (bins.rows[0, :half] @ local).square() + (bins.rows[0, half:] @ local).square()
    assert float(light.sum()) == pytest.approx(float(bins.measured[0].sum()), rel=0.02)
    spread = (bins.measured[0] - light) / (light + bins.variance[0]).sqrt()
    assert float(spread[: bins.counts[0]].std()) == pytest.approx(1.0, abs=0.1)


def test_padding_does_not_count() -> None:
    bins = _bins(_data(1e5), 1e5)
    used = torch.arange(bins.measured.shape[1]) < torch.tensor(bins.counts)[:, None]
    assert float(bins.measured[~used].abs().sum()) == 0
    assert bool((bins.variance[~used] == 1).all())


def has_the_slope_of_its_value(bins: Bins, atol: float) -> None:
    """Fails where a gradient is not the slope of the value, by differences along the latents."""
    terms = bins.terms(*bench.scene().drawn(NEAR))
    assert torch.allclose(terms.value, bins.value(bench.bar(NEAR)), rtol=1e-5, atol=atol)
    step = 0.02
    for axis in range(5):
        shift = torch.zeros(5)
        shift[axis] = step
        slope = (bins.value(bench.bar(NEAR + shift)) - bins.value(bench.bar(NEAR - shift))).double() / (2 * step)
        scale = float(terms.gradient.abs().max())
        assert float((terms.gradient[:, axis].double() - slope).abs().max()) < 0.01 * scale


def test_gradient_is_the_slope_of_the_value() -> None:
    has_the_slope_of_its_value(_bins(_data(1e5), 1e5), 0.5)


def test_information_is_the_spread_of_the_gradient() -> None:
    # Where the Gaussian is the truth.
    bins = _bins(_data(1e5), 1e5)
    image, jacobian = bench.scene().drawn(TRUE)
    half, local = bins.rows.shape[1] // 2, bins.operator.local(image).flatten(2).transpose(1, 2)
    fields = bins.rows @ local
    light = (fields[:, :half].square() + fields[:, half:].square())[:, :, 0]
    generator = torch.Generator().manual_seed(3)
    pulls = []
    for _ in range(60):
        noise = (light + bins.variance).sqrt() * torch.randn(light.shape, generator=generator)
        terms = replace(bins, measured=light + noise).terms(image, jacobian)
        pulls.append(terms.gradient[0])
    factor = torch.linalg.cholesky(terms.information[0])
    whitened = torch.linalg.solve_triangular(factor, torch.stack(pulls).T, upper=False)
    # 300 squares of unit normals: 8 % rms.
    assert float(whitened.square().mean()) == pytest.approx(1.0, abs=0.2)


def test_a_black_image_gives_zero() -> None:
    assert _bins(_data(1e5), 1e5).value(torch.zeros(1, bench.SIDE, bench.SIDE)).tolist() == [0.0]


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e9, -50.0])
def test_masked_and_clipped_pixels_do_not_matter_whatever_they_hold(junk: float) -> None:
    data = _data(1e5)
    mask = np.ones(data.geometry.shape, bool)
    mask[88:93, 95:102] = False
    clipped = np.zeros(data.frames.shape, bool)
    clipped[1, 96:99, 96:99] = True
    clean = replace(data, mask=mask, saturated=clipped)
    variance = data.dark_variance.copy()
    variance[~mask] = junk
    frames = np.where(clipped | ~mask, np.float32(junk), data.frames)
    here, there = (_bins(part, 1e5) for part in (clean, replace(clean, frames=frames, dark_variance=variance)))
    images = bench.bar(NEAR)
    assert torch.equal(here.value(images), there.value(images))
    assert here.electrons == there.electrons
    assert not torch.allclose(here.value(images), _bins(data, 1e5).value(images), atol=1.0)


def test_the_order_of_the_frames_does_not_matter() -> None:
    order = np.array([3, 0, 4, 2, 1])
    source, data = bench.light(1e5), _data(1e5)
    turned = bench.operator(replace(source, positions_m=source.positions_m[order]))
    there = Bins.build(data.select(order), turned, bench.light_map(turned), MixedGaussian())
    images = bench.bar(NEAR)
    assert torch.allclose(_bins(data, 1e5).value(images), there.value(images), rtol=1e-5)


def test_quick_is_every_so_many_th_bin(monkeypatch: pytest.MonkeyPatch) -> None:
    bins = _bins(_data(1e5), 1e5)
    monkeypatch.setattr("recon.bins.QUICK_ROWS", sum(bins.counts) // 3)
    quick, step = bins.quick(), 3
    half, fewer = bins.rows.shape[1] // 2, quick.rows.shape[1] // 2
    assert torch.equal(quick.measured, bins.measured[:, ::step])
    assert torch.equal(quick.rows[:, :fewer], bins.rows[:, :half:step])
    assert torch.equal(quick.rows[:, fewer:], bins.rows[:, half::step])
    assert quick.counts == [int((torch.arange(0, half, step) < count).sum()) for count in bins.counts]
    zeta = torch.cat((torch.randn(100, 5, generator=torch.Generator().manual_seed(2)), TRUE))
    assert int(quick.value(bench.bar(zeta)).argmax()) == int(bins.value(bench.bar(zeta)).argmax()) == 100


def test_frame_scores_tell_a_frame_that_is_too_bright() -> None:
    source = bench.light(1e5)
    image = bench.bar(TRUE)[0]
    data = _data(1e5)
    scores = _bins(data, 1e5).frame_scores(image)
    assert float(scores.abs().max()) < 4
    frames = data.frames.copy()
    frames[2] += bench.fields(image, source)[2].abs().square().float().numpy()
    odd = _bins(replace(data, frames=frames), 1e5).frame_scores(image)
    assert int(odd.argmax()) == 2
    assert float(odd[2]) > 8


def test_pattern_scores_of_the_truth_are_small_and_tell_frames_at_wrong_positions() -> None:
    data = _data(3e4)
    image = bench.bar(TRUE)[0]
    shuffled = replace(data, frames=np.ascontiguousarray(data.frames[[1, 2, 3, 4, 0]]))
    right, wrong = (_bins(d, 3e4).pattern_scores(image).square().mean() for d in (data, shuffled))
    assert float(right) < 2.5
    assert float(wrong) > 5
