"""A posterior that follows frames as they come, against estimates of all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.bins import Bins
from recon.dataset import Ptychogram
from recon.estimator import LatentEstimator
from recon.latent import LatentSettings
from recon.tracker import Tracker
from tests.recon import latentscene as bench
from tests.recon.test_estimator import DRAWS, _estimator

PHOTONS = 1500


@pytest.fixture(scope="module")
def estimator() -> LatentEstimator:
    return replace(_estimator(PHOTONS), settings=LatentSettings(starts=12, proposals=512, chains=128))


@pytest.fixture(scope="module")
def data() -> Ptychogram:
    return bench.measured(bench.bar(DRAWS[:1])[0], bench.light(PHOTONS), 3)


def _tracker(estimator: LatentEstimator, data: Ptychogram) -> Tracker:
    return Tracker.of(estimator, data.indices, data.exposures_s, data.dark_variance, data.mask)


def test_frame_by_frame_it_comes_to_what_all_frames_together_give(estimator: LatentEstimator, data: Ptychogram) -> None:
    tracker = _tracker(estimator, data)
    followed = []
    for k in (2, 0, 4, 1, 3):
        found = tracker.add(data.select(np.array([k])))
        followed.append(found.followed)
    # Searched anew when the frames have doubled: at 1, 2 and 4 of 5 at the latest.
    assert followed[0] == followed[1] == followed[3] == 0
    assert followed[4] == 1
    assert tracker.frames == 5
    whole = estimator.estimate(data)
    spread = float(np.sqrt(np.square(whole.spread).mean()))
    assert float(np.sqrt(np.square(found.mean - whole.mean).mean())) < 0.35 * spread
    assert float(np.sqrt(np.square(found.spread).mean())) == pytest.approx(spread, rel=0.2)
    assert found.log_evidence == pytest.approx(whole.log_evidence, abs=0.5)
    assert found.electrons == pytest.approx(whole.electrons, rel=0.02)
    assert found.verdict.word is whole.verdict.word


def test_settled_it_is_the_estimate_of_all_frames(estimator: LatentEstimator, data: Ptychogram) -> None:
    tracker = _tracker(estimator, data)
    for k in range(5):
        tracker.add(data.select(np.array([k])))
    settled, whole = tracker.settled(), estimator.estimate(data)
    assert settled.followed == 0
    assert np.allclose(settled.mean, whole.mean, atol=2e-2)
    assert settled.log_evidence == pytest.approx(whole.log_evidence, abs=0.2)


def test_several_frames_at_once_are_as_good(estimator: LatentEstimator, data: Ptychogram) -> None:
    tracker = _tracker(estimator, data)
    assert tracker.add(data).mean == pytest.approx(estimator.estimate(data).mean, abs=1e-4)


def test_a_frame_that_is_not_planned_is_refused_and_loses_nothing(estimator: LatentEstimator, data: Ptychogram) -> None:
    tracker = _tracker(estimator, data.select(np.arange(4)))
    tracker.add(data.select(np.array([0])))
    with pytest.raises(ValueError, match=r"point 4 of 0\.01 s is not planned; planned are 4 frames"):
        tracker.add(data.select(np.array([4])))
    with pytest.raises(ValueError, match=r"of 0\.02 s is not planned"):
        tracker.add(replace(data, exposures_s=2 * data.exposures_s).select(np.array([1])))
    assert tracker.frames == 1
    tracker.add(data.select(np.array([1])))
    assert tracker.frames == 2


def test_before_any_frame_there_is_nothing_to_settle(estimator: LatentEstimator, data: Ptychogram) -> None:
    with pytest.raises(ValueError, match="no frame has come yet"):
        _tracker(estimator, data).settled()


def test_a_bright_pixel_turns_all_frames_into_bins(estimator: LatentEstimator, data: Ptychogram) -> None:
    tracker = _tracker(estimator, data)
    dim = tracker.add(data.select(np.array([0])))
    assert dim.counting == "events"
    frames = data.frames.copy()
    frames[1, 96, 96] = 30.0
    bright = replace(data, frames=frames)
    found = tracker.add(bright.select(np.array([1])))
    assert found.counting == "bins"
    assert tracker.frames == 2
    assert isinstance(tracker._observation, Bins)
    assert len(tracker._observation.counts) == 2
    # Frames that follow go the same way, dim as they are.
    assert tracker.add(data.select(np.array([2]))).counting == "bins"


def test_pixels_one_by_one_are_followed_too(estimator: LatentEstimator) -> None:
    data = bench.measured(bench.bar(DRAWS[:1])[0], bench.light(PHOTONS), 3, read_noise=0.7)
    tracker = _tracker(estimator, data)
    for k in range(3):
        found = tracker.add(data.select(np.array([k])))
        assert found.counting == "pixels"
    assert found.followed == 1
    whole = estimator.estimate(data.select(np.arange(3)))
    spread = float(np.sqrt(np.square(whole.spread).mean()))
    assert float(np.sqrt(np.square(found.mean - whole.mean).mean())) < 0.5 * spread
    frames = data.frames.copy()
    frames[1, 96, 96] = 30.0
    bright = tracker.add(replace(data, frames=frames).select(np.array([1])))
    assert bright.counting == "bins"
    assert tracker.frames == 4


def test_following_is_deterministic(estimator: LatentEstimator, data: Ptychogram) -> None:
    means = []
    for _ in range(2):
        tracker = _tracker(estimator, data)
        for k in range(3):
            found = tracker.add(data.select(np.array([k])))
        means.append(found.mean)
    assert np.array_equal(*means)
    assert torch.is_tensor(tracker._scores)


def test_what_it_expects_of_its_frames_needs_no_preparation_of_its_own(
    estimator: LatentEstimator, data: Ptychogram
) -> None:
    tracker = _tracker(estimator, data)
    found = tracker.add(data.select(np.array([3, 1])))
    # The same place again: its light counts twice.
    tracker.add(data.select(np.array([1])))
    before = list(estimator._prepared)
    expected = tracker.expected(found.mean)
    assert list(estimator._prepared) == before
    own = [estimator.expected(data.select(np.array([k])), found.mean) for k in (3, 1, 1)]
    assert np.allclose(expected, sum(own), rtol=1e-4, atol=1e-6)
