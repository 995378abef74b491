"""Complex truths of the benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from app.studies.objects import Pose, mask_amplitude
from benchmarks.complex_objects import SCENE, complex_drawn, mask_drawn
from recon.decoders.pairs import RELIEF_RAD, paired, transmission


@pytest.fixture(scope="module")
def bar() -> np.ndarray:
    """(32, 32) a slanted stroke with soft edges."""
    y, x = (np.indices((32, 32)) - 15.5) / 16
    return (1 / (1 + np.exp(30 * (np.abs(x - 0.4 * y) - 0.15))) * (np.abs(y) < 0.6)).astype(np.float32)


def test_a_mask_with_relief_is_the_studies_mask_where_its_phase_is_smooth(bar):
    obj, amplitude = mask_drawn(bar), mask_amplitude(bar, Pose.nominal(), SCENE)
    assert obj.shape == (SCENE.size, SCENE.size)
    # A mean of phases is shorter than the mean: less than a percent over a quarter of a pixel.
    assert np.abs(np.abs(obj) - amplitude).max() < 0.02
    assert (np.abs(obj) <= amplitude + 1e-6).all()


def test_its_relief_is_that_of_the_pairs(bar):
    fine, coarse = mask_drawn(bar), complex_drawn(transmission(paired(bar[None]), RELIEF_RAD)[0])
    bright = (np.abs(fine) > 0.99) & (np.abs(coarse) > 0.9)
    assert bright.sum() > 500
    apart = np.angle(fine * coarse.conj())[bright]
    assert np.sqrt(np.square(apart).mean()) < 0.25
    assert np.ptp(np.angle(fine[bright])) > 1.5
