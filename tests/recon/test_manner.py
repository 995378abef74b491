"""Which manner a sensor and its frames are looked at in."""

from __future__ import annotations

import numpy as np
import pytest

from recon.dataset import Ptychogram
from recon.manner import Manner, read_noise_e
from tests.recon import latentscene as bench


@pytest.mark.parametrize(
    ("read_noise", "brightest", "manner"),
    [
        (0.3, 0.1, "events"),
        (0.45, 0.4, "events"),
        (0.46, 0.1, "pixels"),
        (1.5, 0.4, "pixels"),
        (1.6, 0.1, "bins"),
        (0.3, 0.5, "pixels"),
        (0.7, 4.0, "pixels"),
        (0.3, 4.1, "bins"),
        (0.05, 0.5, "bins"),
    ],
)
def test_it_goes_by_read_noise_and_light(read_noise: float, brightest: float, manner: str) -> None:
    assert Manner.planned(read_noise, brightest) == manner


@pytest.mark.parametrize(
    ("manner", "read_noise", "name"),
    [
        (Manner.PIXELS, 0.7, "exact"),
        (Manner.BINS, 0.3, "shifted-poisson"),
        (Manner.BINS, 1.5, "shifted-poisson"),
        (Manner.BINS, 2.3, "mixed"),
    ],
)
def test_what_is_summed_goes_by_read_noise(manner: Manner, read_noise: float, name: str) -> None:
    assert manner.summed(read_noise).name == name


def _data(highest: float) -> Ptychogram:
    frames = np.zeros((5, bench.FRAME, bench.FRAME))
    frames[2, 10, 20] = highest
    return bench.ptychogram(frames, bench.light(1000))


@pytest.mark.parametrize(("manner", "most"), [(Manner.EVENTS, 11), (Manner.PIXELS, 24)])
def test_a_bright_reading_calls_for_bins(manner: Manner, most: float) -> None:
    assert manner.met(_data(most - 0.1)) is manner
    assert manner.met(_data(most + 0.1)) is Manner.BINS
    assert Manner.BINS.met(_data(most - 0.1)) is Manner.BINS


def test_readings_that_do_not_count_call_for_nothing() -> None:
    data = _data(1000.0)
    data.mask[10, 20] = False
    assert Manner.PIXELS.met(data) is Manner.PIXELS


def test_the_typical_pixel_says_the_read_noise() -> None:
    variance, mask = np.full((8, 8), 0.49, np.float32), np.ones((8, 8), bool)
    variance[0], mask[0] = np.nan, False
    variance[1, :3] = 100.0
    assert read_noise_e(variance, mask) == pytest.approx(0.7)
