"""Error bars of a hybrid image: true in the light, the decoder's in the dark."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from recon.illumination import illuminated
from recon.reconstruct import Reconstruction
from recon.rehearsal import AVERAGED, UNLIT, averaged, rehearse
from tests.recon import latentscene as bench
from tests.recon.test_hybrid import grown, looked_at, mask

DARK, LIGHT = 40.0, 1e5


@pytest.fixture(scope="module")
def seen():
    """By photons: light, frames, posterior and hybrid image of a hard-edged bar."""
    torch.set_num_threads(1)
    return {photons: looked_at(photons) for photons in (DARK, LIGHT)}


@pytest.fixture(scope="module")
def rehearsed(seen):
    return {
        photons: rehearse(data, source, posterior, bench.FIELD, both, 4)
        for photons, (source, data, posterior, both) in seen.items()
    }


def test_in_the_light_the_deviation_is_the_error(seen, rehearsed):
    source, _, _, both = seen[LIGHT]
    lit = illuminated(source.probe, source.positions_m / bench.PIXEL, len(both.object))
    error = (both.object.real - grown(mask(), len(both.object)))[lit]
    deviation = rehearsed[LIGHT].deviation[lit]
    assert np.sqrt(np.square(error).mean() / np.square(deviation).mean()) == pytest.approx(1.0, abs=0.35)
    # It knows where the errors are, at the edges.
    assert np.corrcoef(np.abs(error), deviation)[0, 1] > 0.4
    assert rehearsed[LIGHT].followed < 0.1


def test_in_the_dark_the_decoders_deviation_counts(seen, rehearsed):
    _, _, posterior, both = seen[DARK]
    assert rehearsed[DARK].followed > 0.5
    size = len(both.object)
    least = min(1.0, rehearsed[DARK].followed / UNLIT) * grown(posterior.deviation, size)
    inside = least > 0.01
    assert (rehearsed[DARK].deviation >= 0.99 * least)[inside].all()
    assert rehearsed[DARK].deviation.mean() > 2 * rehearsed[LIGHT].deviation.mean()


def test_one_seed_is_one_answer(seen, rehearsed):
    source, data, posterior, both = seen[DARK]
    again, other = (rehearse(data, source, posterior, bench.FIELD, both, 4, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.deviation, rehearsed[DARK].deviation)
    assert not np.array_equal(other.deviation, again.deviation)
    assert other.deviation.mean() == pytest.approx(again.deviation.mean(), rel=0.3)


def test_it_can_be_stopped_and_the_finished_ones_count(seen):
    source, data, posterior, both = seen[DARK]
    told = []
    found = rehearse(
        data, source, posterior, bench.FIELD, both, 5,
        report=lambda done, members: told.append((done, members)), stop=lambda: len(told) == 2,
    )  # fmt: skip
    assert told == [(1, 5), (2, 5)]
    assert found.members == 2
    assert rehearse(data, source, posterior, bench.FIELD, both, 5, stop=lambda: True).members == 1


def test_other_methods_and_no_members_are_refused(seen):
    source, data, posterior, both = seen[DARK]
    other: Reconstruction = replace(both, method="conventional")
    with pytest.raises(ValueError, match="hybrid"):
        rehearse(data, source, posterior, bench.FIELD, other)
    with pytest.raises(ValueError, match="at least 1"):
        rehearse(data, source, posterior, bench.FIELD, both, 0)


def test_beside_large_squares_there_are_no_negative_ones():
    squares = np.zeros((64, 64))
    squares[:, :20] = np.random.default_rng(0).exponential(1.0, (64, 20))
    assert uniform_filter(squares, AVERAGED).min() < 0
    mean = averaged(squares)
    assert mean.min() == 0
    half = AVERAGED // 2
    around = squares[10 - half : 11 + half, 10 - half : 11 + half]
    assert len(around) == AVERAGED
    assert mean[10, 10] == pytest.approx(around.mean())
