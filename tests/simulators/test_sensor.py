"""The sensor against its formulae."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulators.sensor import HOT_DARK_CURRENT_E_S, Sensor

SENSOR = Sensor(
    shape=(200, 250),
    quantum_efficiency=0.65,
    read_noise_e=2.3,
    dark_current_e_s=30.0,
    electrons_per_adu=0.5,
    black_level_adu=40,
    bit_depth=12,
    full_well_e=1500,
)
PIXELS = 200 * 250


def rng(index=0):
    return np.random.default_rng([7, index])


@pytest.mark.parametrize("photons_per_second", [0.0, 1.0, 20.0, 400.0])
def test_mean_and_variance(photons_per_second):
    exposure = 2.0
    frame = SENSOR.expose(np.full(SENSOR.shape, photons_per_second, np.float32), exposure, rng())
    assert frame.dtype == np.uint16
    electrons = (frame.astype(float) - 40) * 0.5
    mean = (0.65 * photons_per_second + 30) * exposure
    variance = mean + 2.3**2 + 0.5**2 / 12
    assert electrons.mean() == pytest.approx(mean, abs=5 * np.sqrt(variance / PIXELS))
    assert electrons.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / PIXELS))


def test_dark_is_the_same_as_no_photons():
    dark = SENSOR.expose(None, 2.0, rng()).astype(float)
    none = SENSOR.expose(np.zeros(SENSOR.shape, np.float32), 2.0, rng()).astype(float)
    assert dark.mean() == pytest.approx(none.mean(), abs=0.5)
    assert dark.std() == pytest.approx(none.std(), rel=0.03)


def test_black_level_keeps_negative_noise():
    sensor = replace(SENSOR, dark_current_e_s=0.0)
    frame = sensor.expose(None, 1.0, rng())
    assert frame.mean() == pytest.approx(40, abs=0.1)
    assert frame.min() < 40
    assert (replace(sensor, black_level_adu=0.0).expose(None, 1.0, rng()) == 0).mean() > 0.45


def test_full_well_and_code_range():
    bright = np.full(SENSOR.shape, 1e5, np.float32)
    well = SENSOR.expose(bright, 1.0, rng())
    assert well.mean() == pytest.approx(1500 / 0.5 + 40, abs=0.1)
    assert well.max() < 4095
    code = replace(SENSOR, full_well_e=1e5).expose(bright, 1.0, rng())
    assert (code == 4095).all()


def test_same_seed_same_frame():
    light = np.full(SENSOR.shape, 5.0, np.float32)
    assert np.array_equal(SENSOR.expose(light, 1.0, rng(3)), SENSOR.expose(light, 1.0, rng(3)))
    assert not np.array_equal(SENSOR.expose(light, 1.0, rng(3)), SENSOR.expose(light, 1.0, rng(4)))


def test_hot_pixels_glow_and_stay_where_they_are():
    sensor = replace(SENSOR, dark_current_e_s=0.0, full_well_e=1e9, bit_depth=16).with_hot_pixels(5, rng())
    assert sensor == replace(SENSOR, dark_current_e_s=0.0, full_well_e=1e9, bit_depth=16).with_hot_pixels(5, rng())
    assert len(sensor.hot_pixels) == 5
    low, high = HOT_DARK_CURRENT_E_S
    assert all(low <= current <= high for current in sensor.hot_current_e_s)
    electrons = (sensor.expose(None, 0.5, rng(1)).astype(float).ravel() - 40) * 0.5
    found = np.flatnonzero(electrons > 60)
    assert tuple(found) == sensor.hot_pixels
    current = np.array(sensor.hot_current_e_s)
    assert electrons[found] == pytest.approx(current * 0.5, abs=6 * np.sqrt(current.max() * 0.5))
