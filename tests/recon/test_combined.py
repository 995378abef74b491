"""Several exposures in one likelihood."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.bins import Bins
from recon.combined import Sets, combined, stops, together
from recon.dataset import Ptychogram
from recon.events import Events
from tests.recon import latentscene as bench
from tests.recon.test_estimator import DRAWS, _estimator

PHOTONS = 300


def _exposure(times: float, seed: int, noise: float = bench.READ_NOISE) -> Ptychogram:
    seconds = times * bench.SECONDS
    return bench.measured(bench.bar(DRAWS[:1])[0], bench.light(PHOTONS), seed, noise, seconds)


def test_one_exposure_is_the_plain_estimate_to_the_last_bit() -> None:
    data = _exposure(1, 0)
    plain, alone = _estimator(PHOTONS).estimate(data), combined(_estimator(PHOTONS), [data])
    assert np.array_equal(plain.mean, alone.mean)
    assert plain.log_evidence == alone.log_evidence


def test_exposures_together_tell_more_than_each_alone() -> None:
    estimator = _estimator(PHOTONS)
    parts = [_exposure(1, 0), _exposure(2, 1)]
    alone = [estimator.estimate(part) for part in parts]
    both = combined(estimator, parts)
    assert both.log_evidence > max(found.log_evidence for found in alone) + 10
    assert both.spread.mean() < min(found.spread.mean() for found in alone)
    assert both.counting == "events"
    assert len(both.frame_scores) == 2 * len(bench.POSITIONS)


def test_where_read_noise_half_hides_electrons_pixels_are_looked_at_one_by_one() -> None:
    estimator = _estimator(PHOTONS)
    parts = [_exposure(1, 0, 0.7), _exposure(2, 1, 0.7)]
    sets = Sets.of(estimator, parts)
    whole, _ = sets.through(sets.operator(estimator))
    assert whole.counting == "pixels"
    assert isinstance(whole, Bins)
    images = bench.bar(DRAWS[:3])
    total = sum(
        replace(sets, parts=(p,), light=sets.light.select(range(5 * k, 5 * k + 5)))
        .through(sets.operator(estimator).select(list(range(5 * k, 5 * k + 5))))[0]
        .value(images)
        for k, p in enumerate(parts)
    )
    # Alone, a set looks at bins that its own light makes worth while.
    assert torch.allclose(whole.value(images), total, rtol=0.02)
    bright = parts[1].frames.copy()
    bright[0, 3, 4] = 30.0
    assert Sets.of(estimator, [parts[0], replace(parts[1], frames=bright)]).likelihood.name == "shifted-poisson"


def test_the_likelihood_is_the_sum_of_theirs() -> None:
    estimator = _estimator(PHOTONS)
    mask = np.ones((bench.FRAME, bench.FRAME), bool)
    mask[:, ::7] = False
    parts = [_exposure(1, 0, 0.25), replace(_exposure(2, 1), mask=mask)]
    sets = Sets.of(estimator, parts)
    operator = sets.operator(estimator)
    whole, _ = sets.through(operator)
    images = bench.bar(DRAWS[:3])
    first = 0
    total = torch.zeros(3)
    for part in parts:
        frames = list(range(first, first + len(part)))
        single = replace(sets, parts=(part,), light=sets.light.select(frames))
        total += single.through(operator.select(frames))[0].value(images)
        first += len(part)
    assert isinstance(whole, Events)
    assert torch.allclose(whole.value(images), total, atol=1e-2)


def test_one_bright_exposure_puts_all_in_bins() -> None:
    estimator = _estimator(PHOTONS)
    sets = Sets.of(estimator, [_exposure(1, 0), _exposure(300, 1)])
    whole, _ = sets.through(sets.operator(estimator))
    assert isinstance(whole, Bins)
    assert len(whole.counts) == 2 * len(bench.POSITIONS)


def test_a_stop_is_a_visit_of_a_point() -> None:
    one = _exposure(1, 0)
    twice = replace(together([one, one]), indices=np.concatenate([one.indices, one.indices]))
    assert stops([one, one]).tolist() == [0, 1, 2, 3, 4] * 2
    assert len(np.unique(stops([twice]))) == 10
    assert np.array_equal(stops([twice, twice])[:10], stops([twice, twice])[10:])


def test_clipped_pixels_stay_with_their_frames() -> None:
    clipped = np.zeros((5, 192, 192), bool)
    clipped[2, 90, 90] = True
    parts = [_exposure(1, 0), replace(_exposure(2, 1), saturated=clipped)]
    whole = together(parts)
    assert whole.saturated is not None
    assert np.argwhere(whole.saturated).tolist() == [[7, 90, 90]]
    assert together(parts[:1]) is parts[0]


def test_frames_of_other_shapes_are_refused() -> None:
    data = _exposure(1, 0)
    with pytest.raises(ValueError, match="crop them"):
        combined(_estimator(PHOTONS), [data, data.crop((128, 128))])
