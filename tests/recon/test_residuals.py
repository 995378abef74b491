"""What a right model leaves unexplained is noise; what a wrong one leaves shows where and when."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.calibrate import Calibration
from recon.dataset import Ptychogram
from recon.illumination import Illumination
from recon.residuals import residuals
from recon.simulated import intensities
from recon.stages import CalibrationSettings
from tests.recon import latentscene as bench

PHOTONS, SIGMA = 2e7, 2.0


def _object() -> NDArray[np.float32]:
    axis = (np.arange(256) - 128) / 40
    amplitude: NDArray[np.float32] = (0.5 + 0.3 * np.cos(axis[:, None]) * np.sin(axis[None])).astype(np.float32)
    return amplitude


def _calibration(light: Illumination, flux: NDArray[np.float64] | None = None) -> Calibration:
    count = len(light.positions_m)
    return Calibration(
        light,
        _object().astype(np.complex64),
        light.probe[None],
        np.ones(count) if flux is None else flux,
        0.0,
        np.zeros(1),
        np.zeros(1),
        np.zeros(1),
        ("full",),
        (),
        bench.FRAME,
        1.0,
        CalibrationSettings(),
    )


@pytest.fixture(scope="module")
def scene() -> tuple[Ptychogram, Illumination]:
    light = bench.light(PHOTONS)
    mean = intensities(light, light.positions_m, _object()) * bench.SECONDS
    generator = torch.Generator().manual_seed(4)
    frames = torch.poisson(mean, generator=generator) + SIGMA * torch.randn(mean.shape, generator=generator)
    shape = (bench.FRAME, bench.FRAME)
    data = Ptychogram(
        frames=frames.numpy(),
        dark_variance=np.full(shape, SIGMA**2, np.float32),
        mask=np.ones(shape, bool),
        positions_m=light.positions_m,
        indices=light.indices,
        exposures_s=np.full(len(frames), bench.SECONDS),
        geometry=light.geometry,
        name="residuals",
    )
    return data, light


def test_a_right_model_leaves_one_everywhere(scene: tuple[Ptychogram, Illumination]) -> None:
    data, light = scene
    left = residuals(data, _calibration(light))
    assert left.frames == pytest.approx(np.ones(5), abs=0.03)
    middle = left.pixels[64:128, 64:128]
    # Five frames: chi-square with five degrees of freedom, over five.
    assert float(middle.mean()) == pytest.approx(1.0, abs=0.05)
    assert float(middle.std()) == pytest.approx((2 / 5) ** 0.5, rel=0.1)
    assert left.odd() == []


def test_a_frame_of_another_flux_stands_out(scene: tuple[Ptychogram, Illumination]) -> None:
    data, light = scene
    left = residuals(data, _calibration(light, np.array([1.0, 1.0, 1.3, 1.0, 1.0])))
    assert left.odd() == [2]
    assert left.frames[[0, 1, 3, 4]] == pytest.approx(np.ones(4), abs=0.03)


def test_a_wrong_distance_leaves_light_in_the_pattern_and_none_outside(
    scene: tuple[Ptychogram, Illumination],
) -> None:
    data, light = scene
    wrong = replace(light, geometry=replace(light.geometry, distance_m=1.05 * bench.DISTANCE))
    left = residuals(data, _calibration(wrong))
    assert float(left.pixels[64:128, 64:128].mean()) > 1.5
    assert float(left.pixels[:20, :20].mean()) == pytest.approx(1.0, abs=0.1)


def test_pixels_that_never_count_are_unknown_and_clipped_ones_are_left_out(
    scene: tuple[Ptychogram, Illumination],
) -> None:
    data, light = scene
    mask = data.mask.copy()
    mask[90, 91] = False
    clipped = np.zeros(data.frames.shape, bool)
    clipped[1, 100, 100] = True
    frames = data.frames.copy()
    frames[1, 100, 100] = 1e5
    left = residuals(replace(data, mask=mask, frames=frames, saturated=clipped), _calibration(light))
    assert np.isnan(left.pixels[90, 91])
    assert left.pixels[100, 100] < 10
    assert left.frames[1] == pytest.approx(1.0, abs=0.03)
