"""Photons one by one against the exact likelihood of every pixel, summed by brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.dataset import Ptychogram
from recon.events import Events, Watch
from recon.observation import Terms
from tests.recon import latentscene as bench

TRUE = torch.tensor([[0.4, -0.7, 0.3, 0.5, 0.2]])
NEAR = TRUE + 0.25 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def _watch(photons: float, mask: np.ndarray | None = None) -> Watch:
    source = bench.light(photons)
    camera = bench.operator(source)
    shape = source.geometry.shape
    good = torch.ones(shape, dtype=torch.bool) if mask is None else torch.from_numpy(mask)
    return Watch.build(camera, bench.light_map(camera), torch.full(shape, bench.READ_NOISE**2), good)


def _data(photons: float, seed: int = 0) -> Ptychogram:
    return bench.measured(bench.bar(TRUE)[0], bench.light(photons), seed)


def _thresholds(watch: Watch) -> Tensor:
    """(N, H, W) on the whole camera, infinite where a pixel is not looked at."""
    light = watch.light
    count, side, (top, left) = light.mean.shape[1], light.side, light.corner
    whole = torch.full((len(watch.operator), bench.FRAME, bench.FRAME), torch.inf)
    whole[:, top : top + count * side, left : left + count * side] = watch.thresholds.reshape(
        len(whole), count * side, count * side
    )
    return whole


def _brute(watch: Watch, data: Ptychogram, images: Tensor, *, censored: bool) -> Tensor:
    """(S,) ln p(X | image) - ln p(X | 0), over the blocks that are looked at."""
    light = watch.light
    end = light.mean.shape[1] * light.side
    rows, columns = (slice(first, first + end) for first in light.corner)
    intensity = watch.operator.fields(images).abs().square()[:, :, rows, columns]
    reading = torch.from_numpy(data.frames)[:, None, rows, columns]
    threshold = _thresholds(watch)[:, None, rows, columns] if censored else None
    counted = None if data.saturated is None else ~torch.from_numpy(data.saturated)[:, None, rows, columns]

    def total(light: Tensor) -> Tensor:
        each = bench.brute_force(light, reading, bench.READ_NOISE, threshold)
        return (each if counted is None else each.where(counted, 0.0)).sum((0, 2, 3))

    return total(intensity) - total(torch.zeros_like(intensity[:, :1]))


@pytest.mark.parametrize(("photons", "tolerance"), [(300, 0.1), (1000, 0.2)])
def test_value_is_that_of_the_censored_pixels(photons: float, tolerance: float) -> None:
    watch, data = _watch(photons), _data(photons)
    images = bench.bar(torch.cat((NEAR, torch.randn(3, 5, generator=torch.Generator().manual_seed(1)))))
    found = watch.count(data).value(images).double()
    true = _brute(watch, data, images, censored=True)
    assert float((found - true).abs().max()) < tolerance
    # Against each other images fare alike to a few hundredths of a nat, of tens.
    assert float((found - true - (found - true).mean()).abs().max()) < 0.03
    assert float(true.max() - true.min()) > 20


def test_bright_pixels_lose_nothing_between_images() -> None:
    # Readings of four electrons: e^80 times likelier with light than without, more than single precision holds.
    watch, data = _watch(3000), _data(3000)
    assert float(data.frames.max()) > 3.8
    images = bench.bar(NEAR)
    apart = watch.count(data).value(images).double() - _brute(watch, data, images, censored=True)
    assert float((apart - apart.mean()).abs().max()) < 0.05


def test_a_very_bright_pixel_stays_finite() -> None:
    watch, data = _watch(3000), _data(3000)
    frames = data.frames.copy()
    frames[0, bench.FRAME // 2, bench.FRAME // 2] = 10.8
    events = watch.count(replace(data, frames=frames))
    zeta = torch.cat((NEAR, TRUE))
    images, jacobians = bench.scene().drawn(zeta)
    for strength in (0.05, 1.0, 4.0):
        terms = events.terms(strength * images, jacobians)
        assert bool(terms.value.isfinite().all())
        assert bool(terms.gradient.isfinite().all())
        assert bool(terms.information.isfinite().all())


def test_censoring_costs_a_few_per_cent_of_the_information() -> None:
    # The spread of the log-likelihood ratio of two images, over frames, is the information that tells them apart.
    watch = _watch(300)
    images = bench.bar(torch.cat((TRUE, TRUE + torch.tensor([[0.5, 0.0, 0.0, 0.0, 0.0]]))))
    ours, full = [], []
    for seed in range(8):
        data = _data(300, seed)
        value = watch.count(data).value(images)
        ours.append(float(value[0] - value[1]))
        exact = _brute(watch, data, images, censored=False)
        full.append(float(exact[0] - exact[1]))
    assert np.mean(full) > 1.0
    assert np.mean(ours) == pytest.approx(np.mean(full), rel=0.06)
    assert np.corrcoef(ours, full)[0, 1] > 0.99


def _terms(events: Events, zeta: Tensor) -> Terms:
    return events.terms(*bench.scene().drawn(zeta))


def test_gradient_is_the_slope_of_the_value() -> None:
    events = _watch(1000).count(_data(1000))
    terms = _terms(events, NEAR)
    assert torch.allclose(terms.value, events.value(bench.bar(NEAR)), rtol=1e-5, atol=1e-3)
    step = 0.02
    for axis in range(5):
        shift = torch.zeros(5)
        shift[axis] = step
        ahead, behind = (events.value(bench.bar(NEAR + sign * shift)).double() for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        assert torch.allclose(terms.gradient[:, axis].double(), slope, rtol=0.02, atol=0.25)


@pytest.mark.parametrize("photons", [300, 3000])
def test_information_is_the_spread_of_the_gradient(photons: float) -> None:
    # E[information] = Cov[gradient] at the truth, by 60 repetitions; one number: the mean ratio in a common basis.
    watch = _watch(photons)
    expected = watch.operator.fields(bench.bar(TRUE))[:, 0].abs().square().numpy()
    rng = np.random.default_rng(5)
    image, jacobian = bench.scene().drawn(TRUE)
    gradients, information = [], []
    for _ in range(60):
        frames = rng.poisson(expected) + rng.normal(0, bench.READ_NOISE, expected.shape)
        terms = watch.count(bench.ptychogram(frames, bench.light(photons))).terms(image, jacobian)
        gradients.append(terms.gradient[0])
        information.append(terms.information[0])
    pulls = torch.stack(gradients)
    mean = torch.stack(information).mean(0)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(mean), pulls.T, upper=False)
    # 300 squares of unit normals: 8 % rms.
    assert float(whitened.square().mean()) == pytest.approx(1.0, abs=0.2)
    assert float(whitened.mean(1).abs().max()) < 4 / 60**0.5


def test_information_is_positive_semi_definite() -> None:
    information = _terms(_watch(300).count(_data(300)), NEAR).information
    assert float(torch.linalg.eigvalsh(information.double()).min()) > -1e-4


def test_a_black_image_gives_zero() -> None:
    events = _watch(1000).count(_data(1000))
    black = torch.zeros(2, bench.SIDE, bench.SIDE)
    assert events.value(black).tolist() == [0.0, 0.0]
    assert _watch(3000).count(_data(3000)).value(black).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e9, -50.0, 0.0])
def test_masked_pixels_do_not_matter_whatever_they_hold(junk: float) -> None:
    mask = np.ones((bench.FRAME, bench.FRAME), bool)
    mask[90:99, 93:101] = False
    mask[0, 0] = False
    data = replace(_data(1000), mask=mask)
    frames = data.frames.copy()
    frames[:, ~mask] = junk
    watch = _watch(1000, mask)
    images = bench.bar(NEAR)
    clean, dirty = watch.count(data), watch.count(replace(data, frames=frames))
    assert torch.equal(clean.value(images), dirty.value(images))
    assert clean.electrons == dirty.electrons
    assert torch.equal(clean.frame_scores(images[0]), dirty.frame_scores(images[0]))


def test_masked_pixels_variance_does_not_matter() -> None:
    mask = np.ones((bench.FRAME, bench.FRAME), bool)
    mask[90:99, 93:101] = False
    data = replace(_data(1000), mask=mask)
    clean = _watch(1000, mask)
    variance = torch.full(mask.shape, bench.READ_NOISE**2)
    variance[~torch.from_numpy(mask)] = torch.nan
    dirty = Watch.build(clean.operator, clean.light, variance, torch.from_numpy(mask))
    images = bench.bar(NEAR)
    assert torch.equal(clean.count(data).value(images), dirty.count(data).value(images))
    scores = dirty.count(data).frame_scores(images[0])
    assert torch.equal(scores, clean.count(data).frame_scores(images[0]))


@pytest.mark.parametrize("junk", [np.nan, 1e6, 3.0])
def test_clipped_pixels_are_left_out_of_their_frame(junk: float) -> None:
    watch, data = _watch(1000), _data(1000)
    clipped = np.zeros(data.frames.shape, bool)
    clipped[0, 95:98, 90:97] = True
    clipped[3, 99, 99] = True
    frames = np.where(clipped, np.float32(junk), data.frames)
    spoilt = replace(data, frames=frames, saturated=clipped)
    images = bench.bar(NEAR)
    found = watch.count(spoilt).value(images).double()
    true = _brute(watch, replace(data, saturated=clipped), images, censored=True)
    assert float((found - true).abs().max()) < 0.2
    whole = watch.count(data).value(images).double()
    assert float((found - whole).abs().max()) > 0.5


def test_no_clipped_pixel_changes_nothing() -> None:
    watch, data = _watch(1000), _data(1000)
    images = bench.bar(NEAR)
    none = replace(data, saturated=np.zeros(data.frames.shape, bool))
    assert torch.equal(watch.count(none).value(images), watch.count(data).value(images))


def test_a_repeated_count_leaves_the_watch_alone() -> None:
    watch, data = _watch(1000), _data(1000)
    before = watch.quadratic.each.clone()
    clipped = np.zeros(data.frames.shape, bool)
    clipped[:, 95:98, 95:98] = True
    watch.count(replace(data, saturated=clipped))
    assert torch.equal(watch.quadratic.each, before)


def test_the_order_of_the_frames_does_not_matter() -> None:
    order = np.array([3, 0, 4, 2, 1])
    source, data = bench.light(1000), _data(1000)
    turned = bench.operator(replace(source, positions_m=source.positions_m[order]))
    watch = Watch.build(
        turned, bench.light_map(turned), torch.from_numpy(data.dark_variance), torch.from_numpy(data.mask)
    )
    here, there = _terms(_watch(1000).count(data), NEAR), _terms(watch.count(data.select(order)), NEAR)
    assert torch.allclose(here.value, there.value, rtol=1e-6, atol=2e-3)
    assert torch.allclose(here.gradient, there.gradient, rtol=1e-4, atol=2e-2)
    assert torch.allclose(here.information, there.information, rtol=1e-3, atol=0.1)


def test_frames_without_any_event_are_dark() -> None:
    watch, data = _watch(300), _data(300)
    events = watch.count(replace(data, frames=np.zeros_like(data.frames)))
    assert events.counts == [0] * len(data)
    value = events.value(bench.bar(NEAR))
    assert float(value.max()) < -10
    assert bool(_terms(events, NEAR).gradient.isfinite().all())


def test_quick_keeps_the_likeliest_events_and_ranks_alike() -> None:
    events = _watch(1000).count(_data(1000))
    quick = events.quick()
    most = max(quick.counts)
    assert most < max(events.counts)
    assert torch.equal(quick.rows[:, :most], events.rows[:, :most])
    zeta = torch.randn(200, 5, generator=torch.Generator().manual_seed(2))
    images = bench.bar(torch.cat((zeta, TRUE)))
    assert int(quick.value(images).argmax()) == int(events.value(images).argmax()) == 200


def test_frame_scores_of_the_truth_are_unit_normals_and_others_are_not() -> None:
    watch = _watch(300)
    image = bench.bar(TRUE)[0]
    scores = torch.cat([watch.count(_data(300, seed)).frame_scores(image) for seed in range(8)])
    assert abs(float(scores.mean())) < 4 / len(scores) ** 0.5
    assert 0.6 < float(scores.std()) < 1.3
    five_times = watch.count(_data(1500)).frame_scores(image)
    # Read noise of ten thousand pixels, 30 electrons, is what keeps it from more.
    assert float(five_times.mean()) > 3


def test_pattern_scores_of_the_truth_are_at_most_unit_normals() -> None:
    watch = _watch(300)
    image = bench.bar(TRUE)[0]
    scores = torch.cat([watch.count(_data(300, seed)).pattern_scores(image) for seed in range(8)])
    assert abs(float(scores.mean())) < 4 / len(scores) ** 0.5
    # An error of the light of a tenth is allowed for beside the photons' noise.
    assert 0.5 < float(scores.std()) < 1.2


def test_pattern_scores_tell_frames_at_wrong_positions() -> None:
    watch, data = _watch(1000), _data(1000)
    image = bench.bar(TRUE)[0]
    shuffled = replace(data, frames=np.ascontiguousarray(data.frames[[1, 2, 3, 4, 0]]))
    right, wrong = (watch.count(d).pattern_scores(image).square().mean() for d in (data, shuffled))
    assert float(right) < 2.5
    assert float(wrong) > 5 * float(right)
    assert float(wrong) > 5


def test_pattern_scores_leave_clipped_pixels_out() -> None:
    watch, data = _watch(1000), _data(1000)
    image = bench.bar(TRUE)[0]
    clipped = np.zeros(data.frames.shape, bool)
    clipped[:, 90:99, 93:101] = True
    frames = data.frames.copy()
    frames[clipped] = 9.0
    events = watch.count(replace(data, frames=frames, saturated=clipped))
    assert torch.allclose(
        events.pattern_scores(image), watch.count(replace(data, saturated=clipped)).pattern_scores(image)
    )
    assert float(events.pattern_scores(image).square().mean()) < 2.5
