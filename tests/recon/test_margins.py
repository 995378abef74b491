"""Offset and read noise that have drifted since the darks, seen in what surrounds the light."""

from __future__ import annotations

import numpy as np
import pytest

from recon.dataset import Geometry, Ptychogram
from recon.margins import by_margins

SIDE, WINDOW, FRAMES = 160, 96, 6


def _data(offset: float = 0.0, noise: float = 0.3, light: float = 200.0, said: float = 0.3) -> Ptychogram:
    rng = np.random.default_rng(5)
    mean = np.zeros((SIDE, SIDE))
    middle = slice(SIDE // 2 - 20, SIDE // 2 + 20)
    mean[middle, middle] = light / 1600
    frames = rng.poisson(mean, (FRAMES, SIDE, SIDE)) + rng.normal(offset, noise, (FRAMES, SIDE, SIDE))
    mask = np.ones((SIDE, SIDE), bool)
    mask[3, 5] = False
    frames[:, 3, 5] = 900.0
    return Ptychogram(
        frames=frames.astype(np.float32),
        dark_variance=np.full((SIDE, SIDE), said**2, np.float32),
        mask=mask,
        positions_m=np.zeros((FRAMES, 2)),
        indices=np.arange(FRAMES),
        exposures_s=np.full(FRAMES, 0.01),
        geometry=Geometry(561e-9, 0.08, 3.45e-6, (SIDE, SIDE)),
        name="margins.h5",
    )


def test_frames_that_agree_with_the_darks_are_left_as_they_are() -> None:
    data = _data()
    found = by_margins(data, WINDOW)
    assert not found.corrected
    assert found.data is data
    assert found.noise is not None
    assert found.noise.read_noise_e == pytest.approx(0.3, rel=0.01)
    assert "agree with the darks" in found.reason


@pytest.mark.parametrize("offset", [0.02, -0.05])
def test_a_drifted_offset_is_subtracted(offset: float) -> None:
    found = by_margins(_data(offset), WINDOW)
    assert found.corrected
    assert found.noise is not None
    assert found.noise.offset_e == pytest.approx(offset, abs=0.003)
    outside = found.data.frames[:, :30]
    assert float(np.median(outside)) == pytest.approx(0.0, abs=0.004)
    assert np.array_equal(found.data.dark_variance, _data().dark_variance)
    assert "offset" in found.reason


def test_another_read_noise_takes_the_darks_place() -> None:
    found = by_margins(_data(noise=0.33), WINDOW)
    assert found.corrected
    assert float(np.sqrt(found.data.dark_variance[0, 0])) == pytest.approx(0.33, rel=0.01)
    assert "0.33 e- in place of the darks' 0.3" in found.reason


def test_in_good_light_the_margin_is_not_dark_and_nothing_is_done() -> None:
    data = _data(offset=0.05, light=2e5)
    found = by_margins(data, WINDOW)
    assert found.data is data
    assert found.noise is None
    assert "also light the margin" in found.reason


def test_a_window_as_large_as_the_frame_leaves_no_margin() -> None:
    data = _data(offset=0.05)
    found = by_margins(data, SIDE)
    assert found.data is data
    assert "the darks' values stand: margins.h5: 0 pixels" in found.reason
