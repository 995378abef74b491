"""Scores of objects against a simulated run's truth."""

from __future__ import annotations

import numpy as np

from app.yardstick import Yardstick
from recon.dataset import Truth
from tests.recon import latentscene as bench


def test_the_phase_is_scored_modulo_a_constant_where_the_calibration_puts_the_object():
    light = bench.light(1e4)
    size, pixel = 200, light.geometry.pixel_size_m
    axis = np.arange(size) - size // 2
    obj = (0.9 * np.exp(0.02j * (axis[:, None] + 0.3 * axis[None, :]) + 0.5j)).astype(np.complex64)
    truth = Truth(
        obj, pixel, light.probe, pixel, light.geometry.distance_m, light.positions_m + np.array([3 * pixel, 0])
    )
    yardstick = Yardstick.build(truth, light, light.indices, 160)
    # The calibration has the positions three pixels lower, so the object is there, too.
    middle = slice(size // 2 - 80, size // 2 + 80)
    moved = obj[middle, middle] * np.exp(-1.1j) * np.exp(0.06j)
    assert yardstick.psnr_db(moved) > 60
    assert yardstick.phase(moved)["phase_error_rad"] < 1e-3
    assert yardstick.phase(np.abs(moved))["phase_error_rad"] > 0.3
    black = Yardstick(np.zeros((4, 4)), np.zeros((4, 4), complex), np.ones((4, 4), bool))
    assert black.phase(np.ones((4, 4))) == {"phase_psnr_db": None, "phase_error_rad": None}
